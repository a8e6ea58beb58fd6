"""The cameras a data set is rendered from, by name.

Objects are in the unit box; cameras look at the origin from 1.5 away, through a 35 mm lens on a 32 mm
sensor (the setting of the SyncDreamer renders, which DiMViS and Hi3D follow).
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import torch

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.types import Cameras

ProtocolName = Literal["orbit16", "random"]
ELEVATION_DEG = 30.0
RANDOM_ELEVATIONS_DEG = (-10.0, 40.0)


def protocol_cameras(
    protocol: ProtocolName, size: int, *, name: str = "", seed: int = 0, num_views: int = 16
) -> Cameras:
    """The cameras of one object, `size` pixels a side.

    orbit16: azimuths 0, 22.5, ..., elevation 30 degrees; `name`, `seed` and `num_views` (16) do not matter.
    random: `num_views` independent cameras, azimuth uniform on the circle, elevation uniform in [-10, 40]
    degrees, drawn from `seed` and the object's `name` alone, so that the other objects of a data set change
    nothing. Raises `InputError` for another protocol, a size below 8 and a number of views the protocol
    does not have.
    """
    check_protocol(protocol, num_views)
    if not 8 <= size <= 8192:
        raise InputError("size", size, "expected 8 to 8192 pixels")
    if protocol == "orbit16":
        return orbit(16, ELEVATION_DEG, size=size)
    rng = np.random.default_rng(object_seed(name, seed))
    azimuth = rng.uniform(0, 360, num_views)
    elevation = rng.uniform(*RANDOM_ELEVATIONS_DEG, num_views)
    return sphere_cameras(torch.from_numpy(azimuth), torch.from_numpy(elevation), size=size)


def check_protocol(protocol: str, num_views: int) -> None:
    """Raise `InputError` unless the protocol exists and can give `num_views` views."""
    if protocol not in get_args(ProtocolName):
        raise InputError("protocol", protocol, "expected " + " or ".join(get_args(ProtocolName)))
    if protocol == "orbit16" and num_views != 16:
        raise InputError("num_views", num_views, "the protocol orbit16 has 16 views")
    if num_views < 1:
        raise InputError("num_views", num_views, "expected at least 1")


def object_seed(name: str, seed: int) -> int:
    """A 64-bit seed from an object's name and the run's seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
