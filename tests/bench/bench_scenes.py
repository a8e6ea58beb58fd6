"""Scenes whose scores can be told beforehand."""

from __future__ import annotations

import torch

from manyview.geometry.trajectories import orbit
from manyview.types import Views

SIZE = 32


def grey_views(levels: list[float], noise_seed: int | None = None) -> Views:
    """16 views of the orbit, each of one grey level (or noisy about it); 8-bit levels survive the disk."""
    images = torch.tensor(levels)[:, None, None, None].expand(16, 3, SIZE, SIZE).clone()
    if noise_seed is not None:
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(noise_seed))
        images = (images + 0.3 * noise).clamp(0, 1)
    return Views(images=images, cameras=orbit(16, 30.0, size=SIZE))


class StopAfter:
    """A user who presses control-C once so much is done."""

    def __init__(self, count: int) -> None:
        self.left = count

    def start(self, total: int, what: str) -> None:
        assert total > 0

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left <= 0:
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass
