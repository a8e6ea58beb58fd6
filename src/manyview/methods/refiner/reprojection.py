"""Images warped by a depth and a rigid motion, with the pixels for which that means something.

Shapes: B items, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry.pixels import pixel_centers

Convention = Literal["centers", "corners"]
"""Where pixels lie: `centers` is this package's (centres at +0.5, the image spans [0, W]); `corners` that of
Monodepth2 (centres at whole numbers, the first and last being the borders of what is sampled)."""
_NEAR = 1e-3


def back_project(depth: Tensor, K: Tensor, *, convention: Convention = "centers") -> Tensor:
    """[B, H, W, 3] camera points of the pixels at `depth` [B, 1, H, W] along z, for K [3, 3] or [B, 3, 3]."""
    height, width = depth.shape[-2:]
    pixels = pixel_centers(height, width, dtype=depth.dtype, device=depth.device)
    if convention == "corners":
        pixels = pixels - 0.5
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1).view(-1, 3)
    directions = rays @ torch.linalg.inv(K).mT  # [H W, 3], or [B, H W, 3]
    return (directions * depth.flatten(2).mT).view(len(depth), height, width, 3)


def project_points(points: Tensor, K: Tensor, source_from_target: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [B, H, W, 2] and depths [B, H, W] in the source of the target's camera points [B, H, W, 3].

    Points behind the source or in its plane have depth below 0.001; their pixels mean nothing.
    """
    moved = points.flatten(1, 2) @ source_from_target[:, :3, :3].mT + source_from_target[:, None, :3, 3]
    image = moved @ K.mT
    depth = image[..., 2:]
    pixels = image[..., :2] / torch.where(depth.abs() < _NEAR, torch.full_like(depth, _NEAR), depth)
    return pixels.view(*points.shape[:-1], 2), depth.view(points.shape[:-1])


def sampling_grid(pixels: Tensor, height: int, width: int, convention: Convention = "centers") -> Tensor:
    """[..., 2] pixels in the units of `grid_sample`, -1 to 1 over the image."""
    size = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    return pixels / (size if convention == "centers" else size - 1) * 2 - 1


def warp(
    source_images: Tensor,
    depth: Tensor,
    K: Tensor,
    source_from_target: Tensor,
    *,
    convention: Convention = "centers",
) -> tuple[Tensor, Tensor]:
    """The source images [B, C, H, W] as the target sees them (eq. 3 of the refiner's paper, read as a look-up
    at the target's pixels), and where that is valid, bool [B, 1, H, W]: before the source's camera and within
    its image. Elsewhere stands the nearest border pixel.

    depth [B, 1, H, W] is the target's; K [3, 3] or [B, 3, 3] of both. Differentiable in all four.
    """
    points = back_project(depth, K, convention=convention)
    pixels, there = project_points(points, K, source_from_target)
    height, width = source_images.shape[-2:]
    grid = sampling_grid(pixels, height, width, convention)
    valid = (there > _NEAR) & (grid.abs() <= 1).all(dim=-1)
    images = F.grid_sample(
        source_images, grid, mode="bilinear", padding_mode="border", align_corners=convention == "corners"
    )
    return images, valid[:, None]
