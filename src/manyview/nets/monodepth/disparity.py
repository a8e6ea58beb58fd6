"""Monodepth2's depth network: an encoder and a decoder with skips that gives disparity at four scales.

Shapes: B items, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.nets.monodepth.encoder import COMPACT_WIDTHS, PAPER_WIDTHS, STRIDE, ImageEncoder

_SMALLEST = 2 * STRIDE


class ReflectedConv(nn.Module):
    """A 3 x 3 convolution over a picture continued by its own mirror image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H, W]"""
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))


class Doubling(nn.Module):
    """A convolution, twice the size (nearest), the encoder's features of that size, and a convolution."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.before = ReflectedConv(inputs, outputs)
        self.after = ReflectedConv(outputs + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """[B, outputs, 2H, 2W] of x [B, inputs, H, W] and skip [B, ., 2H, 2W]."""
        x = F.interpolate(F.elu(self.before(x)), scale_factor=2, mode="nearest")
        return F.elu(self.after(x if skip is None else torch.cat([x, skip], dim=1)))


class DisparityNet(ModelMixin, ConfigMixin):
    """Disparity of single images. `decoder_widths` are given from the finest level to the coarsest."""

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = PAPER_WIDTHS,
        decoder_widths: Sequence[int] = (16, 32, 64, 128, 256),
        num_scales: int = 4,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(widths)
        levels = []
        inputs = widths[4]
        for level in (4, 3, 2, 1, 0):  # from coarse to fine
            levels.append(Doubling(inputs, widths[level - 1] if level else 0, decoder_widths[level]))
            inputs = decoder_widths[level]
        self.levels = nn.ModuleList(levels)
        self.heads = nn.ModuleList(ReflectedConv(decoder_widths[scale], 1) for scale in range(num_scales))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Disparities in (0, 1), finest first: [B, 1, H / 2^s, W / 2^s] for scale s, of images [B, 3, H, W]
        in [0, 1]. Raises `InputError` for sides that are no multiples of 32, or below 64."""
        if min(images.shape[-2:]) < _SMALLEST:
            # One cell has no mirror image to be continued by.
            raise InputError("images", tuple(images.shape), f"expected sides of at least {_SMALLEST}")
        features = self.encoder(images)
        x = features[4]
        found = []
        for place, doubling in enumerate(self.levels):
            scale = 4 - place
            x = doubling(x, features[scale - 1] if scale else None)
            if scale < len(self.heads):
                found.append(self.heads[scale](x).sigmoid())
        return tuple(reversed(found))


def build_disparity_net(preset: Literal["compact", "paper"] = "compact") -> DisparityNet:
    """A network with fresh weights: `paper` (ResNet-18, 14.3 M parameters) or `compact` (0.7 M)."""
    if preset == "paper":
        return DisparityNet()
    return DisparityNet(widths=COMPACT_WIDTHS, decoder_widths=(12, 16, 24, 40, 48))
