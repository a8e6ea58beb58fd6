"""A small network that tells from which yaw an object is seen. It measures; the method never asks it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.nets.strided import halving_convolutions

_REACH_DEG = 60.0
_SPREAD_DEG = 8.0
_LARGEST_SPREAD = 3.0


class YawNet(ModelMixin, ConfigMixin):
    """A few convolutions from a picture to the centre and the spread of a Laplace distribution over yaws."""

    @register_to_config
    def __init__(self, size: int = 64, widths: Sequence[int] = (24, 48, 64, 64), hidden: int = 64) -> None:
        """`widths`: channels at 1/2, 1/4, ... of the size, multiples of 8."""
        super().__init__()
        if size % 2 ** len(widths):
            raise InputError("size", size, f"expected a multiple of {2 ** len(widths)}")
        self.convolutions = halving_convolutions(widths)
        cells = (size // 2 ** len(widths)) ** 2
        self.enter = nn.Linear(widths[-1] * cells, hidden)
        self.leave = nn.Linear(hidden, 2)

    @property
    def size(self) -> int:
        """Pixels a side of what it looks at."""
        return int(self.config["size"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centres [B] in degrees and logarithms of the spreads [B], of images [B, 3, S, S] in [0, 1]."""
        inner = F.silu(self.enter(self.convolutions(images * 2 - 1).flatten(1)))
        center, log_spread = self.leave(inner).float().unbind(dim=-1)
        limited = _LARGEST_SPREAD * torch.tanh(log_spread / _LARGEST_SPREAD)
        return _REACH_DEG * center, limited + math.log(_SPREAD_DEG)

    @torch.no_grad()
    def measure(self, images: Tensor) -> Tensor:
        """[B] yaw in degrees of images [B, 3, H, W] in [0, 1] of any size.

        Half the difference between a picture's and its mirror image's: mirrored, an object turns the other
        way, so what the network leans to by itself drops out.
        """
        images = images.float().clamp(0, 1).to(self.leave.weight)
        if images.shape[-2:] != (self.size, self.size):
            images = torch.stack([resize_area(image, self.size, self.size)[0] for image in images])
        both, _ = self(torch.cat([images, images.flip(-1)]))
        straight, mirrored = both.chunk(2)
        return (straight - mirrored) / 2
