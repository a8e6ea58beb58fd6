"""Objects that are their own mirror images: finding what turns them, and how far, without any measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.even_yaws import EvenYaws
from manyview.methods.refiner.pose import PoseEstimator
from manyview.methods.refiner.sweep_frames import SearchOptions, search_basis

NUMBERS, ROWS, SIZE = 6, 4, 64
RANGE_DEG = 50.0
GREY, YAW = 0, 1


class NosedBall:
    """A ball with a dark nose. Its grey varies most; its yaw is spread evenly within +-`RANGE_DEG`, and
    stands mixed among the numbers of the codes, its sign turned."""

    resolution, num_ws, w_dim = SIZE, ROWS, NUMBERS

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(3)
        self.mixing = torch.linalg.qr(torch.randn(NUMBERS, NUMBERS, generator=draws))[0]

    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        numbers = torch.zeros(len(seeds), NUMBERS)
        for row, seed in zip(numbers, seeds, strict=True):
            draws = torch.Generator().manual_seed(seed)
            row.copy_(0.1 * torch.randn(NUMBERS, generator=draws))
            row[GREY] = 5 * torch.randn((), generator=draws)
            row[YAW] = 2 * torch.rand((), generator=draws) - 1
        numbers[:, YAW] *= 3  # degrees apart, what codes are is not in any unit
        codes = truncation * numbers @ self.mixing.T
        return codes[:, None].repeat(1, ROWS, 1)

    def mean_code(self) -> Tensor:
        return torch.zeros(ROWS, NUMBERS)

    def yaw_deg(self, codes: Tensor) -> Tensor:
        return -RANGE_DEG / 3 * (codes.mean(dim=1) @ self.mixing)[:, YAW]

    def __call__(self, codes: Tensor) -> Tensor:
        grey = 0.6 + 0.02 * (codes.mean(dim=1) @ self.mixing)[:, GREY].clamp(-10, 10)
        grid = (torch.arange(SIZE) + 0.5 - SIZE / 2) / SIZE
        x, y = grid[None, None, :], grid[None, :, None]
        # What faces a camera that moved to its right is left of the middle.
        side = -0.3 * torch.deg2rad(self.yaw_deg(codes)).sin()[:, None, None]
        nose = torch.exp(-((x - side).square() + y.square()) / 0.008)
        ball = torch.sigmoid((0.34 - (x.square() + y.square()).sqrt()) * 80)
        shade = 1 - ball * (1 - grey[:, None, None] * (1 - 0.8 * nose))
        return shade[:, None].expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def basis() -> SweepBasis:
    options = SearchOptions(
        num_samples=500, num_components=4, searched=4, num_codes=4, amount=1.0, symmetric=True, truncation=1.0
    )
    camera = PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8)
    return search_basis(NosedBall(), camera, options)  # pyright: ignore[reportArgumentType]


def test_mirrored_pictures_show_the_direction_and_outlines_its_sign(basis: SweepBasis) -> None:
    ball = NosedBall()
    assert basis.rotation.component == 1  # grey varies more
    codes = ball.sample(range(8))
    turned = ball.yaw_deg(basis.edit(codes, torch.full((8,), 0.5))) - ball.yaw_deg(codes)
    even = RANGE_DEG / math.sqrt(3)
    torch.testing.assert_close(turned, torch.full((8,), 0.5 * even), atol=2.0, rtol=0)
    assert basis.rotation.yaw_per_sigma_deg > 5


def test_ranks_are_yaws(basis: SweepBasis) -> None:
    ball = NosedBall()
    ranks = EvenYaws(ball, basis, RANGE_DEG)  # pyright: ignore[reportArgumentType]
    codes = ball.sample(range(50_000, 50_040))
    amounts = torch.tensor([[0.0, -0.6, 0.3]]).expand(40, -1)
    truth = torch.stack([ball.yaw_deg(basis.edit(codes, amounts[:, k])) for k in range(3)], dim=1)
    told = ranks.yaw_deg(codes, amounts)
    within = truth.abs() < 0.9 * RANGE_DEG
    assert int(within.sum()) > 60
    assert float((told - truth)[within].abs().max()) < 3
    # Beyond the range nothing is known but its end.
    far = ranks.yaw_deg(codes, torch.full((40, 1), 30.0))
    torch.testing.assert_close(far, torch.full((40, 1), RANGE_DEG))
    torch.testing.assert_close(ranks.yaw_deg(codes, -torch.full((40, 1), 30.0)), -far)
