"""Plane sweep of a rig: what the other slots hold along the ray of every latent cell, and its blending.

The rig is the same wherever it starts, so one fixed set of sampling points serves all slots: the ray of a
cell of slot s meets slot s + k where the ray of that cell of slot 0 meets slot k.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.geometry.sweep import sweep_depths, sweep_grid
from manyview.geometry.trajectories import orbit
from manyview.methods.dimvis.rig import DISTANCE, ELEVATION_DEG
from manyview.nets.blending import blend_candidates

HIDDEN = 48
FEATURES = 6
"""Numbers that the network keeps of each plane."""


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept for later calls, which may be training
def sweep_points(num_views: int, num_depths: int, cells: int) -> Tensor:
    """[V - 1, D * cells, cells, 2] where slot 0's rays at D depths fall in slots 1 to V - 1.

    In the units of `grid_sample`: -1 and 1 are the borders of the image, x first.
    """
    cameras = orbit(num_views, ELEVATION_DEG, DISTANCE, size=cells)
    points = sweep_grid(cameras[[0]], cameras[list(range(1, num_views))], sweep_depths(DISTANCE, num_depths))
    return points.reshape(num_views - 1, num_depths * cells, cells, 2)


def look_along_rays(latents: Tensor, clearness: Tensor, num_depths: int) -> Tensor:
    """[B, V, V * (C + 1), D, h, w] what slot s, then s + 1, ... hold where the rays of slot s's cells pass at
    D depths: latents [B, V, C, h, w], then clearness [B, V]. Outside an image both read 0."""
    b, v, _, h, w = latents.shape
    marked = torch.cat([latents, clearness[:, :, None, None, None].expand(b, v, 1, h, w)], dim=2)
    points = sweep_points(v, num_depths, h).to(latents.device)
    own = marked[:, :, :, None].expand(-1, -1, -1, num_depths, -1, -1)
    seen = [own.reshape(b * v, -1, num_depths * h, w)]
    for turn in range(1, v):
        other = marked.roll(-turn, dims=1).flatten(0, 1).float()
        grid = points[turn - 1].expand(b * v, -1, -1, -1)
        there = F.grid_sample(other, grid, padding_mode="zeros", align_corners=False)
        seen.append(there.to(latents.dtype))
    return torch.cat(seen, dim=1).reshape(b, v, -1, num_depths, h, w)


def count_candidates(num_views: int, num_depths: int) -> int:
    """What `blend` chooses from: nothing, and each other slot at the same cell and at every depth."""
    return 1 + (num_views - 1) * (1 + num_depths)


def blend(latents: Tensor, observed: Tensor, seen: Tensor | None, logits: Tensor) -> Tensor:
    """[B, V, C, h, w] a weighted mean, cell by cell, of what the observed slots hold.

    The candidates of slot s are zero; slots s + 1, s + 2, ... at the same cell; then each of them along the
    cell's ray. latents [B, V, C, h, w]; observed bool [B, V]; seen: `look_along_rays`, or None where there is
    no sweep; logits [B, V, K, h, w] of the K candidates in that order (`count_candidates`). Slots that are
    not observed, and places outside their images, get no weight.
    """
    b, v, c, h, w = latents.shape
    others = [latents.roll(-turn, dims=1) for turn in range(1, v)]
    known = torch.stack([observed.roll(-turn, dims=1) for turn in range(1, v)], dim=2)
    values = [torch.zeros_like(latents)[:, :, None], torch.stack(others, dim=2)]
    usable = [known.new_ones(b, v, 1, h, w), known[..., None, None].expand(-1, -1, -1, h, w)]
    if seen is not None:
        depths = seen.shape[3]
        along = seen.unflatten(2, (v, c + 1))[:, :, 1:, :c].transpose(3, 4)
        points = sweep_points(v, depths, h).reshape(v - 1, depths, h, w, 2).to(latents.device)
        inside = (points.abs() <= 1).all(dim=-1)
        values.append(along.flatten(2, 3))
        usable.append((known[..., None, None, None] & inside).flatten(2, 3))
    return blend_candidates(torch.cat(values, dim=2), torch.cat(usable, dim=2), logits)


class PlaneSweep(nn.Module):
    """A small network that looks at all slots on each plane of the sweep, the same for every plane."""

    def __init__(self, num_views: int, latent_channels: int, num_depths: int) -> None:
        super().__init__()
        self.num_depths = num_depths
        self.mix = nn.Sequential(
            nn.Conv2d(num_views * (latent_channels + 1), HIDDEN, 1),
            nn.SiLU(),
            nn.Conv2d(HIDDEN, FEATURES, 1),
        )

    def forward(self, seen: Tensor) -> Tensor:
        """[B, V, FEATURES * D, h, w] from what `look_along_rays` gives."""
        b, v, _, depths, h, w = seen.shape
        planes = seen.reshape(b * v, -1, depths * h, w)
        return self.mix(planes).reshape(b, v, -1, h, w)
