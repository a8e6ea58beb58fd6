"""Plücker coordinates, harmonics and epipolar samples against SparseFusion's own (PyTorch3D) tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from manyview.geometry.epipolar import epipolar_samples
from manyview.geometry.rays import harmonic_embedding, plucker
from manyview.types import Cameras

REFERENCE = Path(__file__).parents[2].parent / "shared" / "goldens" / "sparsefusion_eft.safetensors"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not REFERENCE.is_file(), reason="reference tensors are not beside the checkout"),
]


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(REFERENCE, "pt") as stream:
        names = [name for name in stream.keys() if not name.startswith("weight.")]  # noqa: SIM118
        return {name: stream.get_tensor(name) for name in names}


def test_harmonics_and_plucker(reference):
    assert_close(
        harmonic_embedding(reference["out.query_plucker"], 6), reference["out.query_plucker_harmonic"]
    )
    # SparseFusion's rays have z = 1; it normalises them for the Plücker coordinates.
    directions = torch.nn.functional.normalize(reference["out.ray_directions"], dim=-1)
    own = plucker(reference["out.ray_origins"], directions)
    assert_close(own, reference["out.query_plucker"], atol=1e-6, rtol=1e-5)


def test_epipolar_samples(reference):
    # Pixels from NDC (x left, y up) of the square 64-pixel image: u = 32 (1 - x).
    cameras = Cameras(
        world_from_cam=reference["cv.rel_world_from_cam"],
        K=reference["cv.K_pixels"],
        sizes=torch.tensor([[64, 64]] * 5),
    )
    query_pixels = 32 * (1 - reference["out.ray_xy_ndc"])
    depths = reference["out.depths"][None]
    samples = epipolar_samples(query_pixels[None], cameras[0], cameras[1:4], depths)
    assert_close(samples.points[0], reference["out.points"], atol=1e-5, rtol=1e-5)
    expected = 32 * (1 - reference["out.projected_ndc"])
    assert_close(samples.pixels[0], expected, atol=1e-3, rtol=1e-5)
