"""What is known along the rays of every frame of an orbit: shown to the network, and chosen from.

Cameras are known: frame k stands k steps counter-clockwise of the input on a circle of one elevation. Where
a surface is at a depth of a frame's cell, the input's latents at that point's place are a guess of what the
cell holds, right for what both see.
Shapes: B clips, T frames, C latent channels, D depths, h x w cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.geometry.orbits import DISTANCE
from manyview.geometry.sweep import orbit_sweep_grid, sweep_depths
from manyview.nets.blending import blend_candidates

HIDDEN = 16
FEATURES = 4
"""Numbers that the network keeps of each plane."""


class InputRays(nn.Module):
    """Looks the input's latents up along the rays of all frames.

    `place_deg`: degrees between neighbouring places of the orbit.
    """

    def __init__(self, latent_channels: int, num_depths: int, place_deg: float) -> None:
        super().__init__()
        self.num_depths, self.place_deg = num_depths, place_deg
        # The same for every plane: of a frame's own noisy latents, and of the input's with their mark.
        self.own = nn.Conv2d(latent_channels, HIDDEN, 1)
        self.seen = nn.Conv2d(latent_channels + 1, HIDDEN, 1, bias=False)
        self.leave = nn.Conv2d(HIDDEN, FEATURES, 1)

    def look(self, given: Tensor, elevation_deg: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and mark [B, T, C + 1, D, h, w], and bool [B, T, D, h, w] of what lies inside the input.

        given: the input's latents [B, C, h, w], zeros where it is left out, whose mark then is zero too;
        elevation_deg [B]; places int64 [B, T], 0 the input's own.
        """
        clips, frames = places.shape
        cells = given.shape[-1]
        kept = (given != 0).flatten(1).any(dim=1)[:, None, None, None]
        marked = torch.cat([given, kept.to(given.dtype).expand(-1, 1, *given.shape[2:])], dim=1)
        points = orbit_sweep_grid(
            places.flatten() * self.place_deg,
            elevation_deg.repeat_interleave(frames),
            DISTANCE,
            sweep_depths(DISTANCE, self.num_depths).to(given.device),
            cells,
        ).unflatten(0, (clips, frames))
        inside = (points.abs() <= 1).all(dim=-1)
        # All frames of a clip read one picture: as one tall grid.
        grid = points.flatten(1, 3)
        seen = F.grid_sample(marked.float(), grid, padding_mode="zeros", align_corners=False)
        seen = seen.to(given.dtype).unflatten(2, (frames, self.num_depths, cells))
        return seen.transpose(1, 2), inside

    def forward(self, noisy: Tensor, seen: Tensor) -> Tensor:
        """[B, T, FEATURES * D, h, w] for the network to read beside its input: of the frames' own latents
        [B, T, C, h, w] and of what `look` found."""
        clips, frames, _, depths, h, w = seen.shape
        planes = self.seen(seen.reshape(clips * frames, -1, depths * h, w)).unflatten(2, (depths, h))
        inner = F.silu(planes + self.own(noisy.flatten(0, 1))[:, :, None])
        return self.leave(inner.flatten(2, 3)).reshape(clips, frames, -1, h, w)


def count_candidates(num_depths: int) -> int:
    """What `blend_shown` chooses from: nothing, what is shown at the same cell, and the input at every
    depth."""
    return 2 + num_depths


def blend_shown(shown: Tensor, looked: tuple[Tensor, Tensor] | None, logits: Tensor) -> Tensor:
    """[B, T, C, h, w] a weighted mean, cell by cell, of zero, the latents [B, T, C, h, w] that are shown for
    that cell, and the input's along its ray: `looked` is what `InputRays.look` gave, None without a sweep.

    logits [B, T, K, h, w] of the K candidates in this order (`count_candidates`). Of frames for which nothing
    is shown (zeros) nothing but zero has weight.
    """
    channels = shown.shape[2]
    kept = (shown != 0).flatten(2).any(dim=2)[:, :, None, None, None]
    usable = [torch.ones_like(logits[:, :, :1], dtype=torch.bool), kept.expand_as(logits[:, :, :1])]
    values = [torch.zeros_like(shown)[:, :, None], shown[:, :, None]]
    if looked is not None:
        seen, inside = looked
        values.append(seen[:, :, :channels].transpose(2, 3))
        usable.append(inside & kept)
    return blend_candidates(torch.cat(values, dim=2), torch.cat(usable, dim=2), logits)
