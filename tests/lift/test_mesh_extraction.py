"""Marching cubes over callables whose surfaces are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.lift.mesh.extraction import extract_mesh

CUBE = torch.tensor([[-1.0] * 3, [1.0] * 3])


def ball(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.7


def test_sphere() -> None:
    mesh = extract_mesh(ball, CUBE, 32)
    # Linear interpolation of |x| between grid points errs by at most h^2 / (8 r): h = 1/16, r = 0.7.
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.7, atol=(1 / 16) ** 2 / (8 * 0.65))
    assert mesh.is_watertight
    # Positive: faces look outward. Less than the ball by the faceting.
    assert 0.98 < mesh.volume / (4 / 3 * np.pi * 0.7**3) < 1


def test_place_and_unequal_sides() -> None:
    middle = torch.tensor([10.0, -20.0, 5.0])
    bounds = torch.stack([middle - torch.tensor([1.0, 0.4, 0.3]), middle + torch.tensor([1.0, 0.4, 0.3])])
    asked = []

    def ellipsoid(points: Tensor) -> Tensor:
        asked.append(points)
        return ((points - middle) / torch.tensor([0.9, 0.3, 0.2])).norm(dim=1) - 1

    mesh = extract_mesh(ellipsoid, bounds, 40)
    np.testing.assert_allclose(
        mesh.bounds, (middle + torch.tensor([[-1.0], [1.0]]) * torch.tensor([0.9, 0.3, 0.2])), atol=0.01
    )
    # Cells of 1/20: 41 x 17 x 13 points.
    assert sum(len(points) for points in asked) == 41 * 17 * 13


def test_capped_at_the_bounds() -> None:
    mesh = extract_mesh(lambda p: p[:, 2] - 0.1, CUBE, 8)
    assert mesh.is_watertight
    # Everything below z = 0.1, and at the bounds within a cell (1/4) of them.
    low, high = mesh.bounds
    assert high[2] == pytest.approx(0.1, abs=1e-5)
    assert (low <= -1).all()
    assert (low > -1.25).all()


@pytest.mark.parametrize("resolution", [30, 45])
def test_skipping_far_blocks_changes_nothing(resolution: int) -> None:
    counts = [0, 0]

    def counting(which: int):
        def two_balls(points: Tensor) -> Tensor:
            counts[which] += len(points)
            other = (points - torch.tensor([0.6, 0.55, -0.6])).norm(dim=1) - 0.05
            return torch.minimum((points + 0.2).norm(dim=1) - 0.5, other)

        return two_balls

    whole = extract_mesh(counting(0), CUBE, resolution)
    quick = extract_mesh(counting(1), CUBE, resolution, lipschitz=1.0, points_at_once=1000)
    np.testing.assert_array_equal(quick.faces, whole.faces)
    np.testing.assert_array_equal(quick.vertices, whole.vertices)
    assert counts[1] < 0.75 * counts[0]


def test_chunks_and_progress() -> None:
    class Counter:
        total, done, closed = 0, 0, False

        def start(self, total: int, what: str) -> None:
            self.total = total

        def advance(self, n: int = 1) -> None:
            self.done += n

        def finish(self) -> None:
            self.closed = True

    sizes, counter = [], Counter()

    def watched(points: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        sizes.append(len(points))
        return ball(points)

    extract_mesh(watched, CUBE, 10, points_at_once=500, progress=counter)
    assert sizes == [500, 500, 331]
    assert (counter.total, counter.done, counter.closed) == (1331, 1331, True)


def test_faults() -> None:
    for distances, words in (
        (lambda p: torch.ones(len(p)), "nowhere but positive"),
        (lambda p: -torch.ones(len(p)), "nowhere but negative"),
        (lambda p: torch.full((len(p),), float("nan")), "NaN"),
        (lambda p: torch.ones(len(p), 1), "one value a point"),
    ):
        with pytest.raises(InputError, match=words):
            extract_mesh(distances, CUBE, 8)
    for bounds in (CUBE.flip(0), CUBE[:1], CUBE * float("inf")):
        with pytest.raises(InputError, match="bounds"):
            extract_mesh(ball, bounds, 8)
    with pytest.raises(InputError, match="resolution"):
        extract_mesh(ball, CUBE, 1)
    with pytest.raises(InputError, match="lipschitz"):
        extract_mesh(ball, CUBE, 8, lipschitz=0.0)
