"""Distances between sets of features: Gaussians whose distance is known, symmetry, what is refused."""

from __future__ import annotations

import pytest
import torch

from manyview.errors import InputError
from manyview.metrics.distribution import frechet_distance, kernel_distance


def normal(count: int, *deviations: float, seed: int = 0) -> torch.Tensor:
    """Features with exactly zero mean and these exact deviations, uncorrelated."""
    draws = torch.randn(count, len(deviations), generator=torch.Generator().manual_seed(seed)).double()
    draws = draws - draws.mean(dim=0)
    covariance = draws.T @ draws / (count - 1)
    white = draws @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    return white * torch.tensor(deviations, dtype=torch.float64)


def test_gaussians_of_known_distance() -> None:
    """With covariances that commute it is |m - n|^2 + sum (s - t)^2 over the deviations of both."""
    a = normal(500, 1.0, 2.0, 0.5)
    b = normal(400, 3.0, 2.0, 1.5, seed=1) + torch.tensor([1.0, -2.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(5 + 4 + 0 + 1, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # A turn of both changes nothing.
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double())[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(10, rel=1e-9)


def test_covariances_that_do_not_commute() -> None:
    """A = diag(1, 4), B the same turned by 45 degrees: B = [[2.5, 1.5], [1.5, 2.5]]. A B has the trace
    1 * 2.5 + 4 * 2.5 = 12.5 and the determinant 16, so tr (A B)^(1/2) = sqrt(12.5 + 2 * 4)."""
    a = normal(300, 1.0, 2.0)
    half = 0.5**0.5
    b = normal(300, 1.0, 2.0, seed=5) @ torch.tensor([[half, -half], [half, half]], dtype=torch.float64)
    assert frechet_distance(a, b) == pytest.approx(5 + 5 - 2 * 20.5**0.5, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_fewer_features_than_their_length() -> None:
    few = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 1) == pytest.approx(40, rel=1e-6)


def test_kernel_distance_by_hand() -> None:
    """D = 1, sets {0, 1} and {2, 0}. Kernel (x y + 1)^3: within the first k(0, 1) = 1, within the second
    k(2, 0) = 1; across k(0, 2) = 1, k(0, 0) = 1, k(1, 2) = 27, k(1, 0) = 1, mean 7.5."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    assert kernel_distance(a, b) == pytest.approx(1 + 1 - 15)


def test_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    draws = torch.randn(40, 50, 4, generator=torch.Generator().manual_seed(0))
    same = torch.tensor([kernel_distance(a, b) for a, b in draws.view(20, 2, 50, 4)])
    other = torch.tensor([kernel_distance(a, b + 1) for a, b in draws.view(20, 2, 50, 4)])
    assert float(same.mean()) == pytest.approx(0, abs=3 * float(same.std()) / 20**0.5)
    assert float(other.min()) > float(same.max())


def test_neither_set_comes_first() -> None:
    a, b = normal(60, 1.0, 2.0), normal(40, 0.5, 1.0, seed=3) + 1
    for distance in (frechet_distance, kernel_distance):
        assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_refusals(distance) -> None:
    good = torch.rand(4, 3)
    with pytest.raises(InputError, match="at least 2"):
        distance(good[:1], good)
    with pytest.raises(InputError, match="one length"):
        distance(good, torch.rand(4, 2))
    with pytest.raises(InputError, match="finite"):
        distance(good, good / 0)
