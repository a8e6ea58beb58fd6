"""Image features of the epipolar transformer: the first stages of a residual network, put side by side."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Normalization = Literal["batch", "group"]
Sampling = Literal["exact", "published"]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, normalization: Normalization) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = build_norm(outputs, normalization)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = build_norm(outputs, normalization)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), build_norm(outputs, normalization)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, h / stride, w / stride]"""
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class ResidualEncoder(nn.Module):
    """Stem and three stages of ResNet-18 as one map at half the image's size.

    `stem` is the width of the stem; the stages have 1, 2 and 4 times as much, so the map has 8 times `stem`
    channels (512 at ResNet-18's 64). Images go in as they are, in [0, 1], without the statistics of ImageNet.
    """

    def __init__(self, stem: int, normalization: Normalization = "batch") -> None:
        super().__init__()
        self.num_features = 8 * stem
        self.stem = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.stem_norm = build_norm(stem, normalization)
        widths = [(stem, stem, 1), (stem, 2 * stem, 2), (2 * stem, 4 * stem, 2)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualUnit(inputs, outputs, stride, normalization),
                ResidualUnit(outputs, outputs, 1, normalization),
            )
            for inputs, outputs, stride in widths
        )

    def forward(self, images: Tensor, sampling: Sampling = "exact") -> Tensor:
        """[B, 8 stem, H / 2, W / 2] of images [B, 3, H, W].

        `published` stretches the coarser maps so that the middles of their corner cells meet, as the released
        weights learned it; `exact` keeps their outer edges together.
        """
        x = F.relu(self.stem_norm(self.stem(images)))
        maps, size = [x], x.shape[-2:]
        x = F.max_pool2d(x, 3, 2, padding=1)
        for stage in self.stages:
            x = stage(x)
            corners = sampling == "published"
            maps.append(F.interpolate(x, size, mode="bilinear", align_corners=corners))
        return torch.cat(maps, dim=1)


def build_norm(channels: int, normalization: Normalization) -> nn.Module:
    """Batch norm as in ResNet, or group norm, whose answer for one image never depends on the others."""
    if normalization == "batch":
        return nn.BatchNorm2d(channels)
    # Groups of two channels or more: a single channel of a single cell has no spread to divide by.
    return nn.GroupNorm(math.gcd(8, channels // 2) if channels % 2 == 0 else 1, channels)
