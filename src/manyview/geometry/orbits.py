"""Cameras that stand as those of the training orbits do: upright, about the origin, `DISTANCE` away."""

from __future__ import annotations

import torch

from manyview.geometry.trajectories import orbit, spherical_angles, spherical_transforms
from manyview.types import Cameras

DISTANCE = 1.5
"""Of training: objects have longest side 1."""
_FARTHER, _TURNED_DEG, _LENS = 0.1, 3.0, 0.03
"""How much a camera may differ from the training's: in distance and focal length (shares), in direction."""


def is_on_orbit(camera: Cameras) -> bool:
    """Whether a camera stands as those of training do: upright, looking at the origin from about 1.5 away,
    with a lens of 49 degrees and the principal point in the middle."""
    distance = float(torch.linalg.vector_norm(camera.centers[0].double()))
    if abs(distance / DISTANCE - 1) > _FARTHER or elevation_of(camera) is None:
        return False
    height, width = camera.sizes[0].tolist()
    wanted = orbit(1, size=(height, width)).K[0]
    return float((camera.K[0] - wanted).abs().max()) / max(height, width) <= _LENS


def elevation_of(camera: Cameras) -> float | None:
    """Degrees above the horizon of a camera that looks at the origin, upright; None of any other."""
    azimuth, elevation, distance = spherical_angles(camera.centers[:1].double())
    if float(distance) == 0:
        return None
    ideal = spherical_transforms(azimuth, elevation, distance)[0, :3, :3]
    trace = float((ideal * camera.world_from_cam[0, :3, :3].double()).sum())
    turned = torch.rad2deg(torch.arccos(torch.tensor((trace - 1) / 2).clamp(-1, 1)))
    return float(elevation) if float(turned) <= _TURNED_DEG else None
