"""Encodings of points: what they are at nodes, outside, and compiled against torch."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.lift.field.compositing import cube_span, density_weights, resample
from manyview.lift.field.encodings import DenseGrid, MultiresGrid, Triplane
from manyview.lift.field.lookup import blend_grid, blend_rows, blend_slope
from manyview.lift.field.neural import build_field


def some_points(count: int = 300) -> torch.Tensor:
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 1.1 - 0.05
    points[0], points[1] = torch.zeros(3), torch.ones(3)
    return points


@pytest.mark.parametrize("kind", ["hash", "tiled"])
def test_compiled_grid_against_torch(kind):
    points = some_points()
    cotangent = torch.randn(len(points), 8, generator=torch.Generator().manual_seed(1))
    answers = []
    for backend in ("cpu", "torch"):
        # log2_size 8: the finer two of four levels do not fit, so rows are shared.
        grid = MultiresGrid(kind, num_levels=4, base=4, finest=40, log2_size=8, backend=backend)
        with torch.no_grad():
            grid.table.copy_(torch.randn(grid.table.shape, generator=torch.Generator().manual_seed(2)))
        encoded = grid(points)
        encoded.backward(cotangent)
        answers.append((encoded.detach(), grid.table.grad))
    for ours, expected in zip(*answers, strict=True):
        assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_constant_table_gives_a_constant_inside_and_zero_outside():
    # Trilinear weights sum to one, whatever rows are shared.
    points = some_points()
    inside = ((points >= 0) & (points <= 1)).all(dim=1)
    assert 0 < int(inside.sum()) < len(points)
    for grid in (MultiresGrid("hash", num_levels=3, finest=64, log2_size=10), DenseGrid(5, 4)):
        with torch.no_grad():
            grid.table.fill_(0.7)
            encoded = grid(points)
        assert_close(encoded, 0.7 * inside[:, None].float().expand_as(encoded))


def test_a_linear_field_is_kept():
    # Trilinear interpolation is exact for linear functions, and their gradient is the coefficients.
    grid = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in (6, 5, 4)], indexing="ij"), dim=-1)
    linear = grid @ torch.tensor([2.0, -1.0, 0.5]) + 3
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 4.0, 3.0])
    expected = points @ torch.tensor([2.0, -1.0, 0.5]) + 3
    assert_close(blend_grid(linear, points), expected)
    assert_close(blend_slope(linear, points), torch.tensor([2.0, -1.0, 0.5]).expand(50, 3))
    index = torch.arange(120, dtype=torch.int32).view(6, 5, 4)
    assert_close(blend_rows(index, linear.reshape(-1, 1), points)[:, 0], expected)


def test_planes_multiply():
    planes = Triplane(4, 2)
    with torch.no_grad():
        planes.planes.copy_(torch.tensor([2.0, 3.0, 5.0])[:, None, None, None].expand_as(planes.planes))
        encoded = planes(torch.tensor([[0.2, 0.9, 0.4], [1.2, 0.5, 0.5]]))
    assert_close(encoded, torch.tensor([[30.0, 30.0], [0.0, 0.0]]))


def test_weights_of_homogeneous_density():
    # Density 0.3 over 8 lengths of 0.5: exp(-1.2) is left; each weight is e^(-0.15 k) (1 - e^-0.15).
    weights = density_weights(torch.full((1, 8), 0.3), torch.full((1, 8), 0.5))
    assert_close(weights.sum(), 1 - torch.tensor(-1.2).exp())
    k = torch.arange(8)
    assert_close(weights[0], torch.exp(-0.15 * k) * (1 - torch.tensor(-0.15).exp()))


def test_resampling_follows_the_weights():
    # All the weight in the second of three bins [1, 3): four samples at 1/8, 3/8, 5/8, 7/8 of it.
    edges = torch.tensor([[0.0, 1.0, 3.0, 4.0]])
    samples = resample(edges, torch.tensor([[0.0, 1e4, 0.0]]), 4)
    assert_close(samples, torch.tensor([[1.25, 1.75, 2.25, 2.75]]), atol=1e-3, rtol=0)


def test_span_of_a_cube():
    origins = torch.tensor([[-3.0, 0, 0], [0.0, 0, 0], [-3.0, 2, 0]])
    directions = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [1.0, 0, 0]])
    enter, leave = cube_span(origins, directions, 1.0, 0.1)
    # From outside 2 to 4; from the middle the near limit to half of 1 (the direction is 2 long); a miss.
    assert_close(enter[:2], torch.tensor([2.0, 0.1]))
    assert_close(leave[:2], torch.tensor([4.0, 0.5]))
    assert leave[2] <= enter[2]


@pytest.mark.parametrize("kind", ["hash", "dense", "triplane"])
def test_neural_fields_move_with_the_world(kind):
    # The same field in a world 1000 times as large and moved: same picture, depth 1000 times as large.
    small = build_field(kind, (-0.5, -0.4, -0.3), (0.5, 0.4, 0.3), 32, seed=1)
    large = build_field(kind, (-493.0, -400.0, -300.0), (507.0, 400.0, 300.0), 32, seed=1)
    origins = torch.tensor([[-2.0, 0.1, 0.05], [0.0, 2.0, 0.3]])
    directions = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [0.1, -1.0, -0.1]]), dim=1)
    with torch.no_grad():
        near = small.render_rays(origins, directions)
        far = large.render_rays(origins * 1000 + torch.tensor([7.0, 0, 0]), directions)
    assert float(near.alphas.min()) > 0.3
    assert_close(far.alphas, near.alphas, atol=1e-3, rtol=0)
    assert_close(far.depths, near.depths * 1000, rtol=1e-3, atol=0)


def test_wrong_grids():
    with pytest.raises(InputError, match="kind"):
        MultiresGrid("sparse")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="levels"):
        MultiresGrid("hash", base=32, finest=16)
