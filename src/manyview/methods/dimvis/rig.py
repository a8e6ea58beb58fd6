"""Rigs: which slot each given image fills, and where the cameras of the slots stand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.rays import camera_rays, plucker
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.types import Cameras, Views

ELEVATION_DEG = 30.0
DISTANCE = 1.5
_TOLERANCE_DEG = 10.0


def choose_slots(views: Views, num_views: int, slots: tuple[int, ...] | None) -> tuple[int, ...]:
    """The slot of every given view: as told, else from the cameras' azimuths, else in order.

    Raises `InputError` for more images than slots, slots out of range or named twice, cameras that do not
    stand on an evenly spaced rig (10 degrees tolerance), and a full rig, which leaves nothing to draw.
    """
    count = int(views.observed.sum())
    if count == 0:
        raise InputError("INPUT", "no observed view", "expected at least one image")
    if count >= num_views:
        raise InputError(
            "INPUT", f"{count} observed views", f"expected at most {num_views - 1} of {num_views}"
        )
    if slots is not None:
        if len(slots) != count:
            raise InputError("--slots", slots, f"expected {count} numbers, one for each given image")
        if len(set(slots)) != count or not all(0 <= slot < num_views for slot in slots):
            raise InputError("--slots", slots, f"expected different numbers from 0 to {num_views - 1}")
        return slots
    if views.cameras is None:
        return tuple(range(count))
    return _slots_of_cameras(views.cameras[views.observed.nonzero()[:, 0]], num_views)


def rig_cameras(views: Views, slots: tuple[int, ...], num_views: int, size: int) -> Cameras:
    """V cameras of the rig at elevation 30: through the given cameras where they are known."""
    start = 0.0
    if views.cameras is not None:
        given = views.cameras[views.observed.nonzero()[:, 0]]
        start = float(spherical_angles(given.centers)[0][0]) - 360.0 / num_views * slots[0]
    return orbit(num_views, ELEVATION_DEG, DISTANCE, start_azimuth_deg=start, size=size)


def rig_rays(num_views: int, cells: int) -> Tensor:
    """[V, 6, cells, cells] Pluecker rays of a rig whose slot 0 is at azimuth 0, at latent resolution."""
    cameras = orbit(num_views, ELEVATION_DEG, DISTANCE, size=cells)
    origins, directions = camera_rays(cameras)
    return plucker(origins, directions).permute(0, 3, 1, 2).contiguous()


def _slots_of_cameras(cameras: Cameras, num_views: int) -> tuple[int, ...]:
    azimuth, _, _ = spherical_angles(cameras.centers)
    step = 360.0 / num_views
    offset = (azimuth - azimuth[0]) / step
    nearest = offset.round()
    error = float((offset - nearest).abs().max()) * step
    slots = tuple(int(value) % num_views for value in nearest.tolist())
    if error > _TOLERANCE_DEG or len(set(slots)) != len(slots) or not math.isfinite(error):
        shown = ", ".join(f"{value:.0f}" for value in torch.remainder(azimuth, 360).tolist())
        raise InputError(
            "INPUT",
            f"cameras at azimuths {shown} degrees",
            f"expected different multiples of {step:g} degrees apart; name the slots with --slots",
        )
    return slots
