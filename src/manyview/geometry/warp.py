"""Images of one camera resampled into another: by depth, and by the homography of a plane.

All warps are inverse: each target pixel looks up one source position, so there are no holes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import common_size, inside_image, pixel_centers, sample_images
from manyview.geometry.projection import (
    from_homogeneous,
    project,
    require_pinhole,
    to_homogeneous,
    unproject,
)
from manyview.types import Cameras


def warp_by_depth(
    source_images: Tensor,
    target_depth: Tensor,
    source: Cameras,
    target: Cameras,
    *,
    source_depth: Tensor | None = None,
    tolerance: float = 0.02,
) -> tuple[Tensor, Tensor]:
    """Source images as the target cameras see them, given the target's depth.

    `source_images` [B, C, Hs, Ws], `target_depth` [B, 1, Ht, Wt] (along z, 0 = unknown), B cameras each (one
    source or target broadcasts). Returns images [B, C, Ht, Wt] (0 where invalid) and `valid`, bool
    [B, 1, Ht, Wt]: depth known, point in front of the source and inside its image and, with `source_depth`
    [B, 1, Hs, Ws], not hidden there (depths equal within the relative `tolerance`).
    Differentiable in images, depth and cameras.
    """
    height, width = common_size(target)
    if tuple(target_depth.shape[1:]) != (1, height, width):
        raise InputError(
            "target_depth", tuple(target_depth.shape), f"expected [B, 1, {height}, {width}] as the cameras"
        )
    if tuple(source_images.shape[-2:]) != common_size(source):
        raise InputError(
            "source_images", tuple(source_images.shape), f"expected the cameras' size {common_size(source)}"
        )
    grid = pixel_centers(height, width, dtype=target_depth.dtype, device=target_depth.device)
    depth = target_depth[:, 0]
    points = unproject(grid[None], depth, target)
    pixels, depth_there = project(points, source)
    known = torch.isfinite(depth) & (depth > 0)
    valid = known & (depth_there > 0) & inside_image(pixels, source.sizes)
    if source_depth is not None:
        seen = sample_images(source_depth, pixels, mode="nearest", padding="zeros")[:, 0]
        valid = valid & (seen > 0) & ((depth_there - seen).abs() <= tolerance * seen)
    # grid_sample must not meet the meaningless pixels of points behind the camera.
    valid = valid.expand(len(source_images), -1, -1)
    pixels = torch.where(valid.unsqueeze(-1), pixels, torch.full_like(pixels, 0.5))
    images = sample_images(source_images, pixels)
    return torch.where(valid[:, None], images, torch.zeros_like(images)), valid[:, None]


def plane_homographies(source: Cameras, target: Cameras, normal: Tensor, offset: Tensor | float) -> Tensor:
    """[B, 3, 3] H with x_source ~ H x_target for points of the world plane normal . X = offset.

    `normal` [3] or [B, 3] (any length), `offset` a number or [B]. From X = o_t + s r with
    s = (offset - n . o_t) / (n . r) on the target's ray r = R_t K_t^-1 x_t, multiplied by n . r:
    H = K_s R_s^T ((o_t - o_s) n^T + (offset - n . o_t) I) R_t K_t^-1.
    """
    require_pinhole(source)
    require_pinhole(target)
    normal = normal.to(target.K).expand(len(target), 3)
    offset = torch.as_tensor(offset, dtype=target.K.dtype, device=target.K.device)
    distance = offset - (normal * target.centers).sum(dim=-1)
    between = (target.centers - source.centers)[:, :, None] * normal[:, None, :]
    identity = torch.eye(3, dtype=target.K.dtype, device=target.K.device)
    middle = between + distance[:, None, None] * identity
    rotation_source = source.world_from_cam[:, :3, :3].mT
    rotation_target = target.world_from_cam[:, :3, :3]
    return source.K @ rotation_source @ middle @ rotation_target @ torch.linalg.inv(target.K)


def plane_depth(cameras: Cameras, normal: Tensor, offset: Tensor | float) -> Tensor:
    """[V, 1, H, W] depth along z of the world plane normal . X = offset; 0 where a pixel's ray misses it."""
    height, width = common_size(cameras)
    grid = pixel_centers(height, width, dtype=cameras.K.dtype, device=cameras.K.device)
    ends = unproject(grid[None], torch.ones_like(grid[None, ..., 0]), cameras)
    normal = normal.to(cameras.K).expand(len(cameras), 3)[:, None, None]
    start = cameras.centers[:, None, None]
    slope = ((ends - start) * normal).sum(dim=-1)
    distance = torch.as_tensor(offset, dtype=slope.dtype, device=slope.device).reshape(-1, 1, 1)
    distance = distance - (start * normal).sum(dim=-1)
    hits = (slope.abs() > torch.finfo(slope.dtype).eps) & (distance * slope > 0)
    depth = torch.where(hits, distance / torch.where(hits, slope, torch.ones_like(slope)), 0)
    return depth[:, None]


def warp_by_homography(
    source_images: Tensor, source_from_target: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Images [B, C, height, width] resampled by `source_from_target` [B, 3, 3], and where they are valid.

    `valid` is bool [B, 1, height, width]. Invalid pixels (outside the source) are 0. The sign of the
    third coordinate is not judged: for planes partly behind a camera use `warp_by_depth` with `plane_depth`.
    """
    grid = pixel_centers(height, width, dtype=source_from_target.dtype, device=source_from_target.device)
    moved = to_homogeneous(grid.reshape(1, -1, 2)) @ source_from_target.mT
    pixels = from_homogeneous(moved).unflatten(1, (height, width))
    size = torch.tensor([source_images.shape[-2:]], device=pixels.device).expand(pixels.shape[0], 2)
    valid = inside_image(pixels, size)
    pixels = torch.where(valid.unsqueeze(-1), pixels, torch.full_like(pixels, 0.5))
    images = sample_images(source_images, pixels)
    return torch.where(valid[:, None], images, torch.zeros_like(images)), valid[:, None]
