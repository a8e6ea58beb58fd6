"""A small network that tells the depth of an object in the training frame.

It is trained on rendered objects, whose distance and size are known (longest side 1, seen from 1.5), so it
tells inverse depth on one scale for all views: 0 at `far`, the farthest such an object can reach, 1 at
`near`. A network for photos (MiDaS) cannot know that scale and has to be stretched over each picture anew,
which makes depths of neighbouring views disagree. Beside it stands the share of a pixel that the object
covers, for white background says nothing about depth, and a white object is no background.
Shapes: B views of S x S pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.framing import resize_area

_FOLD = 2
"""The network works at half the picture's size, on squares of 2 x 2 pixels as channels."""


class ResidualConvolutions(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int = 8) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(groups, inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second_norm = nn.GroupNorm(groups, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, h, w]"""
        inner = self.first(F.silu(self.first_norm(x)))
        return self.shortcut(x) + self.second(F.silu(self.second_norm(inner)))


class DepthNet(ModelMixin, ConfigMixin):
    """An encoder and decoder with shortcuts between equal sizes (Ronneberger et al. 2015)."""

    @register_to_config
    def __init__(
        self,
        size: int = 128,
        widths: Sequence[int] = (16, 32, 56, 80),
        near: float = 1.5 - 3**0.5 / 2,
        far: float = 1.5 + 3**0.5 / 2,
    ) -> None:
        """`widths`: channels from half the picture's size downwards, multiples of 8. Raises `InputError` for
        a size that cannot be halved as often."""
        super().__init__()
        folds = _FOLD * 2 ** (len(widths) - 1)
        if size % folds:
            raise InputError("size", size, f"expected a multiple of {folds}")
        self.enter = nn.Conv2d(3 * _FOLD**2, widths[0], 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(ResidualConvolutions(fine, coarse) for fine, coarse in pairs)
        self.middle = nn.Sequential(*(ResidualConvolutions(widths[-1], widths[-1]) for _ in range(2)))
        self.up = nn.ModuleList(ResidualConvolutions(coarse + fine, fine) for fine, coarse in reversed(pairs))
        self.leave_norm = nn.GroupNorm(8, widths[0])
        self.leave = nn.Conv2d(widths[0], 2 * _FOLD**2, 3, padding=1)

    @property
    def size(self) -> int:
        """S: pixels a side that it works on."""
        return int(self.config["size"])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse depths [B, S, S] as shares of the range, not limited to it, and logits [B, S, S] of the
        object's coverage, of images [B, 3, S, S] in [0, 1] over white."""
        x = self.enter(F.pixel_unshuffle(images * 2 - 1, _FOLD))
        kept = []
        for block in self.down:
            kept.append(x)
            x = block(F.avg_pool2d(x, 2))
        x = self.middle(x)
        for block, shortcut in zip(self.up, reversed(kept), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), shortcut], dim=1))
        maps = F.pixel_shuffle(self.leave(F.silu(self.leave_norm(x))), _FOLD)
        return maps[:, 0] + 0.5, maps[:, 1]

    @torch.no_grad()
    def estimate(self, images: Tensor) -> Tensor:
        """[B, S, S] in [0, 1]: inverse depth as a share of the range, 0 (farthest) for the background.

        Images [B, 3, H, W] in [0, 1] over white, H = W, are brought to S pixels.
        """
        small, _ = resize_area(images, self.size, self.size)
        shares, logits = self(small.to(self.dtype))
        return (shares.clamp(0, 1) * logits.sigmoid()).float()

    def world_depths(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Depths along the camera's z axis, in units of the object's longest side, and coverage; [B, S, S].

        Depths mean something only where something is covered.
        """
        small, _ = resize_area(images, self.size, self.size)
        with torch.no_grad():
            shares, logits = self(small.to(self.dtype))
        near, far = float(self.config["near"]), float(self.config["far"])
        inverse = 1 / far + shares.float().clamp(0, 1) * (1 / near - 1 / far)
        return 1 / inverse, logits.float().sigmoid()
