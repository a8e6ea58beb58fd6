"""Training of the small network that enlarges pictures one by one, on rendered views at both sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Swin2SRForImageSuperResolution

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.methods.hi3d.degradation import compact_options, degrade
from manyview.methods.hi3d.upscaler import FACTOR, build_upscaler, load_upscaler, upscale
from manyview.metrics.image import psnr
from manyview.sampling.noise import generator_seed
from manyview.training.sources import ViewSources, read_view
from manyview.training.task import Task

_STREAM = 0x757073
_VALIDATED = 32
"""Held-out views looked at, of as many objects where there are."""


class UpscalerTask(Task):
    """Squared error between a view and its enlarged half-size picture, on crops. (L1 has a kink where the
    bicubic picture is right already, as on all of a white background, and hardly gets off it.)

    The half-size picture is the view averaged down; a part of them (`degraded`) is made worse as coarse
    frames are, by the chain that also stage `refine` learns from. Views come at any even size. Raises
    `InputError` for views that are not square and even, or smaller than a crop.
    """

    name = "hi3d_upscaler"

    def __init__(
        self,
        folders: Sequence[Path],
        shares: Sequence[float] = (),
        validation: Path | None = None,
        *,
        crop: int = 48,
        degraded: float = 0.5,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        """`crop`: pixels a side of a half-size crop."""
        self.sources = ViewSources(folders, shares, validation)
        for source in self.sources.all:
            height, width = source[0].shape[1:3]
            if height != width or height % FACTOR or height < FACTOR * crop:
                accepted = f"expected square views of an even size, at least {FACTOR * crop} pixels"
                raise InputError("--data", f"{source.folder} ({height} x {width})", accepted)
        self.crop, self.degraded, self.seed = crop, degraded, seed
        self.initial, self.data_name = initial, data_name

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "crop": self.crop,
            "shares": self.sources.shares.tolist(),
            "degraded": self.degraded,
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
        }

    def build(self) -> nn.Module:
        """The network, fresh or from `initial`."""
        return build_upscaler() if self.initial is None else load_upscaler(self.initial, argument="--initial")

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """small [B, 3, crop, crop] and large [B, 3, 2 crop, 2 crop]."""
        rows = [self._example(int(item)) for item in items]
        return {
            name: torch.stack([row[place] for row in rows]) for place, name in enumerate(("small", "large"))
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Swin2SRForImageSuperResolution), "the upscaler task trains a Swin2SR"
        return (upscale(model, batch["small"]) - batch["large"]).square().mean(), {}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """PSNR in dB of held-out views enlarged from half their size, by the network and bicubically."""
        held_out = self.sources.validation
        if held_out is None:
            return {}
        assert isinstance(model, Swin2SRForImageSuperResolution), "the upscaler task trains a Swin2SR"
        chosen = np.unique(np.linspace(0, len(held_out) - 1, _VALIDATED).astype(int))
        sums = torch.zeros(2, dtype=torch.float64)
        for number, index in enumerate(chosen):
            large = read_view(held_out, int(index), 5 * number % held_out.num_views)[None]
            side = large.shape[-1]
            small, _ = resize_area(large, side // FACTOR, side // FACTOR)
            made = upscale(model, small.to(device)).cpu(), F.interpolate(small, (side, side), mode="bicubic")
            for place, one in enumerate(made):
                sums[place] += float(psnr(one.clamp(0, 1), large).clamp(max=100))
        network, bicubic = (sums / len(chosen)).tolist()
        return {"psnr_val": network, "bicubic_psnr_val": bicubic}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The network in float16, in the layout of transformers."""
        assert isinstance(model, Swin2SRForImageSuperResolution), "the upscaler task trains a Swin2SR"
        model.half().save_pretrained(folder)

    def _example(self, item: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        large = read_view(*self.sources.draw(rng))
        if rng.random() < 0.5:
            large = large.flip(-1)
        side = large.shape[-1] // FACTOR
        if rng.random() < self.degraded:
            options = dataclasses.replace(compact_options(), clean_first=False)
            worse = degrade(large[None], options, seed=self.seed, item=item)[0]
            small, _ = resize_area(worse, side, side)
        else:
            small, _ = resize_area(large, side, side)
        # A crop that shows something of the object, if a few tries find one.
        corners = rng.integers(side - self.crop + 1, size=(4, 2)).tolist()
        parts = [_cut(small, top, left, self.crop) for top, left in corners]
        chosen = next((k for k, part in enumerate(parts) if float(part.min()) < 0.9), 0)
        top, left = corners[chosen]
        return parts[chosen], _cut(large, FACTOR * top, FACTOR * left, FACTOR * self.crop)


def _cut(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size].contiguous()
