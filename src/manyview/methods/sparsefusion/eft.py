"""The epipolar feature transformer (EFT): a query view's features and colours from posed context views.

Every query ray is cut at D depths; what the context views show where these points project is mixed by three
transformers: over the views at a point, over the depths in a view, over the views of a ray (Zhou and
Tulsiani 2023, section 3.1; sizes as in the released weights). Shapes as in `epipolar`; a query has
R = rows x columns rays; C is the transformers' width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.geometry.rays import harmonic_embedding
from manyview.methods.sparsefusion.context import Context, ContextNetwork, Own, place_query, split_rays
from manyview.methods.sparsefusion.epipolar import (
    RaySamples,
    at_least_single,
    ray_pixels,
    read_maps,
    sample_rays,
    spread_depths,
)
from manyview.methods.sparsefusion.features import Normalization, ResidualEncoder, Sampling
from manyview.methods.sparsefusion.spec import MAX_VIEWS
from manyview.types import Cameras

NUM_COMPARED = 8
"""Numbers a point that `compare_views` gives."""


@dataclass(frozen=True)
class EpipolarAttention:
    """Where each ray found its colour."""

    depths: Tensor
    """[B, D]"""
    over_depths: Tensor
    """[B, Q, N, rows, columns, D], sums to 1 over the depths."""
    over_views: Tensor
    """[B, Q, N, rows, columns], sums to 1 over the views."""
    pixels: Tensor
    """[B, Q, N, rows, columns, D, 2] the points in the context images."""

    @property
    def density(self) -> Tensor:
        """[B, Q, rows, columns, D] attention over the depths, all views together."""
        return (self.over_depths * self.over_views[..., None]).sum(dim=2)

    @property
    def depth_map(self) -> Tensor:
        """[B, Q, 1, rows, columns] mean depth under the attention, along the query camera's z axis."""
        depths = self.depths[:, None, None, None, :]
        return (self.density * depths).sum(dim=-1).unsqueeze(2)

    @property
    def depth_spread(self) -> Tensor:
        """[B, Q, 1, rows, columns] standard deviation of the depth under the attention."""
        depths = self.depths[:, None, None, None, :]
        squared = (self.density * depths**2).sum(dim=-1).unsqueeze(2)
        return (squared - self.depth_map**2).clamp_min(0).sqrt()


@dataclass(frozen=True)
class EftAnswer:
    """What the transformer says about every query ray."""

    features: Tensor
    """[B, Q, C, rows, columns]"""
    colors: Tensor
    """[B, Q, 3, rows, columns] in [0, 1]."""
    attention: EpipolarAttention | None = None
    latents: Tensor | None = None
    """[B, Q, c, rows, columns] the context's latents mixed under the attention, where it has them."""

    @property
    def condition(self) -> Tensor:
        """[B, Q, C (+ c), rows, columns] what the denoiser is told: the features, then any latents."""
        return self.features if self.latents is None else torch.cat([self.features, self.latents], dim=2)


class TokenTransformer(nn.Module):
    """A linear layer with GELU and a stack of post-norm encoder layers over the last but one dimension."""

    def __init__(
        self, inputs: int, width: int, feedforward: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, num_heads, feedforward, dropout, batch_first=True)
            for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """[S, L, width] of S sequences of L tokens [S, L, inputs]; `hidden` bool [S, L] takes tokens out."""
        x = F.gelu(self.enter(tokens))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return x


class EpipolarTransformer(ContextNetwork):
    """The network of the EFT. The defaults are the published sizes."""

    @register_to_config
    def __init__(
        self,
        stem: int = 64,
        width: int = 256,
        feedforward: int = 256,
        num_layers: int = 4,
        num_heads: int = 1,
        num_depths: int = 20,
        num_octaves: int = 6,
        dropout: float = 0.1,
        half_range: float = 5.0,
        min_near: float = 0.1,
        normalization: Normalization = "batch",
        sampling: Sampling = "published",
        mark_visible: bool = False,
        blend: bool = False,
        compare: bool = False,
    ) -> None:
        """`half_range`: depths reach so far before and behind the object's middle, in world units;
        `min_near`: but never nearer to the camera than this. `mark_visible` tells the first transformer
        whether a point falls inside the context image, which the published network cannot see. `blend` mixes
        the colour told from the features with the context's own colours under the attention, in a share that
        is learned too; the published network has only the former. `compare` tells the first transformer what
        the views together show at a point (`compare_views`), which the published one has to find out."""
        super().__init__()
        self.encoder = ResidualEncoder(stem, normalization)
        ray, depth = 6 * (2 * num_octaves + 1), 2 * num_octaves + 1
        seen = self.encoder.num_features + 3 + int(mark_visible) + NUM_COMPARED * int(compare)
        sizes = (width, feedforward, num_layers, num_heads, dropout)
        self.view_mixer = TokenTransformer(ray + depth + seen, *sizes)
        self.depth_mixer = TokenTransformer(2 * ray + depth + width, *sizes)
        self.ray_mixer = TokenTransformer(2 * ray + width, *sizes)
        self.depth_score = nn.Linear(width, 1)
        self.view_score = nn.Linear(width, 1)
        self.color = nn.Linear(width, 4 if blend else 3)

    def forward(
        self,
        context: Context,
        query: Cameras,
        rows: int,
        columns: int,
        *,
        own: Own = "refuse",
        attention: bool = False,
        rays_at_once: int | None = None,
    ) -> EftAnswer:
        """Features and colours of a grid of rows x columns rays of B Q query cameras, scene by scene.

        `own`: a query that is also a context view is refused, has that view hidden, or may look at it
        (training with "show" teaches the network to copy). `attention` adds where each ray looked.
        `rays_at_once` splits the rays of a query, which changes nothing but memory (with gradients: no
        split unless asked). Raises `InputError` for a query without any context view left.
        """
        height, width = context.images.shape[-2:]
        device = context.maps.device
        relative, hidden = place_query(context, query, own)
        depths = spread_depths(context.depth_ranges.to(device), self.config["num_depths"])
        grid = {"dtype": depths.dtype, "device": device}
        pixels = ray_pixels(rows, columns, height, width, self.sampling, **grid)
        parts = []
        for some in split_rays(pixels, context, query, rays_at_once):
            samples = sample_rays(some, query, context.cameras, depths, relative)
            parts.append(self._look(context, samples, hidden, attention))
        return self._assemble(parts, depths, rows, columns)

    def _look(
        self, context: Context, samples: RaySamples, hidden: Tensor | None, attention: bool
    ) -> dict[str, Tensor]:
        """Features [B, Q, R, C] and colours [B, Q, R, 3]; latents [B, Q, R, c] where the context has
        them; both attentions and the pixels, whose fourth dimension are the rays, if asked."""
        b, q, n, r, d = samples.visible.shape
        dtype = context.maps.dtype
        height, width = context.images.shape[-2:]
        octaves = self.config["num_octaves"]
        with torch.autocast(samples.depths.device.type, enabled=False):
            own_ray = harmonic_embedding(samples.query_rays, octaves)[:, :, None]  # [B, Q, 1, R, 78]
            other_ray = harmonic_embedding(samples.context_rays, octaves)  # [B, Q, N, R, D, 78]
            depth = harmonic_embedding(samples.depths[..., None], octaves)  # [B, D, 13]
        own_ray, other_ray, depth = own_ray.to(dtype), other_ray.to(dtype), depth.to(dtype)
        depth = depth.reshape(b, 1, 1, 1, d, -1).expand(b, q, n, r, d, -1)
        shown = [
            read_maps(context.maps, samples.pixels, height, width, self.sampling).to(dtype),
            read_maps(context.images, samples.pixels, height, width, self.sampling).to(dtype),
        ]
        seen = shown[1]
        if self.config["mark_visible"]:
            shown.append(samples.visible[..., None].to(dtype))
        if self.config["compare"]:
            shown.append(compare_views(seen, samples.visible, hidden))
        tokens = torch.cat([other_ray, depth, *shown], dim=-1)  # [B, Q, N, R, D, *]

        # Over the views at each point.
        mask = None if hidden is None else hidden[:, :, None, None].expand(b, q, r, d, n).reshape(-1, n)
        mixed = self.view_mixer(tokens.permute(0, 1, 3, 4, 2, 5).flatten(0, 3), mask)
        mixed = mixed.reshape(b, q, r, d, n, -1).permute(0, 1, 4, 2, 3, 5)

        # Over the depths of a ray in each view.
        along = own_ray.unsqueeze(4).expand(b, q, n, r, d, -1)
        tokens = torch.cat([along, other_ray, depth, mixed], dim=-1)
        mixed = self.depth_mixer(tokens.flatten(0, 3)).reshape(b, q, n, r, d, -1)
        over_depths = at_least_single(self.depth_score(mixed)).softmax(dim=-2)
        pooled = (mixed * over_depths.to(dtype)).sum(dim=-2)  # [B, Q, N, R, C]

        # Over the views of a ray, each seen from where its middle depth lies.
        tokens = torch.cat([own_ray.expand(b, q, n, r, -1), other_ray[..., d // 2, :], pooled], dim=-1)
        mask = None if hidden is None else hidden[:, :, None].expand(b, q, r, n).reshape(-1, n)
        mixed = self.ray_mixer(tokens.transpose(2, 3).flatten(0, 2), mask).reshape(b, q, r, n, -1)
        score = at_least_single(self.view_score(mixed))
        if hidden is not None:
            score = score.masked_fill(hidden[:, :, None, :, None], -torch.inf)
        over_views = score.softmax(dim=-2)
        features = (mixed * over_views.to(dtype)).sum(dim=-2)
        told = at_least_single(self.color(features)).sigmoid()
        over_depths, over_views = over_depths[..., 0], over_views[..., 0].transpose(2, 3)
        weights = (over_depths * over_views.unsqueeze(-1)).unsqueeze(-1)  # [B, Q, N, R, D, 1]
        if self.config["blend"]:
            told = torch.lerp(told[..., :3], (seen * weights).sum(dim=(2, 4)), told[..., 3:])
        answer = {"features": features, "colors": told}
        if context.latents is not None:
            latents = read_maps(context.latents, samples.pixels, height, width, self.sampling)
            answer["latents"] = (latents * weights).sum(dim=(2, 4))
        if attention:
            answer |= {"over_depths": over_depths, "over_views": over_views, "pixels": samples.pixels}
        return answer

    def _assemble(self, parts: list[dict[str, Tensor]], depths: Tensor, rows: int, columns: int) -> EftAnswer:
        def joined(name: str, dim: int) -> Tensor:
            return torch.cat([part[name] for part in parts], dim=dim).unflatten(dim, (rows, columns))

        def picture(name: str) -> Tensor:
            return joined(name, 2).permute(0, 1, 4, 2, 3)

        seen = None
        if "pixels" in parts[0]:
            seen = EpipolarAttention(
                depths, joined("over_depths", 3), joined("over_views", 3), joined("pixels", 3)
            )
        latents = picture("latents") if "latents" in parts[0] else None
        return EftAnswer(picture("features"), picture("colors"), seen, latents)


def build_eft(preset: Literal["compact", "paper"]) -> EpipolarTransformer:
    """The network with fresh weights.

    `compact` is for objects of size 1 seen from a distance of 1.5 or so, at 128 px; `paper` has the published
    sizes, for CO3D's units.
    """
    if preset == "paper":
        return EpipolarTransformer()
    return EpipolarTransformer(
        stem=24,
        width=96,
        feedforward=192,
        num_layers=2,
        num_heads=4,
        dropout=0.0,
        half_range=0.75,
        normalization="group",
        sampling="exact",
        mark_visible=True,
        blend=True,
        compare=True,
    )


def compare_views(colors: Tensor, visible: Tensor, hidden: Tensor | None) -> Tensor:
    """[B, Q, N, R, D, 8] the same for all N views: what they show at a point.

    Mean and standard deviation of the colours [B, Q, N, R, D, 3] of the views in whose image the point
    falls (`visible` bool [B, Q, N, R, D]; `hidden` bool [B, Q, N] takes views out), the least distance of
    such a colour from white (near 0: some view sees past the point), and the number of such views over
    eight.
    """
    counted = visible if hidden is None else visible & ~hidden[:, :, :, None, None]
    weights = counted[..., None].to(colors.dtype)
    count = weights.sum(dim=2, keepdim=True)
    mean = (colors * weights).sum(dim=2, keepdim=True) / count.clamp_min(1)
    variance = ((colors - mean).square() * weights).sum(dim=2, keepdim=True) / count.clamp_min(1)
    darkness = (1 - colors).amax(dim=-1, keepdim=True).masked_fill(~counted[..., None], 1.0)
    together = torch.cat(
        [mean, (variance + 1e-6).sqrt(), darkness.amin(dim=2, keepdim=True), count / MAX_VIEWS], dim=-1
    )
    return together.expand(*colors.shape[:-1], NUM_COMPARED)


def choose_context(
    num_views: int, query: int, num_context: int, generator: torch.Generator | None = None
) -> list[int]:
    """`num_context` different views out of `num_views`, never the query itself.

    SparseFusion's script draws the context without looking at the query, so one query in a few is shown its
    own answer. Raises `InputError` where there are too few other views.
    """
    if not 0 <= query < num_views:
        raise InputError("query", query, f"expected 0 to {num_views - 1}")
    if not 1 <= num_context <= min(num_views - 1, MAX_VIEWS):
        raise InputError(
            "num_context", num_context, f"expected 1 to {min(num_views - 1, MAX_VIEWS)} of {num_views} views"
        )
    others = [view for view in range(num_views) if view != query]
    order = torch.randperm(len(others), generator=generator)[:num_context]
    return [others[int(place)] for place in order]
