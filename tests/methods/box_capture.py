"""A made-up capture with everything that captures have: a world of any place and scale, a portrait phone lens
with OpenCV distortion, a background, masks or none, in each of the formats. The object is a box with a
picture on every side, drawn ray by ray, so that lens, masks and depth are exact.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from manyview.geometry.normalization import Similarity
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import look_at, spherical_position
from manyview.io.frames import FrameTable
from manyview.io.images import write_png
from manyview.io.transforms import write_transforms
from manyview.types import Cameras

HALF = torch.tensor([0.5, 0.3, 0.4], dtype=torch.float64)
PHONE_LENS = (0.0578, -0.0805, 0.0, 0.0, -0.00098, 0.00016)
"""Of the size that COLMAP finds for phones."""
AWAY = Similarity(
    3.7, torch.eye(3, dtype=torch.float64), torch.tensor([40.0, -7.0, 3.0], dtype=torch.float64)
)


def box_cameras(
    count: int,
    *,
    size: tuple[int, int] = (96, 54),
    focal: float = 78.0,
    distance: float = 1.6,
    off_center: float = 0.08,
    lens: tuple[float, ...] | None = PHONE_LENS,
    move: Similarity = AWAY,
    arc_deg: float = 360.0,
) -> Cameras:
    """Cameras on a belt about the box, none looking exactly at its middle, in a moved world; float64."""
    draw = torch.Generator().manual_seed(3)
    azimuth = torch.arange(count, dtype=torch.float64) * (arc_deg / count) + 10
    elevation = 20 + 15 * torch.rand(count, generator=draw, dtype=torch.float64)
    places = spherical_position(azimuth, elevation, torch.tensor(distance, dtype=torch.float64))
    places = places * (1 + 0.1 * torch.rand(count, 1, generator=draw, dtype=torch.float64))
    looked = off_center * torch.randn(count, 3, generator=draw, dtype=torch.float64)
    height, width = size
    K = torch.tensor([[focal, 0, width / 2 + 1], [0, focal, height / 2 - 2], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(
        world_from_cam=look_at(places, looked),
        K=K.expand(count, 3, 3).clone(),
        sizes=torch.tensor([[height, width]] * count),
        distortion=None if lens is None else torch.tensor([lens] * count, dtype=torch.float64),
    )
    return move.apply_to_cameras(cameras)


def draw_box(
    cameras: Cameras, move: Similarity = AWAY, *, hue: float = 0.0, times: int = 3
) -> tuple[Tensor, Tensor]:
    """Straight colour [V, 3, H, W] and coverage [V, 1, H, W] of the box in the moved world."""
    height, width = (int(length) for length in cameras.sizes[0])
    back = move.inverse().apply_to_cameras(cameras.to(torch.float64))
    origins, rays = camera_rays(back, height * times, width * times)
    low, high = (-HALF - origins) / rays, (HALF - origins) / rays
    near, axis = torch.minimum(low, high).max(dim=-1)
    far = torch.maximum(low, high).amin(dim=-1)
    hit = (far > near) & (near > 0)
    points = origins + rays * near[..., None]
    side = 2 * axis + (points.gather(-1, axis[..., None])[..., 0] > 0)
    base = torch.tensor([0.15, 0.35, 0.55, 0.75, 0.3, 0.6], dtype=torch.float64)[side]
    across = points.roll(-1, dims=-1).gather(-1, axis[..., None])[..., 0]
    along = points.roll(-2, dims=-1).gather(-1, axis[..., None])[..., 0]
    checks = ((across * 5).floor() + (along * 7).floor()) % 2
    color = torch.stack([base, 0.9 - base, 0.2 + 0.5 * checks], dim=1).roll(int(hue), dims=1)
    cover = hit[:, None].double()
    mean = torch.nn.functional.avg_pool2d
    coverage = mean(cover, times)
    images = mean(color * cover, times) / coverage.clamp_min(1e-9)
    return torch.where(coverage > 0, images, 1.0).float(), coverage.float()


def over_background(images: Tensor, masks: Tensor, kind: str) -> Tensor:
    """The pictures before a plain wall whose light falls off, or before clutter."""
    height, width = images.shape[-2:]
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    if kind == "wall":
        wall = torch.stack([0.80 + 0.05 * u, 0.78 + 0.05 * u + 0.02 * v, 0.74 + 0.04 * v])
        noise = 0.004 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    else:
        wall = 0.5 + 0.4 * torch.stack([9 * u, 7 * v, 8 * (u + v)]).sin()
        noise = torch.zeros(())
    return (images * masks + (wall + noise) * (1 - masks)).clamp(0, 1)


def write_nerfstudio(
    folder: Path,
    cameras: Cameras,
    images: Tensor,
    masks: Tensor | None = None,
    *,
    how: str = "files",
) -> Path:
    """A nerfstudio folder; `masks` as files, as alpha, or (None) none."""
    files, mask_files = [], []
    for index, image in enumerate(images):
        files.append(f"images/frame_{index + 1:05d}.png")
        alpha = None
        if masks is not None and how == "alpha":
            alpha = masks[index]
        elif masks is not None:
            mask_files.append(f"masks/frame_{index + 1:05d}.png")
            write_png(folder / mask_files[-1], masks[index])
        write_png(folder / files[-1], image, alpha)
    table = FrameTable(files=tuple(files), cameras=cameras.to(torch.float32), mask_files=tuple(mask_files))
    write_transforms(folder / "transforms.json", table)
    return folder
