"""Volume rendering of samples on rays, in torch: weights, sums, and new samples where the weight is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TruncExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x):
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        (x,) = ctx.saved_tensors
        return g * torch.exp(x.clamp(-15, 15))


def trunc_exp(x: Tensor) -> Tensor:
    """exp(x) whose gradient is that of x clamped to [-15, 15]."""
    result = _TruncExp.apply(x)
    assert isinstance(result, Tensor), "autograd functions of one output give a tensor"
    return result


def density_weights(densities: Tensor, lengths: Tensor) -> Tensor:
    """[N, S] weights of samples with `densities` [N, S] that stand for `lengths` [N, S] of their ray.

    alpha = 1 - exp(-density length), weight = alpha times the product of (1 - alpha) of the samples before
    (Max 1995; NeRF, Mildenhall et al. 2020, eq. 3).
    """
    depth = densities * lengths
    before = torch.cumsum(depth, dim=1) - depth
    return torch.exp(-before) * -torch.expm1(-depth)


def cube_span(origins: Tensor, directions: Tensor, half: float, min_near: float) -> tuple[Tensor, Tensor]:
    """[N], [N] where rays enter and leave the cube [-half, half]^3, entering at `min_near` at least.

    In units of the directions' length. Leave <= enter where a ray misses.
    """
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    a, b = (-half - origins) / safe, (half - origins) / safe
    enter = torch.minimum(a, b).amax(dim=-1)
    leave = torch.maximum(a, b).amin(dim=-1)
    return enter.clamp_min(min_near), leave


def resample(edges: Tensor, weights: Tensor, num: int, jitter: Tensor | None = None) -> Tensor:
    """[N, num] positions drawn from the weights [N, S] of the bins between `edges` [N, S + 1].

    Inverts the cumulative distribution at (i + jitter) / num, `jitter` [N] in [0, 1), 0.5 when not given. No
    gradient.
    """
    with torch.no_grad():
        weights = weights + 1e-5
        share = weights / weights.sum(dim=1, keepdim=True)
        total = torch.cat((torch.zeros_like(share[:, :1]), torch.cumsum(share, dim=1)), dim=1)
        offset = torch.full_like(edges[:, 0], 0.5) if jitter is None else jitter.to(edges)
        wanted = (torch.arange(num, dtype=edges.dtype, device=edges.device) + offset[:, None]) / num
        right = torch.searchsorted(total, wanted.contiguous(), right=True).clamp(1, edges.shape[1] - 1)
        low, high = total.gather(1, right - 1), total.gather(1, right)
        span = high - low
        part = (wanted - low) / torch.where(span < 1e-5, torch.ones_like(span), span)
        start, stop = edges.gather(1, right - 1), edges.gather(1, right)
        return start + part * (stop - start)
