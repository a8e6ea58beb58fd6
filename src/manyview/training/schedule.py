"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from manyview.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of optimiser step `step` (0-based): linear warm-up, then a half cosine down to the floor.

    Step w-1 of w warm-up steps is the first at the peak; the floor `lr * min_lr_fraction` would be reached at
    step `steps`, one after the last (Loshchilov and Hutter 2017, eq. 5). The cyclic schedule has `cycles`
    such falls one after the other, of equal length, each from the peak again (their warm restarts).
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    position = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    if config.schedule == "cyclic" and position < 1:
        position = position * config.cycles % 1
    cosine = 0.5 * (1 + math.cos(math.pi * position))
    return config.lr * (config.min_lr_fraction + (1 - config.min_lr_fraction) * cosine)
