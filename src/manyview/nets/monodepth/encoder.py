"""A residual network of 18 layers (He et al. 2016, arXiv 1512.03385) that keeps the features of all its
stages.

Shapes: B items, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import InputError

_MEAN, _DEVIATION = 0.45, 0.225
"""Of pixels, over all channels, as Monodepth2 takes them."""
PAPER_WIDTHS = (64, 64, 128, 256, 512)
COMPACT_WIDTHS = (16, 16, 32, 64, 96)
STRIDE = 32
"""Pixels along a side of one cell of the last features; images are multiples of it."""


class ResidualPair(nn.Module):
    """Two 3 x 3 convolutions with batch norms beside the input, which a 1 x 1 brings to their size if
    needed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            fit = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(fit, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H / stride, W / stride]"""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + (x if self.shortcut is None else self.shortcut(x)))


class ImageEncoder(nn.Module):
    """Features of one or more images stacked along their channels, after the stem and after four stages."""

    def __init__(self, widths: Sequence[int] = PAPER_WIDTHS, num_images: int = 1) -> None:
        super().__init__()
        if len(widths) != 5:
            raise InputError("widths", tuple(widths), "expected five numbers: the stem and four stages")
        self.conv = nn.Conv2d(3 * num_images, widths[0], 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        stages = []
        for number in range(4):
            inputs, outputs = widths[number], widths[number + 1]
            first = ResidualPair(inputs, outputs, 1 if number == 0 else 2)
            stages.append(nn.Sequential(first, ResidualPair(outputs, outputs, 1)))
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Five features, from [B, widths[0], H/2, W/2] to [B, widths[4], H/32, W/32], of images
        [B, 3 * num_images, H, W] in [0, 1]. Raises `InputError` for sizes that are no multiples of 32."""
        if images.shape[-1] % STRIDE or images.shape[-2] % STRIDE:
            raise InputError("images", tuple(images.shape), f"expected sides that are multiples of {STRIDE}")
        x = F.relu(self.norm(self.conv((images - _MEAN) / _DEVIATION)))
        features = [x]
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
