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

ProtocolName = Literal["orbit16", "orbit32", "random"]
ELEVATION_DEG = 30.0
RANDOM_ELEVATIONS_DEG = (-10.0, 40.0)
HELD_OUT_ELEVATIONS_DEG = (15.0, 45.0)
_GOLDEN = (5**0.5 - 1) / 2


def protocol_cameras(
    protocol: ProtocolName,
    size: int,
    *,
    name: str = "",
    seed: int = 0,
    num_views: int = 16,
    elevation_deg: float = ELEVATION_DEG,
) -> Cameras:
    """The cameras of one object, `size` pixels a side.

    orbit16: azimuths 0, 22.5, ..., elevation 30 degrees or another; `name`, `seed` and `num_views` do not
    matter.
    orbit32: those, and 16 more at the azimuths half-way between and elevations from 15 to 45 degrees, spread
    so that neighbours differ; see `held_out`. random: `num_views` independent cameras, azimuth uniform on
    the circle, elevation uniform in [-10, 40] degrees, drawn from `seed` and the object's `name` alone, so
    that the other objects of a data set change nothing. Raises `InputError` for another protocol, a size
    below 8, a number of views the protocol does not have, and an elevation that is not for it.
    """
    check_protocol(protocol, num_views)
    if protocol != "orbit16" and elevation_deg != ELEVATION_DEG:
        raise InputError("elevation", elevation_deg, f"{protocol} has its own; it is for orbit16")
    if not -90 <= elevation_deg <= 90:
        raise InputError("elevation", elevation_deg, "expected -90 to 90 degrees")
    if not 8 <= size <= 8192:
        raise InputError("size", size, "expected 8 to 8192 pixels")
    if protocol == "orbit16":
        return orbit(16, elevation_deg, size=size)
    if protocol == "orbit32":
        steps = torch.arange(16, dtype=torch.float64)
        low, high = HELD_OUT_ELEVATIONS_DEG
        # Multiples of the golden ratio modulo 1 cover the interval evenly, in no order.
        between = low + (high - low) * ((steps + 0.5) * _GOLDEN % 1)
        azimuth = torch.cat((steps, steps + 0.5)) * 22.5
        elevation = torch.cat((torch.full_like(steps, ELEVATION_DEG), between))
        return sphere_cameras(azimuth, elevation, size=size)
    rng = np.random.default_rng(object_seed(name, seed))
    azimuth = rng.uniform(0, 360, num_views)
    elevation = rng.uniform(*RANDOM_ELEVATIONS_DEG, num_views)
    return sphere_cameras(torch.from_numpy(azimuth), torch.from_numpy(elevation), size=size)


def held_out(protocol: ProtocolName, num_views: int) -> torch.Tensor:
    """bool [num_views]: the views that a scene's split gives to nobody but the scores (the last 16 of
    orbit32)."""
    chosen = torch.zeros(num_views, dtype=torch.bool)
    if protocol == "orbit32":
        chosen[16:] = True
    return chosen


def check_protocol(protocol: str, num_views: int) -> None:
    """Raise `InputError` unless the protocol exists and can give `num_views` views."""
    if protocol not in get_args(ProtocolName):
        raise InputError("protocol", protocol, "expected " + " or ".join(get_args(ProtocolName)))
    if protocol != "random" and num_views != 16:
        raise InputError("num_views", num_views, f"{protocol} has its own number of views")
    if num_views < 1:
        raise InputError("num_views", num_views, "expected at least 1")


def object_seed(name: str, seed: int) -> int:
    """A 64-bit seed from an object's name and the run's seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
