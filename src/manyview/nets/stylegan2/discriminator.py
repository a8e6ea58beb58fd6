"""StyleGAN2's discriminator: residual blocks down to 4 x 4, the batch's own spread, and one number.

Shapes: B items, C channels, R pixels along a side.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.nets.stylegan2.generator import PUBLISHED_RESOLUTIONS, block_widths
from manyview.nets.stylegan2.layers import ScaledConv, ScaledLinear

_HALF = math.sqrt(0.5)
_COMPACT = {"channel_base": 1024, "channel_max": 128}


class ResidualBlock(nn.Module):
    """Two convolutions, the second of which halves, beside a halving 1 x 1 (Karras et al. 2020, figure
    7c)."""

    def __init__(self, inputs: int, outputs: int, clamp: float | None) -> None:
        super().__init__()
        self.shortcut = ScaledConv(inputs, outputs, 1, halve=True, active=False)
        self.first = ScaledConv(inputs, inputs, 3, clamp=clamp)
        self.second = ScaledConv(inputs, outputs, 3, halve=True, clamp=clamp)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, R/2, R/2]"""
        # Both ways carry half of the variance, so that their sum keeps it.
        return self.second(self.first(x), gain=_HALF) + self.shortcut(x, gain=_HALF)


def batch_spread(x: Tensor, group_size: int) -> Tensor:
    """[B, 1, H, W] how much the items of a group differ: the deviation over the group, averaged over channels
    and cells, the same number everywhere (Karras et al. 2018, section 3).

    Groups are the largest equal ones of at most `group_size`; item i belongs to group i modulo their number.
    """
    batch = len(x)
    size = next(size for size in range(min(group_size, batch), 0, -1) if batch % size == 0)
    grouped = x.unflatten(0, (size, batch // size))
    variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)
    spread = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(size).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])


class StyleGAN2Discriminator(ModelMixin, ConfigMixin):
    """Discriminator with residual blocks; sizes as in `StyleGAN2Generator`. With more outputs than one, an
    encoder of pictures."""

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channel_base: int = 32768,
        channel_max: int = 512,
        group_size: int = 4,
        img_channels: int = 3,
        conv_clamp: float | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.resolution, self.img_channels, self.group_size = resolution, img_channels, group_size
        widths = [width for _, width in reversed(block_widths(resolution, channel_base, channel_max))]
        self.from_image = ScaledConv(img_channels, widths[0], 1, clamp=conv_clamp)
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs, outputs, conv_clamp) for inputs, outputs in pairwise(widths)
        )
        self.last_conv = ScaledConv(widths[-1] + 1, widths[-1], 3, clamp=conv_clamp)
        self.hidden = ScaledLinear(widths[-1] * 16, widths[-1], active=True)
        self.out = ScaledLinear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """[B, outputs] logits, high for real, of images [B, channels, R, R] in [-1, 1].

        An item's answer depends on its batch, see `batch_spread`. Raises `InputError` for another size.
        """
        expected = (self.img_channels, self.resolution, self.resolution)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise InputError("images", tuple(images.shape), f"expected [B, {str(list(expected))[1:]}")
        x = self.from_image(images)
        for block in self.blocks:
            x = block(x)
        x = self.last_conv(torch.cat([x, batch_spread(x, self.group_size)], dim=1))
        return self.out(self.hidden(x.flatten(1)))


def build_discriminator(
    preset: Literal["compact", "paper"] = "compact", resolution: int | None = None
) -> StyleGAN2Discriminator:
    """A discriminator with fresh weights, beside `build_generator`'s of the same preset and resolution."""
    if preset == "compact":
        return StyleGAN2Discriminator(resolution=64 if resolution is None else resolution, **_COMPACT)
    resolution = 512 if resolution is None else resolution
    if resolution not in PUBLISHED_RESOLUTIONS:
        accepted = f"expected one of {', '.join(map(str, PUBLISHED_RESOLUTIONS))}"
        raise InputError("resolution", resolution, accepted)
    return StyleGAN2Discriminator(resolution=resolution)


def build_encoder(
    preset: Literal["compact", "paper"], resolution: int, outputs: int
) -> StyleGAN2Discriminator:
    """A network of the same kind that tells `outputs` numbers of each picture, whatever else is in its
    batch."""
    sizes = _COMPACT if preset == "compact" else {}
    return StyleGAN2Discriminator(resolution=resolution, group_size=1, outputs=outputs, **sizes)
