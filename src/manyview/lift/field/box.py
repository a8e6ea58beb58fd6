"""Voxel boxes in the world and where the object is, at any scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.types import Cameras


@dataclass(frozen=True, kw_only=True)
class Box:
    """Nodes of a grid in the world: node (i, j, k) stands at low + voxel (i, j, k)."""

    low: tuple[float, float, float]
    voxel: float
    """Edge of a voxel in world units."""
    shape: tuple[int, int, int]
    """Nodes along x, y and z, at least 2 each."""

    @property
    def high(self) -> tuple[float, float, float]:
        """The last node."""
        x, y, z = (a + self.voxel * (n - 1) for a, n in zip(self.low, self.shape, strict=True))
        return x, y, z

    def to_grid(self, points: Tensor) -> Tensor:
        """[..., 3] world points in grid coordinates."""
        return (points - points.new_tensor(self.low)) / self.voxel

    def nodes(self) -> Tensor:
        """[X Y Z, 3] float32 node positions in the world, z fastest."""
        axes = [
            torch.arange(n, dtype=torch.float64) * self.voxel + a
            for n, a in zip(self.shape, self.low, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3).float()


def make_box(low: tuple[float, ...], high: tuple[float, ...], longest: int) -> Box:
    """A box that holds low..high with `longest` nodes along its longest side."""
    sides = [b - a for a, b in zip(low, high, strict=True)]
    if not all(math.isfinite(side) and side > 0 for side in sides):
        raise InputError("bounds", (tuple(low), tuple(high)), "expected low below high, all finite")
    if longest < 4:
        raise InputError("resolution", longest, "expected at least 4 nodes")
    voxel = max(sides) / (longest - 1)
    # A whole number of voxels survives rounding up to 1e-6.
    x, y, z = (max(2, math.ceil(side / voxel - 1e-6) + 1) for side in sides)
    start = [
        float(a) - ((n - 1) * voxel - side) / 2 for a, n, side in zip(low, (x, y, z), sides, strict=True)
    ]
    return Box(low=(start[0], start[1], start[2]), voxel=voxel, shape=(x, y, z))


def looked_at(cameras: Cameras) -> tuple[Tensor, float]:
    """The point [3] that cameras look at and their mean distance to it.

    Raises `InputError` for fewer than two cameras and for cameras that all look in one direction, since then
    nothing says how far the object is.
    """
    if len(cameras) < 2:
        raise InputError("views", f"{len(cameras)} observed", "expected at least two views of the object")
    point = focus_point(cameras)
    distance = float(torch.linalg.vector_norm(cameras.centers - point, dim=1).mean())
    if distance <= 0:
        raise InputError("cameras", "all stand in one point", "expected cameras at different places")
    return point, distance


def view_cube(cameras: Cameras) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high corner of the cube about the point looked at that fills the narrowest view."""
    point, distance = looked_at(cameras)
    sizes = cameras.sizes.to(cameras.K.dtype)
    narrow = torch.minimum(sizes[:, 1] / cameras.K[:, 0, 0], sizes[:, 0] / cameras.K[:, 1, 1]) / 2
    half = 0.95 * distance * float(narrow.min())
    middle = point.tolist()
    return tuple(x - half for x in middle), tuple(x + half for x in middle)
