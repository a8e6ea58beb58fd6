"""Similarity transforms of the world (recentre, rescale, turn) and circles through camera centres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.types import Cameras


@dataclass(frozen=True)
class Circle:
    """A circle in space, fitted to points."""

    center: Tensor
    """[3]"""
    normal: Tensor
    """[3] unit, on the +Z side (z >= 0)."""
    radius: Tensor
    """[] in world units."""
    residual: Tensor
    """[] root mean square distance of the points from the circle."""


@dataclass(frozen=True)
class Similarity:
    """x_new = scale (rotation x_old) + translation."""

    scale: float
    rotation: Tensor
    """[3, 3]"""
    translation: Tensor
    """[3]"""

    def apply_to_points(self, points: Tensor) -> Tensor:
        """[..., 3] moved points."""
        return self.scale * (points @ self.rotation.to(points).mT) + self.translation.to(points)

    def apply_to_cameras(self, cameras: Cameras) -> Cameras:
        """Cameras that see the moved points at the same pixels; their depths grow by `scale`."""
        moved = cameras.world_from_cam.clone()
        moved[:, :3, :3] = self.rotation.to(moved) @ cameras.world_from_cam[:, :3, :3]
        moved[:, :3, 3] = self.apply_to_points(cameras.centers)
        return replace(cameras, world_from_cam=moved)

    def inverse(self) -> Similarity:
        """The transform back."""
        rotation = self.rotation.mT
        return Similarity(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


def fit_circle(points: Tensor) -> Circle:
    """The circle nearest to `points` [N, 3], N >= 3.

    The plane comes from the principal directions; the algebraic step there solves
    2 c . p + (r^2 - |c|^2) = |p|^2 (Kåsa 1976).
    Raises `InputError` for fewer than three points or points on a line.
    """
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 3:
        raise InputError("points", tuple(points.shape), "expected [N, 3] with N at least 3")
    middle = points.mean(dim=0)
    _, spread, axes = torch.linalg.svd(points - middle, full_matrices=True)
    if float(spread[1]) < 1e-6 * max(float(spread[0]), 1e-12):
        raise InputError("points", "lie on a line", "expected points on an arc")
    flat = (points - middle) @ axes[:2].mT
    system = torch.cat((2 * flat, torch.ones_like(flat[:, :1])), dim=1)
    solution = torch.linalg.lstsq(system, (flat * flat).sum(dim=1, keepdim=True)).solution[:, 0]
    radius = (solution[2] + solution[:2] @ solution[:2]).clamp_min(0).sqrt()
    center = middle + solution[:2] @ axes[:2]
    normal = axes[2] if float(axes[2, 2]) >= 0 else -axes[2]
    height = (points - middle) @ normal
    gap = torch.linalg.vector_norm(flat - solution[:2], dim=1) - radius
    return Circle(center, normal, radius, (height**2 + gap**2).mean().sqrt())


def focus_point(cameras: Cameras) -> Tensor:
    """[3] the point nearest to all optical axes in the least-squares sense.

    Raises `InputError` where the axes are all parallel, so that no such point exists.
    """
    axes = cameras.world_from_cam[:, :3, 2].double()
    point = nearest_to_lines(cameras.centers.double(), axes, parallel=1e-6)
    if point is None:
        raise InputError("cameras", "all look in one direction", "expected optical axes that meet")
    return point.to(cameras.K.dtype)


def nearest_to_lines(origins: Tensor, directions: Tensor, *, parallel: float) -> Tensor | None:
    """[3] the point nearest to N lines through origins [N, 3] along unit directions [N, 3], in the
    least-squares sense; None where the lines are all parallel, to within `parallel` (about the mean squared
    sine of the angles between them)."""
    identity = torch.eye(3, dtype=directions.dtype, device=directions.device)
    across = identity - directions[:, :, None] * directions[:, None, :]
    normal_matrix = across.sum(dim=0)
    if float(torch.linalg.eigvalsh(normal_matrix)[0]) < parallel * len(origins):
        return None
    right_side = (across @ origins.unsqueeze(-1)).sum(dim=0)
    return torch.linalg.solve(normal_matrix, right_side)[:, 0]


def normalize_cameras(
    cameras: Cameras, *, center: Literal["focus", "mean"] = "focus", distance: float = 1.5
) -> tuple[Cameras, Similarity]:
    """Cameras moved so that the point they look at is the origin and their mean distance to it is `distance`.

    `center="mean"` takes the mean of the camera centres instead. Directions stay as they are. Returns the
    cameras and the `Similarity` that moved them (for points, meshes, and depths, which scale with it).
    """
    origin = focus_point(cameras) if center == "focus" else cameras.centers.mean(dim=0)
    spread = torch.linalg.vector_norm(cameras.centers - origin, dim=1).mean()
    if float(spread) == 0:
        raise InputError("cameras", "all stand in one point", "expected cameras at different places")
    scale = distance / float(spread)
    rotation = torch.eye(3, dtype=cameras.K.dtype, device=cameras.K.device)
    similarity = Similarity(scale, rotation, -scale * origin)
    return similarity.apply_to_cameras(cameras), similarity
