"""Two-view geometry: fundamental matrices, epipolar lines, and samples along query rays seen in other views.

Pinhole only; `require_pinhole` refuses distorted cameras where lines would not be straight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import inside_image
from manyview.geometry.projection import project, require_pinhole, to_homogeneous, unproject
from manyview.geometry.rays import pixel_rays
from manyview.geometry.rotations import cross_matrix, relative_transform
from manyview.types import Cameras


@dataclass(frozen=True)
class EpipolarSamples:
    """Points along query rays and where V context cameras see them. Q queries, P pixels each, D depths."""

    points: Tensor
    """[Q, P, D, 3] world points."""
    pixels: Tensor
    """[Q, V, P, D, 2] their pixels in the context views."""
    depths: Tensor
    """[Q, V, P, D] their depth in the context views."""
    valid: Tensor
    """bool [Q, V, P, D]: in front of the context camera and inside its image."""


def fundamental_matrices(source: Cameras, target: Cameras) -> Tensor:
    """[V, 3, 3] F with line_target = F x_source and x_target^T F x_source = 0, for V camera pairs.

    F = K_t^-T [t]x R K_s^-1 with (R, t) = target_from_source (Hartley and Zisserman, eq. 9.2 ff.).
    A single source or target broadcasts. F vanishes where both centres coincide.
    """
    require_pinhole(source)
    require_pinhole(target)
    target_from_source = relative_transform(target.world_from_cam, source.world_from_cam)
    essential = cross_matrix(target_from_source[:, :3, 3]) @ target_from_source[:, :3, :3]
    return torch.linalg.inv(target.K).mT @ essential @ torch.linalg.inv(source.K)


def epipolar_lines(pixels: Tensor, fundamental: Tensor) -> Tensor:
    """[V, *, 3] lines (a, b, c), a u + b v + c = 0 with a^2 + b^2 = 1, of `pixels` [V or 1, *, 2].

    With unit normals |a u + b v + c| is the distance of (u, v) from the line in pixels.
    """
    flat = to_homogeneous(pixels.reshape(pixels.shape[0], -1, 2))
    lines = flat @ fundamental.mT
    norms = torch.linalg.vector_norm(lines[..., :2], dim=-1, keepdim=True)
    lines = lines / norms.clamp_min(torch.finfo(lines.dtype).tiny)
    return lines.reshape(lines.shape[0], *pixels.shape[1:-1], 3)


def line_distances(pixels: Tensor, lines: Tensor) -> Tensor:
    """[...] signed distances in pixels of `pixels` [..., 2] from unit `lines` [..., 3]."""
    return (to_homogeneous(pixels) * lines).sum(dim=-1)


def spaced_depths(
    num_depths: int,
    near: float,
    far: float,
    *,
    spacing: Literal["linear", "inverse"] = "linear",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[num_depths] from `near` to `far`, both included, evenly in depth or in 1 / depth."""
    if not 0 < near < far:
        raise InputError("near, far", (near, far), "expected 0 < near < far")
    steps = torch.linspace(0, 1, num_depths, dtype=dtype, device=device)
    if spacing == "linear":
        return near + (far - near) * steps
    return 1 / (1 / near + (1 / far - 1 / near) * steps)


def epipolar_samples(
    pixels: Tensor,
    query: Cameras,
    context: Cameras,
    depths: Tensor,
    *,
    along: Literal["z", "ray"] = "z",
    margin: float = 0.0,
) -> EpipolarSamples:
    """Points at `depths` along the rays of query pixels, projected into every context view.

    `pixels` [Q or 1, P, 2]; `depths` [D] or [Q, P, D], measured along the query camera's z axis or, with
    `along="ray"`, as distance from its centre. `margin` (pixels) is the border counted as outside.
    The query cameras and the context cameras may have distortion.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 2:
        raise InputError("pixels", tuple(pixels.shape), "expected [Q or 1, P, 2]")
    count = len(query)
    depths = depths.expand(count, pixels.shape[1], depths.shape[-1])
    spread = pixels[:, :, None].expand(count, -1, depths.shape[-1], -1)
    if along == "z":
        points = unproject(spread, depths, query)
    else:
        origins, directions = pixel_rays(spread, query)
        points = origins + directions * depths.unsqueeze(-1)
    seen_at, seen_depth = project(points[None].flatten(1, 3), context)
    valid = inside_image(seen_at, context.sizes, margin) & (seen_depth > 0)
    grid = depths.shape
    return EpipolarSamples(
        points=points,
        pixels=seen_at.unflatten(1, grid).transpose(0, 1),
        depths=seen_depth.unflatten(1, grid).transpose(0, 1),
        valid=valid.unflatten(1, grid).transpose(0, 1),
    )
