"""The tiled and hash grids, the field and its rendering against SparseFusion's own tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from manyview.lift.field.compositing import cube_span, resample, trunc_exp
from manyview.lift.field.encodings import MultiresGrid
from manyview.lift.field.neural import NeuralField, sparsefusion_field

REFERENCE = Path(__file__).parents[2].parent / "shared" / "goldens" / "sparsefusion_ngp_field.safetensors"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not REFERENCE.is_file(), reason="reference tensors are not beside the checkout"),
]
BOUND = 4.0


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(REFERENCE)


@pytest.fixture(scope="module")
def field(reference) -> NeuralField:
    made = sparsefusion_field(bound=BOUND)
    # The file gives the table by a formula: entry k is ((k * 2654435761 mod 2^32) / 2^32 * 2 - 1) / 2.
    k = np.arange(made.encoding.table.numel(), dtype=np.uint64)
    values = 0.5 * (2 * ((k * np.uint64(2654435761)) % np.uint64(2**32) / 2**32) - 1)
    state = {
        f"{2 * i}.{part}": reference[f"weight.sigma_net.net.{i}.{part}"]
        for i in range(3)
        for part in ("weight", "bias")
    }
    made.network.load_state_dict(state)
    with torch.no_grad():
        made.encoding.table.copy_(torch.from_numpy(values.astype(np.float32)).view(-1, 2))
    return made.requires_grad_(False)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("kind", ["tiled", "hash"])
def test_small_grids(reference, kind, backend):
    grid = MultiresGrid(kind, num_levels=8, finest=1500, log2_size=13, backend=backend)
    assert_close(grid.offsets.int(), reference[f"out.{kind}.offsets"].int())
    assert_close(torch.from_numpy(grid.scales), reference[f"out.{kind}.level_scale"], atol=0, rtol=2e-7)
    assert_close(torch.from_numpy(grid.strides).int() - 1, reference[f"out.{kind}.level_resolution"].int())
    with torch.no_grad():
        grid.table.copy_(reference[f"weight.{kind}.embeddings"])
        encoded = grid((reference["in.points"] + BOUND) / (2 * BOUND))
    assert_close(encoded, reference[f"out.{kind}.encoding"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_published_field(reference, field, backend):
    field.encoding.backend = backend
    points = reference["in.points"]
    assert_close(field.encoding.offsets.int(), reference["out.field.offsets"].int())
    encoded = field.encoding((points + BOUND) / (2 * BOUND))
    assert_close(encoded, reference["out.field.encoding"], atol=5e-3, rtol=0)
    density, albedo = field.query(points)
    assert_close(density, reference["out.field.sigma"], atol=1e-3, rtol=1e-2)
    assert_close(albedo, reference["out.field.albedo"], atol=1e-3, rtol=0)


def test_truncated_exponential(reference):
    x = reference["in.trunc_x"].clone().requires_grad_(True)
    y = trunc_exp(x)
    y.sum().backward()
    assert_close(y.detach(), reference["out.trunc_exp"])
    assert_close(x.grad, reference["out.trunc_exp_grad"])


def test_rendering(reference, field):
    o, d = reference["in.rays_o"], reference["in.rays_d"]
    enter, leave = cube_span(o, d, BOUND, 0.1)
    assert_close(enter, reference["out.render.near"])
    assert_close(leave, reference["out.render.far"])
    field.encoding.backend = "auto"
    color, alpha, depth = field.march(o, d, None)
    assert_close(color, reference["out.render.image"], atol=1e-3, rtol=0)
    assert_close(alpha, reference["out.render.weights_sum"], atol=1e-3, rtol=0)
    # Theirs: depth from 0 at the near end to 1 at the far end, and clamped there.
    relative = (depth - alpha * enter) / (leave - enter)
    assert_close(relative, reference["out.render.depth"], atol=2e-3, rtol=0)


def test_finer_samples_fall_where_theirs_do(reference, field):
    # Distances of their fine points along the ray; ours from their coarse points' weights.
    o, d = reference["in.rays_o"], reference["in.rays_d"]
    enter, leave = cube_span(o, d, BOUND, 0.1)
    t = enter[:, None] + (leave - enter)[:, None] * torch.linspace(0, 1, 64)
    coarse = (o[:, None] + t[..., None] * d[:, None]).clamp(-BOUND, BOUND)
    assert_close(coarse, reference["out.render.coarse_points"], atol=1e-5, rtol=1e-5)
    density = field.query(coarse.reshape(-1, 3))[0].view(t.shape)
    lengths = torch.cat((t[:, 1:] - t[:, :-1], ((leave - enter) / 64)[:, None]), dim=1)
    alpha = 1 - torch.exp(-density * lengths)
    left = torch.cumprod(torch.cat((torch.ones(len(o), 1), 1 - alpha), dim=1), dim=1)[:, :-1]
    fine = resample((t[:, 1:] + t[:, :-1]) / 2, (alpha * left)[:, 1:-1], 64)
    points = (o[:, None] + fine[..., None] * d[:, None]).clamp(-BOUND, BOUND)
    assert_close(points, reference["out.render.fine_points"], atol=5e-3, rtol=0)
