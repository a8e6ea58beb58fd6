"""Noise levels of the view-conditioned diffusion model: times, signal-to-noise ratios and mixing.

Time runs from 0 (clean) to 1 (noise) without steps; a level is told by the log of its signal-to-noise ratio.
Shapes: B items and whatever an item has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_OFFSET = 0.008


def cosine_log_snr(times: Tensor) -> Tensor:
    """[...] log(alpha^2 / sigma^2) at times in [0, 1] of the cosine schedule (Nichol and Dhariwal 2021,
    eq. 17).

    alpha^2 = cos^2((t + s) / (1 + s) pi / 2), s = 0.008; at most 11.5. At t = 1 the result is rounding.
    """
    angle = (times + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)
    return -torch.log((torch.cos(angle) ** -2 - 1).clamp_min(1e-5))


def signal_and_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, both [...]: sqrt(sigmoid(log_snr)) and sqrt(sigmoid(-log_snr))."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def add_noise(clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
    """[B, ...] alpha clean + sigma noise at log_snr [B]."""
    alpha, sigma = signal_and_noise(_as_items(log_snr, clean))
    return alpha * clean + sigma * noise


def remove_noise(noisy: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
    """[B, ...] the clean values of which `add_noise` with `noise` at log_snr [B] makes `noisy`."""
    alpha, sigma = signal_and_noise(_as_items(log_snr, noisy))
    return (noisy - sigma * noise) / alpha.clamp_min(1e-8)


def step_back(noisy: Tensor, clean: Tensor, log_snr: Tensor, next_log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, ...] and variance [B, 1 ...] of the values at next_log_snr [B] (less noise), given those at
    log_snr [B] and the clean ones (Ho et al. 2020, eq. 7, for any two levels)."""
    level, next_level = _as_items(log_snr, noisy), _as_items(next_log_snr, noisy)
    alpha, _ = signal_and_noise(level)
    next_alpha, next_sigma = signal_and_noise(next_level)
    share = -torch.expm1(level - next_level)
    return next_alpha * (noisy * (1 - share) / alpha + share * clean), next_sigma**2 * share


def p2_weight(log_snr: Tensor, gamma: float = 0.5, k: float = 1.0) -> Tensor:
    """[...] (k + snr)^-gamma: less weight where little noise is left (Choi et al. 2022, eq. 8)."""
    return (k + log_snr.exp()) ** -gamma


def level_times(num_steps: int, t_max: float) -> Tensor:
    """[num_steps] float64 the times a sampler visits, ascending: t_max / num_steps up to t_max."""
    return torch.arange(1, num_steps + 1, dtype=torch.float64) * (t_max / num_steps)


def _as_items(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
