"""Pixel coordinates and image sampling.

Pixel coordinates are (u, v) = (right, down) with centres at +0.5, so an image of `height` x `width`
spans [0, width] x [0, height] and its first pixel's centre is (0.5, 0.5).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.types import Cameras


def pixel_centers(
    height: int, width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """[height, width, 2] the (u, v) coordinates of all pixel centres."""
    rows = torch.arange(height, dtype=dtype, device=device) + 0.5
    columns = torch.arange(width, dtype=dtype, device=device) + 0.5
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((u, v), dim=-1)


def common_size(cameras: Cameras) -> tuple[int, int]:
    """(height, width) shared by all cameras. Raises `InputError` where the sizes differ."""
    if len(cameras) == 0:
        raise InputError("cameras", 0, "expected at least one camera")
    sizes = cameras.sizes.tolist()
    for index, size in enumerate(sizes):
        if size != sizes[0]:
            raise InputError(
                f"cameras.sizes[{index}]", size, f"expected all cameras of one size, the first is {sizes[0]}"
            )
    return int(sizes[0][0]), int(sizes[0][1])


def inside_image(pixels: Tensor, sizes: Tensor, margin: float = 0.0) -> Tensor:
    """bool [V, ...] where `pixels` [V, ..., 2] fall in images of `sizes` [V, 2] (height, width).

    `margin` is in pixels, inwards; 0.5 keeps bilinear sampling inside the image.
    """
    limits = sizes.flip(-1).to(pixels.dtype)
    limits = limits.reshape(limits.shape[0], *[1] * (pixels.ndim - 2), 2)
    return ((pixels >= margin) & (pixels <= limits - margin)).all(dim=-1)


def sample_images(
    images: Tensor,
    pixels: Tensor,
    *,
    mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    padding: Literal["zeros", "border"] = "border",
) -> Tensor:
    """[B, C, *] the values of `images` [B, C, H, W] at `pixels` [B, *, 2].

    Differentiable in both for bilinear and bicubic. With `padding="border"` values outside are those of the
    nearest border pixel; with "zeros" they fade to 0 within half a pixel of the border.
    """
    batch, channels, height, width = images.shape
    if pixels.shape[0] != batch or pixels.shape[-1] != 2:
        raise InputError("pixels", tuple(pixels.shape), f"expected [{batch}, *, 2]")
    extent = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    # grid_sample without align_corners puts -1 and 1 on the image's outer edges, as our pixel frame does.
    grid = (pixels / extent * 2 - 1).reshape(batch, 1, -1, 2).to(images.dtype)
    values = F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)
    return values.reshape(batch, channels, *pixels.shape[1:-1])
