"""Which cameras of two rigs are the same."""

from __future__ import annotations

import torch

from manyview.types import Cameras

_SAME_PLACE = 1e-3
_SAME_TURN_DEG = 0.1


def match_cameras(cameras: Cameras, others: Cameras) -> list[int]:
    """For each camera the index of the other one in its place, or -1.

    In its place: within a thousandth of the largest distance from the origin, and turned by less than 0.1
    degrees.
    """
    a, b = cameras.world_from_cam.double(), others.world_from_cam.double()
    scale = torch.linalg.vector_norm(b[:, :3, 3], dim=1).max().clamp_min(1e-9)
    apart = torch.cdist(a[:, :3, 3], b[:, :3, 3]) / scale
    # The trace of a rotation by t is 1 + 2 cos t.
    trace = torch.einsum("vij,wij->vw", a[:, :3, :3], b[:, :3, :3])
    turn = torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))
    same = (apart < _SAME_PLACE) & (turn < _SAME_TURN_DEG)
    nearest = apart.masked_fill(~same, torch.inf).argmin(dim=1)
    return [int(index) if bool(row.any()) else -1 for index, row in zip(nearest, same, strict=True)]
