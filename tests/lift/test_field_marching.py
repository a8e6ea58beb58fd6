"""Rays through voxels: known answers, and the compiled form against the torch form with its autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.lift.field.kernel_marching import DEPTH, NORMAL, NUM_OUTPUTS, OPACITY
from manyview.lift.field.marching import GridRays, Voxels, march_density, march_distance
from manyview.lift.field.voxels import cells_of, distance_to_cells, number_nodes

SHAPE = (12, 10, 9)


def make_rays(count: int, dtype: torch.dtype = torch.float32) -> GridRays:
    """From outside through the grid; a few miss it."""
    generator = torch.Generator().manual_seed(3)
    middle = torch.tensor([(n - 1) / 2 for n in SHAPE])
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 20 + middle
    targets = torch.rand(count, 3, generator=generator) * middle * 2.4 - 0.2 * middle
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    jitter = torch.rand(count, generator=generator)
    return GridRays(
        origins=origins.to(dtype),
        directions=directions.to(dtype),
        jitter=jitter.to(dtype),
        near=torch.zeros(count, dtype=dtype),
    )


def along_x(count: int = 1, jitter: float = 0.5) -> GridRays:
    origins = torch.tensor([[-3.0, 4.2, 3.9]]).repeat(count, 1)
    directions = torch.tensor([[1.0, 0.0, 0.0]]).repeat(count, 1)
    return GridRays(
        origins=origins, directions=directions, jitter=torch.full((count,), jitter), near=torch.zeros(count)
    )


def random_parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw density, which nodes have rows, and the rows."""
    generator = torch.Generator().manual_seed(4)
    raw = torch.randn(SHAPE, generator=generator) * 2 - 2
    active = torch.rand(SHAPE, generator=generator) > 0.1
    return raw, active, torch.randn(int(active.sum()), 8, generator=generator)


def leaves(dtype: torch.dtype, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.clone().to(dtype).requires_grad_(True) for tensor in tensors]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_homogeneous_box(backend):
    # softplus(raw) = log(1 + e^0) = log 2 everywhere; along x the box is 11 voxels long, so 22 steps of half
    # a voxel: opacity 1 - exp(-gain log 2 * 22), gain being that of one step. Every sample has colour 1/2.
    gain = 0.1
    voxels = Voxels(
        geometry=torch.zeros(SHAPE),
        index=number_nodes(torch.ones(SHAPE, dtype=torch.bool)),
        features=torch.zeros(math.prod(SHAPE), 8),
    )
    skip = distance_to_cells(torch.ones([n - 1 for n in SHAPE], dtype=torch.bool))
    out = march_density(along_x(), voxels, skip, gain=gain, step=0.5, backend=backend)[0]
    opacity = 1 - math.exp(-gain * math.log(2) * 22)
    assert math.isclose(float(out[OPACITY]), opacity, rel_tol=1e-5)
    assert_close(out[:3], torch.full((3,), opacity / 2))
    # Step k, from 0, has weight (1 - a) a^k with a = 2^-gain and lies 3 + (k + 1/2) / 2 from the origin.
    a = 2**-gain
    depth = sum((1 - a) * a**k * (3.25 + 0.5 * k) for k in range(22))
    assert math.isclose(float(out[DEPTH]), depth, rel_tol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_plane_is_met_where_it_stands(backend):
    # Distance falls from 5.3 to -5.7 along x: a surface at x = 5.3, 8.3 from the origin, facing -x.
    distances = (5.3 - torch.arange(SHAPE[0]))[:, None, None].expand(SHAPE).contiguous()
    voxels = Voxels(
        geometry=distances, index=torch.full(SHAPE, -1, dtype=torch.int32), features=torch.zeros(1, 8)
    )
    jitter = torch.linspace(0, 1, 65)[:-1]
    rays = along_x(64)
    rays = GridRays(origins=rays.origins, directions=rays.directions, jitter=jitter, near=rays.near)
    out = march_distance(rays, voxels, torch.tensor(8.0), step=0.5, backend=backend)
    opacity = out[:, OPACITY]
    assert float(opacity.min()) > 0.99
    # One section is half a voxel; over all jitters the middle of the sections is unbiased.
    assert abs(float((out[:, DEPTH] / opacity).mean()) - 8.3) < 0.03
    assert_close(out[:, NORMAL : NORMAL + 3] / opacity[:, None], torch.tensor([-1.0, 0, 0]).expand(64, 3))


def test_density_compiled_against_torch():
    raw, active, rows = random_parts()
    skip = distance_to_cells(cells_of(active))
    cotangent = torch.randn(200, NUM_OUTPUTS, generator=torch.Generator().manual_seed(5))
    cotangent[:, NORMAL:] = 0
    answers = []
    for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
        geometry, features = leaves(dtype, raw, rows)
        voxels = Voxels(geometry=geometry, index=number_nodes(active), features=features)
        out = march_density(make_rays(200, dtype), voxels, skip, gain=0.7, step=0.5, backend=backend)
        out.backward(cotangent.to(dtype))
        answers.append([x.detach().double() for x in (out, geometry.grad, features.grad)])
    assert float(answers[1][0][:, OPACITY].max()) > 0.5
    for ours, expected in zip(*answers, strict=True):
        assert_close(ours, expected, atol=2e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("anneal", [0.0, 0.6, 1.0])
def test_distance_compiled_against_torch(anneal):
    _, active, rows = random_parts()
    axes = [torch.arange(n) - (n - 1) / 2 for n in SHAPE]
    ball = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0) - 3
    bumps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(6)) * 0.2
    cotangent = torch.randn(200, NUM_OUTPUTS, generator=torch.Generator().manual_seed(5))
    # Normals carry no gradient by definition.
    cotangent[:, NORMAL:] = 0
    answers = []
    for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
        geometry, features = leaves(dtype, ball + bumps, rows)
        sharpness = torch.tensor(2.0, dtype=dtype, requires_grad=True)
        voxels = Voxels(geometry=geometry, index=number_nodes(active), features=features)
        out = march_distance(
            make_rays(200, dtype), voxels, sharpness, anneal=anneal, step=0.7, backend=backend
        )
        out.backward(cotangent.to(dtype))
        found = (out[:, :NORMAL], geometry.grad, features.grad, sharpness.grad)
        answers.append([x.detach().double() for x in found])
    assert float(answers[1][0][:, OPACITY].max()) > 0.9
    for ours, expected in zip(*answers, strict=True):
        assert_close(ours, expected, atol=5e-4 * float(expected.abs().max()), rtol=1e-3)


def test_gradient_of_the_torch_form():
    # The torch form's derivative in one node against a difference of two renderings.
    raw, active, rows = random_parts()
    skip = distance_to_cells(cells_of(active))
    rays = make_rays(20, torch.float64)
    geometry = raw.double().requires_grad_(True)

    def total(values: torch.Tensor) -> torch.Tensor:
        voxels = Voxels(geometry=values, index=number_nodes(active), features=rows.double())
        return march_density(rays, voxels, skip, gain=0.7, step=0.5, backend="torch").sum()

    (slope,) = torch.autograd.grad(total(geometry), geometry)
    node = divmod(int(slope.abs().argmax()), SHAPE[1] * SHAPE[2])
    node = (node[0], *divmod(node[1], SHAPE[2]))
    moved = torch.zeros(SHAPE, dtype=torch.float64)
    moved[node] = 1e-6
    difference = (total(raw.double() + moved) - total(raw.double() - moved)) / 2e-6
    assert_close(slope[node], difference, rtol=1e-4, atol=1e-6)


def test_number_of_threads_changes_nothing():
    raw, active, rows = random_parts()
    skip = distance_to_cells(cells_of(active))
    threads = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            geometry, features = leaves(torch.float32, raw, rows)
            voxels = Voxels(geometry=geometry, index=number_nodes(active), features=features)
            out = march_density(make_rays(600), voxels, skip, gain=0.7, step=0.5)
            out.square().sum().backward()
            answers.append((out.detach(), geometry.grad, features.grad))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*answers, strict=True):
        assert torch.equal(one, three)


def test_cells_and_their_distances():
    # One active block of 2 x 2 x 2 nodes is one cell; cells count in the largest coordinate.
    active = torch.zeros(6, 5, 4, dtype=torch.bool)
    active[1:3, 1:3, 0:2] = True
    cells = cells_of(active)
    assert cells.nonzero().tolist() == [[1, 1, 0]]
    steps = distance_to_cells(cells)
    assert steps[1, 1, 0] == 0
    assert steps[4, 1, 0] == 3
    assert steps[0, 3, 2] == 2
    assert int(distance_to_cells(torch.zeros(3, 3, 3, dtype=torch.bool)).min()) == 255


def test_backends_by_name():
    raw, active, rows = random_parts()
    voxels = Voxels(geometry=raw.double(), index=number_nodes(active), features=rows.double())
    skip = distance_to_cells(cells_of(active))
    with pytest.raises(InputError, match="backend"):
        march_density(make_rays(2), voxels, skip, gain=1, step=0.5, backend="cpu")
    with pytest.raises(InputError, match="backend"):
        march_density(make_rays(2), voxels, skip, gain=1, step=0.5, backend="gpu")  # type: ignore[arg-type]
