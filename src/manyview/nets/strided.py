"""Convolutions that halve a picture again and again, for the small networks that tell a number of one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def halving_convolutions(widths: Sequence[int], channels: int = 3) -> nn.Sequential:
    """[B, channels, S, S] to [B, widths[-1], S / 2^n, S / 2^n] in n = len(widths) steps of two convolutions,
    the first of which halves, each with group norm (so `widths` are multiples of 8) and SiLU."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
    return nn.Sequential(*layers)
