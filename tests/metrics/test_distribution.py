"""Distances between sets: what Gaussians and shifts of known distance give."""

from __future__ import annotations

import math

import pytest
import torch

from manyview.errors import InputError
from manyview.metrics.distribution import frechet_distance, kernel_distance


def gaussian(count: int, mean: torch.Tensor, std: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples whose mean and covariance are exactly these: whitened, so that no sampling error is left."""
    draws = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws = draws - draws.mean(dim=0)
    whitener = torch.linalg.inv(torch.linalg.cholesky(draws.T @ draws / (count - 1)))
    return draws @ whitener.T * std + mean


def test_frechet_of_known_gaussians() -> None:
    # |m|^2 + sum (s_a - s_b)^2 for covariances that share their axes.
    mean_a, mean_b = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 1.0, 0.0])
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, 2.0, 1.5])
    expected = (1 + 0 + 4) + (1 + 0 + 1)
    a, b = gaussian(500, mean_a, std_a, 0), gaussian(300, mean_b, std_b, 1)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_does_not_depend_on_the_axes() -> None:
    a = gaussian(200, torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), 2)
    b = gaussian(200, torch.ones(3), torch.tensor([3.0, 1.0, 1.0]), 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)).double())[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_frechet_of_sets_smaller_than_their_features() -> None:
    draws = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))
    assert frechet_distance(draws, draws) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(draws, draws + 1) == pytest.approx(32, rel=1e-4)


def test_kernel_distance_by_hand() -> None:
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    # Unbiased: within a set only the pair of different rows. k(1, 2) = 27, k(0, 3) = 1.
    across = (1 + 4**3 + 1 + 7**3) / 4
    assert kernel_distance(a, b) == pytest.approx(27 + 1 - 2 * across)


def test_kernel_distance_tells_a_shift_from_none() -> None:
    draws = torch.Generator().manual_seed(6)
    a, b, moved = (torch.randn(400, 8, generator=draws) for _ in range(3))
    assert abs(kernel_distance(a, b)) < 0.03
    assert kernel_distance(a, moved + 1) > 1
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3)),
        (torch.zeros(5, 3), torch.zeros(5, 4)),
        (torch.full((5, 3), math.nan), torch.zeros(5, 3)),
    ],
)
def test_what_is_no_pair_of_sets_is_refused(a: torch.Tensor, b: torch.Tensor) -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(InputError, match="features: "):
            distance(a, b)
