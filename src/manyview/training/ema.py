"""The running average of the weights, in float32."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Holds `module`, a copy of the trained network with averaged weights, in evaluation mode.

    Parameters follow shadow <- d shadow + (1 - d) weight with d from `ema_decay_at`; buffers are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(network).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (0-based). `network` has this one's structure."""
        # Weights that are not trained stay as they are to the last bit: averaging would round them.
        pairs = zip(self.module.parameters(), network.parameters(), strict=True)
        trained = [(shadow.detach(), weight) for shadow, weight in pairs if weight.requires_grad]
        shadows = [shadow for shadow, _ in trained]
        weights = [weight.detach().float() for _, weight in trained]
        average = get_ema_multi_avg_fn(ema_decay_at(step, self.decay))
        average(shadows, weights, step)
        for mine, theirs in zip(self.module.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


def ema_decay_at(step: int, decay: float) -> float:
    """min(decay, (1 + step) / (10 + step)): a short memory at first, so the first weights soon fade."""
    return min(decay, (1 + step) / (10 + step))
