"""Random pixels of posed views as rays with what they should show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from manyview.errors import InputError
from manyview.geometry.rays import pixel_rays
from manyview.io.framing import size_within
from manyview.types import Cameras, Views


@dataclass(frozen=True, kw_only=True)
class PixelBatch:
    """N pixels."""

    origins: Tensor
    """[N, 3] world."""
    directions: Tensor
    """[N, 3] world, unit."""
    colors: Tensor
    """[N, 3] over the background."""
    masks: Tensor | None
    """[N] or None where unknown."""
    weights: Tensor
    """[N] of the views, mean 1 over all views."""


class PixelSource:
    """The observed views of `views`, made smaller where they are larger than useful, as batches on the CPU.

    Three quarters of a batch come from the object and its surroundings, the rest from anywhere. Raises
    `InputError` where cameras are missing, views differ in size, or weights do not fit.
    """

    def __init__(
        self,
        views: Views,
        *,
        weights: Tensor | None,
        background: float,
        max_size: int,
        outlines: tuple[Tensor, Cameras] | None = None,
    ) -> None:
        """`outlines`: masks [N, 1, H, W] and N cameras of their size that carve the hull in place of the
        views' own (a mask made up with a margin, say)."""
        if views.cameras is None:
            raise InputError("views.cameras", None, "expected cameras for every observed view")
        chosen = views.observed.nonzero()[:, 0]
        if len(chosen) == 0:
            raise InputError("views.observed", "none", "expected at least one observed view")
        if weights is None:
            weights = torch.ones(len(views))
        if tuple(weights.shape) != (len(views),) or not bool((weights[chosen] >= 0).all()):
            raise InputError("weights", tuple(weights.shape), f"expected {len(views)} numbers of at least 0")
        if not float(weights[chosen].sum()) > 0:
            raise InputError("weights", "all zero", "expected a positive weight on an observed view")
        cameras = views.cameras[chosen].to("cpu")
        height, width = size_within(*views.size, max_size)
        self.cameras: Cameras = cameras.resized(height, width)
        # One view at a time: a copy of all of them at full size may not fit in memory.
        shown = [_resized(views[index].over(background), height, width) for index in chosen.tolist()]
        self.images = torch.cat(shown)
        self.masks = None
        if views.masks is not None:
            covers = [_resized(views.masks[index][None], height, width) for index in chosen.tolist()]
            self.masks = torch.cat(covers)
        counted = weights[chosen].float().cpu()
        self.weights = counted / counted.mean()
        self._outlines = outlines
        self._near = None if self.masks is None else [_surroundings(mask[0]) for mask in self.masks]

    def outlines(self) -> tuple[Tensor, Cameras] | None:
        """Masks and cameras of what carves the visual hull; None without masks.

        Those given to the constructor, else those of the views that weigh at least half as much as the
        heaviest: a view made up between others, given little weight, may be wrong at its edge, and a hull
        never gives back what one mask has cut off.
        """
        if self._outlines is not None:
            return self._outlines
        if self.masks is None:
            return None
        trusted = (self.weights >= 0.5 * self.weights.max()).nonzero()[:, 0]
        if len(trusted) < 2:
            return self.masks, self.cameras
        return self.masks[trusted], self.cameras[trusted]

    def __len__(self) -> int:
        return len(self.cameras)

    def draw(self, num: int, generator: torch.Generator) -> PixelBatch:
        """About `num` pixels, the same number from each view."""
        height, width = self.images.shape[2:]
        each = max(1, num // len(self))
        flat = torch.randint(height * width, (len(self), each), generator=generator)
        if self._near is not None:
            share = (3 * each + 3) // 4
            for index, candidates in enumerate(self._near):
                if len(candidates) > 0:
                    picks = torch.randint(len(candidates), (share,), generator=generator)
                    flat[index, :share] = candidates[picks]
        pixels = torch.stack((flat % width, flat // width), dim=-1) + 0.5
        origins, directions = pixel_rays(pixels.to(self.cameras.K.dtype), self.cameras)
        colors = self.images.flatten(2).gather(2, flat[:, None].expand(-1, 3, -1)).mT
        masks = None if self.masks is None else self.masks.flatten(1).gather(1, flat).reshape(-1)
        return PixelBatch(
            origins=origins.reshape(-1, 3).float(),
            directions=directions.reshape(-1, 3).float(),
            colors=colors.reshape(-1, 3),
            masks=masks,
            weights=self.weights[:, None].expand(-1, each).reshape(-1),
        )


def color_error(colors: Tensor, batch: PixelBatch, delta: float) -> Tensor:
    """[N] Huber error of `colors` [N, 3] against the pixels, summed over channels, over `delta`."""
    return functional.huber_loss(colors, batch.colors, delta=delta, reduction="none").sum(dim=1) / delta


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    images = images.float().cpu()
    if tuple(images.shape[2:]) == (height, width):
        return images
    return functional.interpolate(images, (height, width), mode="area")


def _surroundings(mask: Tensor) -> Tensor:
    """Flat numbers of the pixels on the object or within 2.5 % of the image's size of it."""
    reach = max(2, round(0.025 * max(mask.shape)))
    far = np.asarray(ndimage.distance_transform_edt((mask < 0.01).numpy()))
    return torch.from_numpy(far <= reach).reshape(-1).nonzero()[:, 0]
