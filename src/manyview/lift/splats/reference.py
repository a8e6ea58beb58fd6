"""The rasteriser in plain torch, tile by tile: what the fast one is measured against, and runs anywhere.

Gradients come from autograd. Memory is that of one tile's Gaussians times its pixels, kept for every tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.lift.splats.model import Splats
from manyview.lift.splats.projection import (
    MAX_ALPHA,
    MIN_TRANSMITTANCE,
    Camera,
    Footprints,
    project,
)

TILE = 16


def render_view(
    splats: Splats, camera: Camera, screen_offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One view: [5, H, W] and bool [N] which Gaussians the camera sees.

    The channels are red, green, blue and depth, each the sum of weight x value over the Gaussians from front
    to back, and the sum of the weights (alpha).
    """
    footprints = project(splats, camera, screen_offsets)
    return rasterize(footprints, camera.size), footprints.visible


def rasterize(footprints: Footprints, size: tuple[int, int]) -> Tensor:
    """[5, H, W] the Gaussians blended front to back on a screen of `size` (height, width).

    A pixel takes from a Gaussian alpha = opacity exp(-s), s = (d^T conic d) / 2, at most MAX_ALPHA, nothing
    beyond the cut-off; weight = alpha x what the Gaussians before let through. Once that is below
    MIN_TRANSMITTANCE the pixel takes nothing more.
    """
    height, width = size
    features = torch.cat(
        (footprints.colors, footprints.depths[:, None], torch.ones_like(footprints.depths)[:, None]), dim=1
    )
    order = torch.argsort(footprints.depths.detach(), stable=True)
    order = order[footprints.visible[order]]
    lowest = (footprints.centers - footprints.extents).detach()[order]
    highest = (footprints.centers + footprints.extents).detach()[order]
    rows = []
    for top in range(0, height, TILE):
        tiles = []
        bottom = min(top + TILE, height)
        in_row = (highest[:, 1] >= top) & (lowest[:, 1] <= bottom)
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            chosen = order[in_row & (highest[:, 0] >= left) & (lowest[:, 0] <= right)]
            tiles.append(_blend(footprints, features, chosen, (top, bottom, left, right)))
        rows.append(torch.cat(tiles, dim=2))
    return torch.cat(rows, dim=1)


def _blend(
    footprints: Footprints, features: Tensor, chosen: Tensor, box: tuple[int, int, int, int]
) -> Tensor:
    """[5, h, w] one tile of the Gaussians `chosen` [G], front to back; `box` is top, bottom, left, right."""
    top, bottom, left, right = box
    like = footprints.depths
    y = torch.arange(top, bottom, dtype=like.dtype, device=like.device) + 0.5
    x = torch.arange(left, right, dtype=like.dtype, device=like.device) + 0.5
    u, v = footprints.centers[chosen, :, None].unbind(1)
    a, b, c = footprints.conics[chosen, :, None, None].unbind(1)
    dx, dy = (x - u)[:, None, :], (y - v)[:, :, None]
    exponent = (a * dx * dx + c * dy * dy) * 0.5 + b * dx * dy
    opacity = footprints.opacities[chosen, None, None]
    inside = exponent <= footprints.cutoffs[chosen, None, None]
    alpha = torch.where(inside, (opacity * torch.exp(-exponent)).clamp_max(MAX_ALPHA), 0)
    passed = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat((torch.ones_like(alpha[:1]), passed))[: len(alpha)]
    if len(alpha) == 0:
        return like.new_zeros(features.shape[1], len(y), len(x))
    weights = alpha * before * (before >= MIN_TRANSMITTANCE)
    return torch.einsum("ghw,gc->chw", weights, features[chosen])
