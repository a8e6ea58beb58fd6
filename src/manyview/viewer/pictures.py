"""Numbers as pictures: depth, spread and differences in colours, and pictures as bytes for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from manyview.io.images import to_uint8
from manyview.io.sheet import GIVEN, MADE

STATUS_COLORS = {
    "observed": GIVEN,
    "generated": MADE,
    "held out": (214, 120, 20),
    "missing": (165, 165, 165),
}
"""sRGB bytes of a view's frame by its status; the first two as on the contact sheet."""

DIFFERENCE_TOP = 0.5
"""The difference (mean over the channels, 1 = black against white) drawn in the last colour."""

HEAT = ((255, 255, 255), (253, 174, 97), (215, 48, 39), (102, 0, 31))
"""White = none, then orange, red, dark red: for differences and spreads."""
_NEAR_TO_FAR = ((255, 236, 158), (240, 130, 60), (150, 40, 100), (40, 20, 70))


def color_by(values: np.ndarray, stops: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """[H, W, 3] uint8 for `values` [H, W] in [0, 1]: linear between `stops`, clamped."""
    places = np.linspace(0, 1, len(stops))
    table = np.array(stops, dtype=np.float64)
    channels = [np.interp(values, places, table[:, index]) for index in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def draw_difference(image: Tensor, other: Tensor) -> np.ndarray:
    """[H, W, 3] uint8 of the mean absolute difference of two [3, H, W] in [0, 1]; see `DIFFERENCE_TOP`."""
    gap = (image - other).abs().mean(dim=0).numpy() / DIFFERENCE_TOP
    return color_by(gap, HEAT)


def draw_spread(spread: Tensor, top: float) -> np.ndarray:
    """[H, W, 3] uint8 of a standard deviation [1, H, W]; `top` gets the last colour."""
    return color_by(spread[0].numpy() / max(top, 1e-9), HEAT)


def draw_depth(depth: Tensor, near: float, far: float) -> np.ndarray:
    """[H, W, 3] uint8 of depth [1, H, W]: light is near, dark is far, white is unknown (0)."""
    values = depth[0].numpy()
    picture = color_by((values - near) / max(far - near, 1e-9), _NEAR_TO_FAR)
    picture[values <= 0] = 255
    return picture


def draw_image(image: Tensor, mask: Tensor | None) -> np.ndarray:
    """[H, W, 3 or 4] uint8 of straight colour [3, H, W] and, where known, mask [1, H, W]."""
    color = to_uint8(image).permute(1, 2, 0).numpy()
    return color if mask is None else np.dstack([color, to_uint8(mask)[0].numpy()])


def depth_range(depths: Tensor) -> tuple[float, float]:
    """Nearest and farthest known depth of all views; (0, 0) where none is known."""
    known = depths[depths > 0]
    return (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)


def as_data_uri(picture: np.ndarray, *, max_side: int | None = None) -> str:
    """A picture [H, W, 3 or 4] uint8 as lossless WebP inside a `data:` address.

    Longer sides than `max_side` are averaged down to it.
    """
    image = Image.fromarray(picture)
    if max_side is not None and max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # PIL weighs colour by alpha here, so hidden colours do not bleed in.
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=40, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
