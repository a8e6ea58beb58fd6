"""A regressor of radiance fields after PixelNeRF: the baseline without attention and without diffusion.

At a point on a query ray every context view says what its picture shows there; one network turns that, with
the point and the ray as the view sees them, into features, whose mean over the views another network turns
into density and colour; the ray's samples are composited over white (Yu et al. 2021, "pixelNeRF", sections
4.2 and 4.3). Encoder, context and cameras are those of the EFT, so that both learn from the same examples.
Shapes as in `epipolar`; W is the width of the networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.geometry.rays import harmonic_embedding
from manyview.methods.sparsefusion.context import Context, ContextNetwork, Own, place_query, split_rays
from manyview.methods.sparsefusion.epipolar import (
    RaySamples,
    at_least_single,
    ray_pixels,
    read_maps,
    sample_rays,
)
from manyview.methods.sparsefusion.features import Normalization, ResidualEncoder, Sampling
from manyview.types import Cameras

DENSITY_SCALE = 10.0
"""A network output of 1 is so much density per world unit or more: surfaces of an object of size 1 need
several tens."""
_FIRST_DENSITY = -3.0
"""At first softplus(-3) DENSITY_SCALE = 0.5 per unit: fog that every ray can make thicker or thinner."""


@dataclass(frozen=True)
class RegressorAnswer:
    """What the regressor says about every query ray."""

    colors: Tensor
    """[B, Q, 3, rows, columns] in [0, 1], over white."""
    alphas: Tensor
    """[B, Q, 1, rows, columns] opacity."""
    depths: Tensor
    """[B, Q, 1, rows, columns] mean depth of what is met, along the query camera's z axis."""


class ResidualLayer(nn.Module):
    """Two linear layers beside a shortcut; the second begins at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W]"""
        return x + self.second(F.relu(self.first(F.relu(x))))


class PixelRegressor(ContextNetwork):
    """The network of the regressor. It is asked as the EFT is: `encode`, then call with query cameras."""

    @register_to_config
    def __init__(
        self,
        stem: int = 64,
        width: int = 512,
        view_layers: int = 3,
        shared_layers: int = 2,
        num_depths: int = 64,
        num_octaves: int = 6,
        half_range: float = 5.0,
        min_near: float = 0.1,
        normalization: Normalization = "batch",
        sampling: Sampling = "exact",
    ) -> None:
        """`view_layers` residual layers work on every view's features, `shared_layers` on their mean.
        `half_range` and `min_near` as in the EFT."""
        super().__init__()
        self.encoder = ResidualEncoder(stem, normalization)
        seen = self.encoder.num_features + 3 + 1
        self.enter = nn.Linear(3 * (2 * num_octaves + 1) + 3, width)
        self.shown = nn.ModuleList(nn.Linear(seen, width) for _ in range(view_layers))
        self.each_view = nn.ModuleList(ResidualLayer(width) for _ in range(view_layers))
        self.all_views = nn.ModuleList(ResidualLayer(width) for _ in range(shared_layers))
        self.leave = nn.Linear(width, 4)
        with torch.no_grad():
            self.leave.bias[0] = _FIRST_DENSITY

    def forward(
        self,
        context: Context,
        query: Cameras,
        rows: int,
        columns: int,
        *,
        own: Own = "refuse",
        rays_at_once: int | None = None,
    ) -> RegressorAnswer:
        """Colours of a grid of rows x columns rays of B Q query cameras, scene by scene.

        `own` and `rays_at_once` as for the EFT. Raises `InputError` as `context.place_query`.
        """
        height, width = context.images.shape[-2:]
        device = context.maps.device
        relative, hidden = place_query(context, query, own)
        depths = middle_depths(context.depth_ranges.to(device), self.config["num_depths"])
        pixels = ray_pixels(rows, columns, height, width, self.sampling, dtype=depths.dtype, device=device)
        parts = []
        for some in split_rays(pixels, context, query, rays_at_once):
            samples = sample_rays(some, query, context.cameras, depths, relative)
            density, color = self._look(context, samples, relative, hidden)
            parts.append(composite(density, color, depths, samples.query_rays, context.depth_ranges))
        joined = [torch.cat(part, dim=2).unflatten(2, (rows, columns)) for part in zip(*parts, strict=True)]
        colors, alphas, distances = (part.movedim(-1, 2) for part in joined)
        return RegressorAnswer(colors, alphas, distances)

    def _look(
        self, context: Context, samples: RaySamples, relative: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Densities [B, Q, R, D] and colours [B, Q, R, D, 3] in [0, 1] at the samples."""
        dtype = context.maps.dtype
        height, width = context.images.shape[-2:]
        with torch.autocast(samples.depths.device.type, enabled=False):
            place = harmonic_embedding(samples.positions, self.config["num_octaves"])
            rotation = relative[..., :3, :3].to(samples.depths)
            ahead = samples.query_directions.unsqueeze(2) @ rotation.mT  # [B, Q, N, R, 3]
            ahead = ahead.unsqueeze(-2).expand_as(samples.positions)
            x = torch.cat([place, ahead], dim=-1).to(dtype)
        seen = torch.cat(
            [
                read_maps(context.maps, samples.pixels, height, width, self.sampling).to(dtype),
                read_maps(context.images, samples.pixels, height, width, self.sampling).to(dtype),
                samples.visible[..., None].to(dtype),
            ],
            dim=-1,
        )
        x = self.enter(x)
        for shown, layer in zip(self.shown, self.each_view, strict=True):
            x = layer(x + shown(seen))
        if hidden is None:
            x = x.mean(dim=2)
        else:
            share = (~hidden).to(x.dtype)
            share = share / share.sum(dim=2, keepdim=True)
            x = (x * share[..., None, None, None]).sum(dim=2)
        for layer in self.all_views:
            x = layer(x)
        told = at_least_single(self.leave(F.relu(x)))
        return DENSITY_SCALE * F.softplus(told[..., 0]), told[..., 1:].sigmoid()


def middle_depths(ranges: Tensor, num_depths: int) -> Tensor:
    """[B, D] the middles of D equal pieces of ranges [B, 2]."""
    share = (torch.arange(num_depths, dtype=ranges.dtype, device=ranges.device) + 0.5) / num_depths
    return ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * share


def composite(
    density: Tensor, color: Tensor, depths: Tensor, query_rays: Tensor, ranges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour over white [B, Q, R, 3], opacity and mean depth [B, Q, R, 1] of rays through samples.

    density [B, Q, R, D] per world unit and color [B, Q, R, D, 3] hold over equal pieces of the depth range
    [B, 2] whose middles are depths [B, D]; query_rays [B, Q, R, 6] have unit directions, z ahead. A piece
    takes 1 - exp(-density length) of the light that the pieces before it left (Max 1995).
    """
    piece = (ranges[:, 1] - ranges[:, 0]).to(density) / depths.shape[1]
    length = piece[:, None, None] / query_rays[..., 2].to(density)  # [B, Q, R] longer off the axis
    taken = density * length[..., None]
    left = torch.exp(-(torch.cumsum(taken, dim=-1) - taken))
    weights = left * -torch.expm1(-taken)  # [B, Q, R, D]
    alphas = weights.sum(dim=-1, keepdim=True)
    colors = (weights[..., None] * color).sum(dim=-2) + (1 - alphas)
    mean = (weights * depths[:, None, None].to(weights)).sum(dim=-1, keepdim=True)
    return colors, alphas, mean / alphas.clamp_min(1e-6)


def build_regressor(preset: Literal["compact", "paper"]) -> PixelRegressor:
    """The network with fresh weights; `compact` as large and as costly in training as the compact EFT."""
    if preset == "paper":
        return PixelRegressor()
    return PixelRegressor(
        stem=24, width=160, shared_layers=3, num_depths=40, half_range=0.9, normalization="group"
    )
