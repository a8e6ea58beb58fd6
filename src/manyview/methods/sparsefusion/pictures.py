"""What the epipolar attention looked at, as pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.sparsefusion.eft import EpipolarAttention

# From little to much attention: dark violet, red, yellow.
_COLORS = ((0.20, 0.05, 0.40), (0.85, 0.20, 0.25), (1.00, 0.90, 0.25))


def epipolar_picture(
    images: Tensor,
    attention: EpipolarAttention,
    ray: tuple[int, int],
    *,
    scene: int = 0,
    query: int = 0,
    radius: float = 1.5,
) -> Tensor:
    """[N, 3, H, W] the context images [N, 3, H, W] with the points of one query ray drawn in.

    `ray` is (row, column) in the grid of rays; a point's colour is its share of the attention over depth in
    its view, from violet (none) to yellow (the largest of that view), and dots of views that the ray hardly
    looks at are faint. Points outside an image are left out. Raises `InputError` for a ray outside the grid.
    """
    shape = attention.over_views.shape
    rows, columns = shape[3:]
    row, column = ray
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError("ray", ray, f"expected row and column of a {rows} x {columns} grid")
    height, width = images.shape[-2:]
    share = attention.over_depths[scene, query, :, row, column]  # [N, D]
    view_share = attention.over_views[scene, query, :, row, column]  # [N]
    pixels = attention.pixels[scene, query, :, row, column]  # [N, D, 2]
    brightness = share / share.amax(dim=1, keepdim=True).clamp_min(1e-12)
    opacity = 0.35 + 0.65 * view_share / view_share.amax().clamp_min(1e-12)
    v, u = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5,
        torch.arange(width, device=images.device) + 0.5,
        indexing="ij",
    )
    picture = images.clone()
    for view in range(len(images)):
        # Points with the most attention are drawn last, on top.
        for place in brightness[view].argsort().tolist():
            x, y = pixels[view, place].tolist()
            distance = ((u - x) ** 2 + (v - y) ** 2).sqrt()
            cover = (radius + 0.5 - distance).clamp(0, 1) * opacity[view]
            color = _ramp(brightness[view, place]).to(picture)[:, None, None]
            picture[view] = picture[view] * (1 - cover) + color * cover
    return picture


def _ramp(value: Tensor) -> Tensor:
    stops = torch.tensor(_COLORS, device=value.device)
    place = value.clamp(0, 1) * (len(stops) - 1)
    lower = int(place.floor().clamp(max=len(stops) - 2))
    return stops[lower] + (place - lower) * (stops[lower + 1] - stops[lower])
