"""The refiner's noise levels: the linear schedule of guided diffusion, with steps for levels of one's own.

Shapes: B items and whatever an item has; t [B] int64 in 0 .. 999, -1 standing for no noise at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.sampling.solvers import NUM_TRAIN_STEPS

_FIRST, _LAST = 1e-4, 0.02


def linear_betas(num_steps: int = NUM_TRAIN_STEPS) -> Tensor:
    """[num_steps] float64 variances of the noise each step adds (Ho et al. 2020, section 4), scaled so that
    fewer steps end at the same level (Nichol and Dhariwal 2021)."""
    scale = NUM_TRAIN_STEPS / num_steps
    return torch.linspace(scale * _FIRST, scale * _LAST, num_steps, dtype=torch.float64)


def kept_shares(num_steps: int = NUM_TRAIN_STEPS) -> Tensor:
    """[num_steps] float64 share of the clean value's variance that is left at every step (alpha bar)."""
    return (1 - linear_betas(num_steps)).cumprod(dim=0)


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """[B, ...] sqrt(share) clean + sqrt(1 - share) noise at t [B]."""
    share = _shares(t, clean)
    return _mix(clean, share.sqrt(), noise, (1 - share).sqrt())


def step_towards(noisy: Tensor, clean: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """[B, ...] the values at level t_next [B] of those at t [B] and their predicted clean ones, with the
    noise that they imply and none new (Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma = 0)."""
    share, share_next = _shares(t, noisy), _shares(t_next, noisy)
    ratio = ((1 - share_next) / (1 - share)).sqrt()
    return _mix(clean, share_next.sqrt() - share.sqrt() * ratio, noisy, ratio)


def posterior(noisy: Tensor, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, ...] and variance [B, 1 ...] of the values one step below t [B], given those there and the
    clean ones (Ho et al. 2020, eq. 7)."""
    share, share_next = _shares(t, noisy), _shares(t - 1, noisy)
    beta = 1 - share / share_next
    of_clean = share_next.sqrt() * beta / (1 - share)
    of_noisy = (share / share_next).sqrt() * (1 - share_next) / (1 - share)
    variance = beta * (1 - share_next) / (1 - share)
    return _mix(clean, of_clean, noisy, of_noisy), variance.to(noisy.dtype)


def _mix(first: Tensor, of_first: Tensor, second: Tensor, of_second: Tensor) -> Tensor:
    # The weights are worked out in double precision, as differences of numbers near 1 are among them.
    return of_first.to(first.dtype) * first + of_second.to(second.dtype) * second


def _shares(t: Tensor, like: Tensor) -> Tensor:
    table = torch.cat([torch.ones(1, dtype=torch.float64), kept_shares()]).to(t.device)
    return table[t.long() + 1].view(-1, *[1] * (like.ndim - 1))
