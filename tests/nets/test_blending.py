"""A choice among candidates: certain, even, and only among the usable."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from manyview.nets.blending import blend_candidates

VALUES = torch.randn(2, 5, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def test_certain_and_even_choices() -> None:
    usable = torch.ones(2, 5, 3, 2, 2, dtype=torch.bool)
    logits = torch.zeros(2, 5, 3, 2, 2)
    assert_close(blend_candidates(VALUES, usable, logits), VALUES.mean(dim=2))
    logits[:, :, 1] = 200
    assert_close(blend_candidates(VALUES, usable, logits), VALUES[:, :, 1])


def test_what_is_not_usable_has_no_weight_and_no_gradient() -> None:
    usable = torch.ones(2, 5, 3, 2, 2, dtype=torch.bool)
    usable[:, :, 2] = False
    logits = torch.zeros(2, 5, 3, 2, 2, requires_grad=True)
    made = blend_candidates(VALUES, usable, logits)
    assert_close(made, VALUES[:, :, :2].mean(dim=2))
    made.square().sum().backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 2].any()
