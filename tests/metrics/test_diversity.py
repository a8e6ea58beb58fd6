"""Spread over samples, by hand and by an identity that ties its two forms together."""

from __future__ import annotations

import pytest
import torch

from manyview.errors import InputError
from manyview.metrics import mean_pairwise_distance, pixel_std


def test_std_by_hand() -> None:
    # Samples 0, 0.2 and 0.4: variance ((0.2)^2 + 0 + (0.2)^2) / 2 = 0.04.
    samples = torch.tensor([0.0, 0.2, 0.4]).reshape(3, 1, 1, 1, 1).expand(3, 2, 3, 4, 4)
    spread = pixel_std(samples)
    assert spread.shape == (2, 1, 4, 4)
    assert torch.allclose(spread, torch.full((2, 1, 4, 4), 0.2))


def test_variance_is_averaged_over_colours() -> None:
    # Only red differs: variances (0.5, 0, 0) average to 1/6.
    samples = torch.zeros(2, 1, 3, 1, 1)
    samples[1, 0, 0] = 1
    assert pixel_std(samples).item() == pytest.approx((1 / 6) ** 0.5)


def test_equal_samples_have_none() -> None:
    samples = torch.rand(1, 2, 3, 4, 4).expand(3, -1, -1, -1, -1)
    assert pixel_std(samples).abs().max() < 1e-7
    assert mean_pairwise_distance(samples).abs().max() == 0


def test_pairwise_by_hand() -> None:
    # Pairs of 0, 0.2 and 0.6: (0.2 + 0.6 + 0.4) / 3.
    samples = torch.tensor([0.0, 0.2, 0.6]).reshape(3, 1, 1, 1, 1).expand(3, 2, 3, 4, 4)
    assert mean_pairwise_distance(samples).tolist() == pytest.approx([0.4, 0.4])


def test_squared_pairwise_distance_is_twice_the_variance() -> None:
    samples = torch.rand(5, 2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    squared = mean_pairwise_distance(samples, lambda a, b: (a - b).square().mean(dim=(1, 2, 3)))
    assert torch.allclose(squared, 2 * pixel_std(samples).square().mean(dim=(1, 2, 3)), rtol=1e-5)


def test_one_sample_is_refused() -> None:
    with pytest.raises(InputError, match="at least two samples"):
        pixel_std(torch.zeros(1, 2, 3, 4, 4))
