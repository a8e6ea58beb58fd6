"""The two image networks whose layers perceptual distances compare, in plain torch.

VGG16 (Simonyan and Zisserman 2015, configuration D) and AlexNet (Krizhevsky 2014), their convolutional
parts, each in five stages. In the shift-tolerant form (Ghildyal and Liu 2022) strides are taken by a blur:
after padding by reflection of 2, a 3x3 binomial filter with stride 2 (Zhang 2019), so a shift by one pixel
moves features smoothly.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class BlurPool(nn.Module):
    """[N, C, H, W] to [N, C, (H + 1) // 2 + 1, (W + 1) // 2 + 1]: a binomial blur with stride 2.

    Reflection of 2 pixels on every side, then the filter (1 2 1)/4 along rows and columns, each second pixel.
    The padding needs more than 2 pixels a side.
    """

    def forward(self, values: Tensor) -> Tensor:
        line = values.new_tensor([0.25, 0.5, 0.25])
        kernel = (line[:, None] * line).expand(values.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(values, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=values.shape[1])


class Backbone(nn.Module):
    """Five stages in a row; gives the output of each."""

    def __init__(self, stages: list[nn.Sequential]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage's output."""
        return [_convolutions(stage)[-1].out_channels for stage in self.stages]

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """All convolutions, in the order of the data: what weights of any key layout are assigned to."""
        return [layer for stage in self.stages for layer in _convolutions(stage)]

    def forward(self, values: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            values = stage(values)
            outputs.append(values)
        return outputs


def build_vgg16(*, shift_tolerant: bool) -> Backbone:
    """VGG16's stages, each up to the last ReLU before a pooling. Normalised RGB [N, 3, H, W]."""
    stages = []
    channels = 3
    for index, widths in enumerate(VGG16_WIDTHS):
        layers: list[nn.Module] = []
        if index > 0:
            layers += (
                [nn.MaxPool2d(2, stride=1), BlurPool()] if shift_tolerant else [nn.MaxPool2d(2, stride=2)]
            )
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        stages.append(nn.Sequential(*layers))
    return Backbone(stages)


def build_shift_tolerant_alexnet() -> Backbone:
    """AlexNet's stages with blurs for strides: the first convolution has stride 1 and is blurred before its
    ReLU."""
    first = nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), BlurPool(), nn.ReLU())
    second = nn.Sequential(nn.MaxPool2d(3, stride=1), BlurPool(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU())
    third = nn.Sequential(nn.MaxPool2d(3, stride=1), BlurPool(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU())
    fourth = nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU())
    fifth = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())
    return Backbone([first, second, third, fourth, fifth])


def assign_convolutions(backbone: Backbone, weights: dict[str, Tensor]) -> None:
    """Fill a backbone from a state dict: its 4-D `*.weight` entries, by the numbers in their names, are the
    layers.

    (By the numbers, since a safetensors file keeps its names in alphabetical order.) Raises `ValueError`
    where the number of convolutions or a shape does not fit.
    """
    keys = [key for key, value in weights.items() if key.endswith(".weight") and value.ndim == 4]
    keys.sort(key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
    layers = backbone.convolutions
    if len(keys) != len(layers):
        raise ValueError(f"{len(keys)} convolutions, expected {len(layers)}")
    with torch.no_grad():
        for layer, key in zip(layers, keys, strict=True):
            bias = weights.get(key.removesuffix("weight") + "bias")
            if bias is None or layer.bias is None or weights[key].shape != layer.weight.shape:
                raise ValueError(
                    f"{key} is {tuple(weights[key].shape)}, expected {tuple(layer.weight.shape)}"
                )
            layer.weight.copy_(weights[key])
            layer.bias.copy_(bias)


def _convolutions(stage: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
