"""Images brought to a size: area resampling with alpha, compositing, and the frame a network was trained on.

Shapes: images [..., C, H, W], alpha [..., 1, H, W] with 1 = object. Colour is straight, so resampling
weighs it by alpha: a hidden pixel's colour must not bleed into its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import InputError

TRAINING_FILL = 35 / 32 / 1.5
"""Part of the frame that a length of 1 covers in the papers' rig: a lens of 35 mm on a sensor of 32 mm,
seen from a distance of 1.5 (0.729)."""


def composite_over(image: Tensor, alpha: Tensor | None, background: float = 1.0) -> Tensor:
    """`image * alpha + background * (1 - alpha)`; the image itself where `alpha` is None."""
    return image if alpha is None else image * alpha + background * (1 - alpha)


def resize_area(
    image: Tensor, height: int, width: int, alpha: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The image and alpha averaged over the area of each new pixel (exact for any ratio).

    Along a direction that grows, linear interpolation between pixel centres instead. An alpha of all ones
    changes nothing; where the new alpha is 0, colour is the plain average. Equal size: returned as they
    are.
    """
    if height < 1 or width < 1:
        raise InputError("size", (height, width), "expected at least one pixel")
    old_height, old_width = image.shape[-2:]
    if (height, width) == (old_height, old_width):
        return image, alpha
    rows = _axis_weights(old_height, height, 0.0, float(old_height)).to(image)
    columns = _axis_weights(old_width, width, 0.0, float(old_width)).to(image)
    # The ends of a growing axis lie outside the outermost centres; they take the outermost pixel.
    rows, columns = (weights / weights.sum(dim=1, keepdim=True) for weights in (rows, columns))
    return _resample(image, alpha, rows, columns)


def size_within(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) in the same shape with the longer one at most `max_side`."""
    factor = min(1.0, max_side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def pad_square(image: Tensor, alpha: Tensor | None, background: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """[..., S, S] with S the longer side: the image in the middle of `background`, alpha 0 beside it.

    Without alpha the border is `background` and there is still no alpha. An odd pixel goes right or below.
    """
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    border = (left, side - width - left, top, side - height - top)
    padded = torch.nn.functional.pad(image, border, value=background)
    return padded, None if alpha is None else torch.nn.functional.pad(alpha, border)


def crop_square(image: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """[..., S, S] with S the shorter side: the middle of the image."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    window = (..., slice(top, top + side), slice(left, left + side))
    return image[window], None if alpha is None else alpha[window]


def frame_by_mask(
    image: Tensor, alpha: Tensor, size: int, *, fill: float = TRAINING_FILL, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """[C, size, size] and [1, size, size]: the object in the middle, its longer side `fill` of the frame.

    `image` [C, H, W], `alpha` [1, H, W]. The bounding box is that of alpha above `threshold`, so faint
    halos do not shrink the object. Beyond the image alpha is 0. Raises `InputError` for an empty mask and a
    `fill` outside (0, 1].
    """
    if not 0 < fill <= 1:
        raise InputError("fill", fill, "expected a part of the frame above 0, at most 1")
    inside = alpha[0] > threshold
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError("mask", "is empty", "expected an object: some alpha above 0.5")
    top, bottom = float(rows[0]), float(rows[-1]) + 1
    left, right = float(columns[0]), float(columns[-1]) + 1
    window = max(bottom - top, right - left) / fill
    height, width = image.shape[-2:]
    row_weights = _axis_weights(height, size, (top + bottom - window) / 2, window).to(image)
    column_weights = _axis_weights(width, size, (left + right - window) / 2, window).to(image)
    framed, coverage = _resample(image, alpha, row_weights, column_weights)
    assert coverage is not None, "alpha was given"
    return framed, coverage


def _resample(
    image: Tensor, alpha: Tensor | None, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Separable resampling by [new, old] weights; colour weighed by alpha where there is one."""
    plain = rows @ image @ columns.mT
    if alpha is None:
        return plain, None
    coverage = (rows @ alpha @ columns.mT).clamp(0, 1)
    weighed = rows @ (image * alpha) @ columns.mT
    shown = coverage > 1e-6
    color = torch.where(shown, weighed / torch.where(shown, coverage, 1.0), plain)
    return color.clamp(0, 1), coverage


def _axis_weights(old: int, new: int, start: float, length: float) -> Tensor:
    """[new, old] weights of old pixels in each of `new` pixels that share [start, start + length).

    Shrinking: the share of the new pixel that the old one covers. Growing: linear between the centres of old
    pixels. What lies outside [0, old) counts as 0, so such rows sum to less than 1.
    """
    step = length / new
    pixels = torch.arange(old, dtype=torch.float64)
    edges = start + step * torch.arange(new, dtype=torch.float64)[:, None]
    if step >= 1:
        covered = torch.minimum(pixels + 1, edges + step) - torch.maximum(pixels, edges)
        return covered.clamp_min(0) / step
    distance = (edges + step / 2) - (pixels + 0.5)
    return (1 - distance.abs()).clamp_min(0)
