"""Whether views fit together, with no ground truth: by depth and cameras, or from neighbour to neighbour on
an orbit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.warp import warp_by_depth
from manyview.types import Cameras


@dataclass(frozen=True, kw_only=True)
class Reprojection:
    """Colour differences of pixels that see the same surface point, for P ordered pairs of views."""

    pairs: tuple[tuple[int, int], ...]
    """(source, target): source's colours are looked up for target's pixels."""
    l1: Tensor
    """[P] mean absolute difference over jointly visible pixels and colours; NaN where there are none."""
    num_pixels: Tensor
    """int64 [P] jointly visible pixels."""

    @property
    def mean_l1(self) -> float:
        """The mean over all jointly visible pixels of all pairs. Raises `InputError` where there are none."""
        total = int(self.num_pixels.sum())
        if total == 0:
            raise InputError("depths", "no pixel is visible in two views", "expected overlapping views")
        weighted = torch.where(self.num_pixels > 0, self.l1, 0.0).double() * self.num_pixels
        return float(weighted.sum() / total)


def reprojection_l1(
    images: Tensor,
    depths: Tensor,
    cameras: Cameras,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
) -> Reprojection:
    """Mean absolute colour difference between views of the same surface points.

    `images` [V, 3, H, W], `depths` [V, 1, H, W] along z in world units (0 = background, not compared), V
    cameras of that size. For each pair (source, target), by default all ordered ones, each target pixel of
    known depth is projected into the source and the colour there (bilinear) compared; hidden pixels are
    left out: the source's depth must agree within the relative `tolerance`. It is blind to errors that all
    views share, and surfaces that shine differently from other sides count as errors.
    """
    count = len(cameras)
    if images.ndim != 4 or len(images) != count or depths.shape != (count, 1, *images.shape[-2:]):
        shapes = f"{tuple(images.shape)} and {tuple(depths.shape)}"
        raise InputError("images, depths", shapes, f"expected [{count}, 3, H, W] and [{count}, 1, H, W]")
    chosen = (
        tuple(pairs)
        if pairs is not None
        else tuple((source, target) for target in range(count) for source in range(count) if source != target)
    )
    if not chosen:
        raise InputError("pairs", chosen, "expected at least two views")
    errors, visible = [], []
    for source, target in chosen:
        warped, valid = warp_by_depth(
            images[source : source + 1],
            depths[target : target + 1],
            cameras[source],
            cameras[target],
            source_depth=depths[source : source + 1],
            tolerance=tolerance,
        )
        difference = (warped - images[target : target + 1]).abs().mean(dim=1, keepdim=True)
        errors.append(difference[valid].mean())
        visible.append(valid.sum())
    return Reprojection(pairs=chosen, l1=torch.stack(errors), num_pixels=torch.stack(visible))


def neighbour_l1(images: Tensor, *, closed: bool = True) -> Tensor:
    """Mean absolute difference between each view of an orbit and the next: [V], or [V - 1] if not `closed`.

    `images` [V, 3, H, W] in the order of the orbit; `closed` compares the last with the first too. Not zero
    for a turning object: what tells something is a jump (one value far above the others) or the ratio to
    the true views'.
    """
    if images.ndim != 4 or len(images) < 2:
        raise InputError("images", tuple(images.shape), "expected [V, 3, H, W] with at least two views")
    following = torch.roll(images, -1, dims=0)
    difference = (images - following).abs().mean(dim=(1, 2, 3))
    return difference if closed else difference[:-1]
