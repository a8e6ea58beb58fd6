"""A choice among candidates, cell by cell, that a network makes with logits."""

from __future__ import annotations

import torch
from torch import Tensor


def blend_candidates(values: Tensor, usable: Tensor, logits: Tensor) -> Tensor:
    """[..., C, h, w] the mean of K candidates, weighed at every cell by the softmax of their logits.

    values [..., K, C, h, w]; usable bool and logits [..., K, h, w]: others than the usable get no weight, and
    at every cell at least one has to be.
    """
    weights = logits.masked_fill(~usable, float("-inf")).softmax(dim=-3)
    return torch.einsum("...khw,...kchw->...chw", weights, values)
