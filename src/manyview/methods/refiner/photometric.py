"""Monodepth2's losses (Godard et al. 2019, arXiv 1806.01260): depth and motion learned from images alone.

The target is the view whose pixels ask, the sources are the views they look into. `source_from_target` maps
camera points of the target to the source's camera. Depth is known up to a scale only.
Shapes: B items, S sources, H x W pixels; images [B, 3, H, W] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.refiner.reprojection import Convention, warp

_SSIM_SHARE = 0.85
_TIE_NOISE = 1e-5


@dataclass(frozen=True, kw_only=True)
class PhotometricOptions:
    """How the loss is put together; the defaults are the paper's but for the pixel convention."""

    min_depth: float = 0.1
    max_depth: float = 100.0
    smoothness: float = 1e-3
    """Weight of the smoothness at the finest scale; half of it at each coarser one."""
    automask: bool = True
    """Leave out pixels that a source explains better unmoved (section 3.3)."""
    reduction: Literal["minimum", "mean"] = "minimum"
    """Over the sources at each pixel; the minimum forgives what one of them does not see."""
    convention: Convention = "centers"
    use_validity: bool = True
    """Leave out pixels that fall outside the source or behind it; the paper does not."""


@dataclass(frozen=True)
class PhotometricResult:
    """The loss and what went into it."""

    loss: Tensor
    """Scalar: the mean over the scales."""
    losses: tuple[Tensor, ...]
    """One a scale, finest first."""
    depths: tuple[Tensor, ...]
    """[B, 1, H, W], one a scale, all at full size."""
    warped: tuple[Tensor, ...]
    """[B, 3, H, W] the sources as the target would see them, by the finest scale's depth."""
    valid: tuple[Tensor, ...]
    """bool [B, 1, H, W] where each of those is inside its source."""
    minimum: tuple[Tensor, ...]
    """[B, 1, H, W] the error that counts at every pixel, one a scale."""
    moved: tuple[Tensor, ...]
    """bool [B, 1, H, W] where it comes from a moved source, not from an unmoved one; one a scale."""


def depth_from_disparity(
    disparity: Tensor, min_depth: float = 0.1, max_depth: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Disparity brought from [0, 1] to [1 / max_depth, 1 / min_depth], and depth, its inverse."""
    low, high = 1 / max_depth, 1 / min_depth
    scaled = low + (high - low) * disparity
    return scaled, 1 / scaled


def ssim_error(x: Tensor, y: Tensor) -> Tensor:
    """[B, C, H, W] (1 - SSIM) / 2 within [0, 1], over plain 3 x 3 windows that mirror at the borders."""
    x, y = (F.pad(values, (1, 1, 1, 1), mode="reflect") for values in (x, y))
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    var_x = F.avg_pool2d(x**2, 3, 1) - mean_x**2
    var_y = F.avg_pool2d(y**2, 3, 1) - mean_y**2
    cov = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    structure = (2 * cov + 9e-4) / (var_x + var_y + 9e-4)
    return ((1 - luminance * structure) / 2).clamp(0, 1)


def reprojection_error(x: Tensor, y: Tensor) -> Tensor:
    """[B, 1, H, W] 0.85 of the SSIM error and 0.15 of the absolute difference (eq. 2)."""
    absolute = (x - y).abs().mean(dim=1, keepdim=True)
    return _SSIM_SHARE * ssim_error(x, y).mean(dim=1, keepdim=True) + (1 - _SSIM_SHARE) * absolute


def normalize_disparity(disparity: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, 1, H, W] over its own mean in every image (over the mask), so that smoothness cannot be had by
    shrinking everything."""
    if mask is None:
        mean = disparity.mean(dim=(2, 3), keepdim=True)
    else:
        mean = (disparity * mask).sum(dim=(2, 3), keepdim=True)
        mean = mean / mask.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
    return disparity / (mean + 1e-7)


def smoothness(disparity: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scalar: how much neighbours' disparities differ where the image's colours do not (eq. 3).

    With a mask [B, 1, H, W], over the pairs of neighbours that lie on it.
    """
    total = disparity.new_zeros(())
    for axis in (3, 2):
        edge = disparity.diff(dim=axis).abs()
        edge = edge * torch.exp(-image.diff(dim=axis).abs().mean(dim=1, keepdim=True))
        if mask is None:
            total = total + edge.mean()
        else:
            size = mask.shape[axis]
            both = mask.narrow(axis, 0, size - 1) * mask.narrow(axis, 1, size - 1)
            total = total + masked_mean(edge, both)
    return total


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Scalar mean of [B, 1, H, W] over a mask of the same shape, 0 where the mask is empty."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def photometric_loss(
    target: Tensor,
    sources: Sequence[Tensor],
    disparities: Sequence[Tensor],
    K: Tensor,
    sources_from_target: Sequence[Tensor],
    options: PhotometricOptions | None = None,
    *,
    mask: Tensor | None = None,
    tie_noise: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> PhotometricResult:
    """How well moved sources explain the target, over all scales (section 3.4).

    disparities: finest first, [B, 1, H / 2^s, W / 2^s], each brought to full size before it is used; K
    [3, 3] or [B, 3, 3]; sources_from_target: [B, 4, 4] each. With a `mask` [B, 1, H, W] only its pixels
    count, in the errors and in the smoothness: a background that stays while the object turns fits no motion
    at all. Ties between an unmoved source and another are broken by noise, `tie_noise` ([B, S, H, W] a scale)
    or drawn from `generator`. Raises `InputError` for numbers of sources and motions that differ.
    """
    options = PhotometricOptions() if options is None else options
    if not sources or len(sources) != len(sources_from_target):
        counts = (len(sources), len(sources_from_target))
        raise InputError("sources, sources_from_target", counts, "expected one motion for every source")
    unmoved = torch.cat([reprojection_error(source, target) for source in sources], dim=1)
    losses, depths, minimum, moved = [], [], [], []
    first: list[tuple[Tensor, Tensor]] = []
    for scale, disparity in enumerate(disparities):
        full = F.interpolate(disparity, target.shape[-2:], mode="bilinear", align_corners=False)
        _, depth = depth_from_disparity(full, options.min_depth, options.max_depth)
        pairs = [
            warp(source, depth, K, motion, convention=options.convention)
            for source, motion in zip(sources, sources_from_target, strict=True)
        ]
        errors = torch.cat([reprojection_error(image, target) for image, _ in pairs], dim=1)
        valid = torch.cat([found for _, found in pairs], dim=1)
        noise = None if tie_noise is None else tie_noise[scale]
        error, wins, counted = _choose(unmoved, errors, valid, options, noise, generator)
        weight = None if counted is None else counted.to(error.dtype)
        if mask is not None:
            weight = mask if weight is None else weight * mask
        losses.append(masked_mean(error, weight) + _smooth_at(disparity, target, mask, scale, options))
        depths.append(depth)
        minimum.append(error)
        moved.append(wins)
        first = pairs if scale == 0 else first
    return PhotometricResult(
        loss=torch.stack(losses).mean(),
        losses=tuple(losses),
        depths=tuple(depths),
        warped=tuple(image for image, _ in first),
        valid=tuple(found for _, found in first),
        minimum=tuple(minimum),
        moved=tuple(moved),
    )


def colour_mask(images: Tensor, background: float = 1.0, threshold: float = 0.05) -> Tensor:
    """[B, 1, H, W] 1 where a pixel differs from a plain grey background by more than `threshold` in some
    channel."""
    return ((images - background).abs().amax(dim=1, keepdim=True) > threshold).to(images.dtype)


def _choose(
    unmoved: Tensor,
    errors: Tensor,
    valid: Tensor,
    options: PhotometricOptions,
    noise: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The error [B, 1, H, W] at every pixel, whether a moved source won, and which pixels count at all."""
    counted = None
    if options.use_validity:
        # A pixel without a valid source has nothing to compare, moved or unmoved.
        counted = valid.any(dim=1, keepdim=True)
        errors = torch.where(valid, errors, errors.detach() + 10)
    if options.reduction == "mean":
        if options.use_validity:
            share = valid.to(errors.dtype)
            errors = (errors * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp_min(1)
        else:
            errors = errors.mean(dim=1, keepdim=True)
        unmoved = unmoved.mean(dim=1, keepdim=True)
    if not options.automask:
        least = errors.amin(dim=1, keepdim=True)
        return least, torch.ones_like(least, dtype=torch.bool), counted
    if noise is None:
        noise = torch.randn(unmoved.shape, generator=generator).to(unmoved)
    unmoved = unmoved + _TIE_NOISE * noise
    least, place = torch.cat([unmoved, errors], dim=1).min(dim=1, keepdim=True)
    return least, place >= unmoved.shape[1], counted


def _smooth_at(
    disparity: Tensor, target: Tensor, mask: Tensor | None, scale: int, options: PhotometricOptions
) -> Tensor:
    """The smoothness of one scale with its weight, against the image at that scale's size."""
    size = disparity.shape[-2:]
    image = F.interpolate(target, size, mode="area")
    # A cell counts where all of its pixels do.
    mask = None if mask is None else (F.interpolate(mask, size, mode="area") > 0.999).to(mask.dtype)
    term = smoothness(normalize_disparity(disparity, mask), image, mask)
    return options.smoothness / 2**scale * term
