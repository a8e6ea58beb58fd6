"""Cameras and points for the pose formats, and a projection written apart from the package's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from manyview.io.frames import FrameTable
from manyview.types import Cameras

MakeTable = Callable[..., FrameTable]


@pytest.fixture
def make_table() -> MakeTable:
    """Frames `000.png` ... with cameras about 4 units from the origin that face it."""

    def make(
        count: int = 4, lens: tuple[float, ...] | None = None, *, shared: bool = False, centered: bool = False
    ) -> FrameTable:
        rng = np.random.default_rng(5)
        turns = Rotation.random(count, rng=rng).as_matrix()
        transforms = np.tile(np.eye(4), (count, 1, 1))
        transforms[:, :3, :3] = turns
        transforms[:, :3, 3] = -4 * turns[:, :, 2] + rng.uniform(-0.2, 0.2, (count, 3))
        K = np.tile(np.eye(3), (count, 1, 1))
        K[:, 0, 0] = 70 + rng.uniform(-5, 5, count)
        K[:, 1, 1] = 70 + rng.uniform(-5, 5, count)
        K[:, 0, 2] = 40 + rng.uniform(-3, 3, count)
        K[:, 1, 2] = 30 + rng.uniform(-3, 3, count)
        if shared:
            K[:] = K[0]
        if centered:
            K[:] = np.array([[75.0, 0, 40], [0, 75, 30], [0, 0, 1]])
        cameras = Cameras(
            world_from_cam=torch.tensor(transforms, dtype=torch.float32),
            K=torch.tensor(K, dtype=torch.float32),
            sizes=torch.tensor([[60, 80]] * count),
            distortion=None if lens is None else torch.tensor([lens] * count, dtype=torch.float32),
        )
        return FrameTable(files=tuple(f"images/{index:03d}.png" for index in range(count)), cameras=cameras)

    return make


@pytest.fixture
def points() -> np.ndarray:
    """[7, 3] world points about the origin."""
    return np.random.default_rng(1).uniform(-0.5, 0.5, (7, 3))


@pytest.fixture
def opencv_pixels() -> Callable[[Cameras, int, np.ndarray], np.ndarray]:
    """[N, 2] pixels by OpenCV's own formula from one of the package's `Cameras`."""

    def pixels(cameras: Cameras, index: int, world: np.ndarray) -> np.ndarray:
        pose = np.linalg.inv(cameras.world_from_cam[index].double().numpy())
        K = cameras.K[index].double().numpy()
        x, y, z = (pose[:3, :3] @ world.T + pose[:3, 3:])[:3]
        assert (z > 0).all()
        x, y = x / z, y / z
        if cameras.distortion is not None:
            k1, k2, k3, k4, p1, p2 = cameras.distortion[index].double().tolist()
            r2 = x**2 + y**2
            radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
            x, y = (
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
                y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
            )
        return np.stack((K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]), axis=1)

    return pixels


def assert_same_cameras(first: Cameras, second: Cameras, atol: float = 0.0) -> None:
    for name in ("world_from_cam", "K", "distortion"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, atol=atol, rtol=0)
    assert torch.equal(first.sizes, second.sizes)


@pytest.fixture
def same_cameras() -> Callable[..., None]:
    return assert_same_cameras
