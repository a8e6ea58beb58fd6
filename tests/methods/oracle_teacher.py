"""A teacher that knows the scene: true renders of a ball plus noise, for tests of distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manyview.geometry.rays import camera_rays
from manyview.methods.sparsefusion.noise_levels import cosine_log_snr
from manyview.methods.sparsefusion.teacher import Looked, coverage_of
from manyview.progress import Progress
from manyview.types import Cameras, Views

RADIUS = 0.35


def ball_views(cameras: Cameras) -> Views:
    """A ball about the origin whose colour says where its surface looks, 0.45 + 0.35 n; ray traced exactly,
    four rays a pixel."""
    height, width = (int(length) for length in cameras.sizes[0])
    origins, directions = camera_rays(cameras.resized(2 * height, 2 * width))
    along = -(origins * directions).sum(dim=-1)
    gap = (origins * origins).sum(dim=-1) - along**2
    hit = (gap < RADIUS**2).float()[:, None]
    distance = along - (RADIUS**2 - gap).clamp_min(0).sqrt()
    normals = (origins + distance[..., None] * directions) / RADIUS
    colors = (0.45 + 0.35 * normals).clamp(0, 1).permute(0, 3, 1, 2) * hit
    masks = torch.nn.functional.avg_pool2d(hit.float(), 2)
    colors = torch.nn.functional.avg_pool2d(colors.float(), 2) / masks.clamp_min(0.25)
    return Views(images=colors, masks=masks, cameras=cameras)


class OracleTeacher:
    """What distillation asks of a teacher, answered from the truth.

    The EFT's pictures are the truth with noise, blurred; the diffusion model's keep alpha^2 of the render
    they start from and take the rest from the truth with noise. A camera's feature is its number.
    """

    latent_shape = (1, 1, 1)

    def __init__(self, noise: float = 0.05) -> None:
        self.noise = noise
        self.asked: list[Cameras] = []
        self.drawn: list[tuple[float, int]] = []
        self.truth = torch.zeros(0)

    def frames(self, given: Views) -> Views:
        return given[given.observed.nonzero()[:, 0]]

    def look(
        self, given: Views, cameras: Cameras, *, rows: int = 32, progress: Progress | None = None
    ) -> Looked:
        self.asked.append(cameras)
        self.truth = ball_views(cameras).over(1.0)
        noisy = self._noisy(0, self.truth)
        images = torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
        features = torch.arange(len(cameras)).float().reshape(-1, 1, 1, 1)
        return Looked(features, images, coverage_of(images))

    def draw(
        self,
        features: Tensor,
        noise: Tensor,
        *,
        start: Tensor | None = None,
        t_max: float = 0.99,
        num_steps: int = 50,
        solver: str = "ddim",
        guidance: float = 1.0,
        fresh: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        assert start is not None
        self.drawn.append((t_max, num_steps))
        kept = float(cosine_log_snr(torch.tensor(t_max)).sigmoid())
        truth = torch.stack(
            [
                self._noisy(int(1e6 * abs(float(noise[i]))), self.truth[int(f)][None])[0]
                for i, f in enumerate(features.flatten())
            ]
        )
        return (kept * start + (1 - kept) * truth).clamp(0, 1)

    def _noisy(self, seed: int, images: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        inside = (images.amin(dim=1, keepdim=True) < 0.99).float()
        return (images + self.noise * inside * torch.randn(images.shape, generator=draw)).clamp(0, 1)
