"""Random cameras shared by the geometry tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.spatial.transform import Rotation

from manyview.types import Cameras

MakeCameras = Callable[..., Cameras]


@pytest.fixture
def make_cameras() -> MakeCameras:
    """Double-precision cameras about 4 units from the origin, roughly facing it, no two alike."""

    def make(count: int = 3, seed: int = 0, size: tuple[int, int] = (24, 32), lens: float = 0.0) -> Cameras:
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1

        transforms = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        turns = torch.from_numpy(Rotation.random(count, rng=seed).as_matrix())
        transforms[:, :3, :3] = turns
        # Standing back along the viewing axis puts the origin in front of the camera.
        transforms[:, :3, 3] = -4 * turns[:, :, 2] + 0.3 * uniform(count, 3)
        K = torch.zeros(count, 3, 3, dtype=torch.float64)
        K[:, 0, 0] = 30 + 3 * uniform(count)
        K[:, 1, 1] = 28 + 3 * uniform(count)
        K[:, 0, 2] = size[1] / 2 + uniform(count)
        K[:, 1, 2] = size[0] / 2 + uniform(count)
        K[:, 2, 2] = 1
        sizes = torch.tensor([size]).expand(count, 2).clone()
        return Cameras(
            world_from_cam=transforms,
            K=K,
            sizes=sizes,
            distortion=lens * uniform(count, 6) if lens else None,
        )

    return make


@pytest.fixture
def world_points() -> torch.Tensor:
    """[20, 3] points in a ball of radius 0.5 about the origin."""
    generator = torch.Generator().manual_seed(11)
    return torch.rand(20, 3, generator=generator, dtype=torch.float64) - 0.5
