"""How much several answers to one question differ.

Shapes: S samples (seeds), V views. A right method varies where the given views leave things open and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manyview.errors import InputError


def pixel_std(samples: Tensor) -> Tensor:
    """[V, 1, H, W] standard deviation over the samples [S, V, C, H, W] of each pixel.

    The unbiased variance (divided by S - 1) is averaged over the C colours before the root is taken.
    """
    _check_samples(samples)
    return samples.double().var(dim=0, correction=1).mean(dim=1, keepdim=True).sqrt().float()


def mean_pairwise_distance(
    samples: Tensor, distance: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """[V] mean over the S (S - 1) / 2 pairs of samples [S, V, C, H, W] of a distance between their views.

    `distance` maps two [V, C, H, W] to [V] (a perceptual metric, say); by default it is the mean absolute
    difference.
    """
    _check_samples(samples)
    measure = distance if distance is not None else _mean_absolute_difference
    count = len(samples)
    pairs = [(first, second) for first in range(count) for second in range(first + 1, count)]
    return torch.stack([measure(samples[first], samples[second]) for first, second in pairs]).mean(dim=0)


def _mean_absolute_difference(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().mean(dim=(1, 2, 3))


def _check_samples(samples: Tensor) -> None:
    if samples.ndim != 5 or samples.shape[0] < 2:
        raise InputError(
            "samples", tuple(samples.shape), "expected [S, V, C, H, W] with at least two samples"
        )
