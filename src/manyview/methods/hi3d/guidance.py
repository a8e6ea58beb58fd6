"""Guidance that differs from frame to frame, and the refiner's pull towards the coarse orbit.

Shapes: B clips, T frames.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from manyview.errors import InputError

GuidanceShape = Literal["linear", "triangular", "constant"]
BLEND_POWER = 40


def frame_guidance(
    num_frames: int,
    low: float,
    high: float,
    shape: GuidanceShape = "linear",
    device: torch.device | str = "cpu",
) -> Tensor:
    """[T] guidance scale of each frame.

    `linear`: from `low` at frame 0 to `high` at the last one, as published. `triangular`: up to `high`
    half-way round and down again, as suits an orbit, whose last frame stands beside frame 0. `constant`:
    `high` in all frames but frame 0, which keeps `low`. Raises `InputError` for another shape and a number
    below 0.
    """
    if shape not in get_args(GuidanceShape):
        raise InputError("--guidance-shape", shape, f"expected one of {', '.join(get_args(GuidanceShape))}")
    if min(low, high) < 0:
        raise InputError("--guidance", (low, high), "expected numbers of at least 0")
    place = torch.arange(num_frames, device=device, dtype=torch.float32)
    if shape == "linear":
        part = place / max(num_frames - 1, 1)
    elif shape == "triangular":
        part = 1 - (2 * place / num_frames - 1).abs()
        part = part / part.max().clamp_min(1e-8)  # an odd number of frames has none half-way
    else:
        part = (place > 0).float()
    return low + (high - low) * part


def guide(blind: Tensor, seeing: Tensor, scale: Tensor) -> Tensor:
    """[B, T, ...] blind + scale (seeing - blind), with the scale [T] of each frame.

    Of velocities as well as of clean latents: at one noise level one is a linear function of the other.
    """
    scale = scale.to(seeing).reshape(-1, *[1] * (seeing.ndim - 2))
    return blind + scale * (seeing - blind)


def blend_share(step: int, num_steps: int, power: float = BLEND_POWER) -> float:
    """How much of the noised coarse latents goes in before step `step`: ((1 + cos(step / num_steps)) /
    2)^power.

    As the published code has it, without a pi: 1 at the first step, .67 at the 5th of 25, .03 at the 15th.
    """
    return (0.5 * (1 + math.cos(step / num_steps))) ** power


def blend_coarse(x: Tensor, coarse: Tensor, noise: Tensor, sigma: Tensor | float, share: float) -> Tensor:
    """(1 - share) x + share (coarse + sigma noise): x pulled to the coarse latents at its noise level."""
    return (1 - share) * x + share * (coarse + sigma * noise)
