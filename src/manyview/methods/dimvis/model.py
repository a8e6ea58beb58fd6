"""The network of DiMViS: one U-Net over a tile of V latents, told what is missing by null embeddings.

Shapes: B sets, V views, C latent channels, h x w latent cells, D embedding size. Slots fill the tile row
by row; slot v of a rig looks from azimuth phase + 360 v / V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.methods.dimvis.sweep import FEATURES, PlaneSweep
from manyview.nets.unet import build_unet
from manyview.sampling.solvers import NUM_TRAIN_STEPS

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DimvisOptions:
    """What the paper leaves open, and what goes beyond it. The defaults are the paper's printed method."""

    grid: Grid = (2, 2)
    """Rows and columns of the tile; their product is the number of views."""
    latent_channels: int = 8
    """Channels of one view's latent."""
    context_dim: int = 128
    """Size of an image embedding."""
    slot_embedding: bool = False
    """Add a learned, zero-initialised vector per slot to the context, so that it says which slot a token or a
    null vector belongs to (the printed method leaves the tokens an unordered set)."""
    slot_time: bool = False
    """Show every cell its own diffusion time (0 where observed) as one more input channel: the multi-time
    vector of Bounoua et al., which the paper drops."""
    aligned: bool = False
    """Show every cell what the other slots hold at the same cell, each with a mark of whether it is observed:
    V - 1 times C + 1 more input channels, in the order of the rig from the slot on. The printed method moves
    content between slots by attention alone, which a small network learns late."""
    rays: bool = False
    """Show every cell its camera ray (Pluecker, 6 channels) where cameras are known."""
    sweep_depths: int = 0
    """Show every cell what the other slots hold along its ray at so many depths (`PlaneSweep`), so that views
    which agree about a surface, or show background, say so in one place. For rigs like those of the paper's
    data: elevation 30 degrees, distance 1.5, the object's longest side 1."""

    @property
    def num_views(self) -> int:
        """Slots of the tile."""
        return self.grid[0] * self.grid[1]

    @property
    def in_channels(self) -> int:
        """Channels of the tile the U-Net reads: latent, time, the other slots, rays, the plane sweep."""
        others = (self.num_views - 1) * (self.latent_channels + 1)
        shown = int(self.slot_time) + others * int(self.aligned) + 6 * int(self.rays)
        return self.latent_channels + shown + FEATURES * self.sweep_depths


def tile(slots: Tensor, grid: Grid) -> Tensor:
    """[B, V, C, h, w] -> [B, C, rows * h, columns * w], slots in raster order."""
    rows, columns = grid
    b, v, c, h, w = slots.shape
    assert v == rows * columns, f"{v} slots do not fill a {rows}x{columns} tile"
    picture = slots.reshape(b, rows, columns, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return picture.reshape(b, c, rows * h, columns * w)


def untile(picture: Tensor, grid: Grid) -> Tensor:
    """The inverse of `tile`."""
    rows, columns = grid
    b, c, height, width = picture.shape
    h, w = height // rows, width // columns
    slots = picture.reshape(b, c, rows, h, columns, w).permute(0, 2, 4, 1, 3, 5)
    return slots.reshape(b, rows * columns, c, h, w)


class SlotConditioner(ModelMixin, ConfigMixin):
    """Everything around the U-Net that knows about slots: tiling, null vectors, slot and time marks."""

    @register_to_config
    def __init__(
        self,
        grid: Grid = (2, 2),
        latent_channels: int = 8,
        context_dim: int = 128,
        slot_embedding: bool = False,
        slot_time: bool = False,
        aligned: bool = False,
        rays: bool = False,
        sweep_depths: int = 0,
    ) -> None:
        super().__init__()
        self.options = DimvisOptions(
            grid=(int(grid[0]), int(grid[1])),
            latent_channels=latent_channels,
            context_dim=context_dim,
            slot_embedding=slot_embedding,
            slot_time=slot_time,
            aligned=aligned,
            rays=rays,
            sweep_depths=sweep_depths,
        )
        # Always present, so that every variant saves and loads alike; it stays zero where it is off.
        self.slots = nn.Parameter(torch.zeros(self.options.num_views, context_dim), slot_embedding)
        self.sweep = None
        if sweep_depths:
            self.sweep = PlaneSweep(self.options.num_views, latent_channels, sweep_depths)

    def context(self, embeddings: Tensor, described: Tensor) -> Tensor:
        """[B, V, D] tokens: the embedding of each described view, the null vector (zeros, as the
        image-variation pipelines use) for every other, plus the slot's mark if there is one."""
        tokens = torch.where(described[..., None], embeddings, torch.zeros_like(embeddings))
        return tokens + self.slots.to(tokens.dtype)

    def picture(self, latents: Tensor, timestep: Tensor, observed: Tensor, rays: Tensor | None) -> Tensor:
        """[B, C', H, W] the tile the U-Net reads: latents, then time, other slots, rays, sweep where on."""
        b, v, _, h, w = latents.shape
        channels = [latents]
        time = timestep.to(latents.dtype).reshape(-1, 1) / NUM_TRAIN_STEPS
        per_slot = torch.where(observed, torch.zeros_like(time), time)
        if self.options.slot_time:
            channels.append(per_slot[:, :, None, None, None].expand(b, v, 1, h, w))
        if self.options.aligned:
            marked = torch.cat(
                [latents, observed.to(latents.dtype)[..., None, None, None].expand(b, v, 1, h, w)], 2
            )
            # Slot s sees slot s + 1 first, then s + 2, ...: the same turn of the rig in the same channels.
            channels += [marked.roll(-turn, dims=1) for turn in range(1, v)]
        if self.options.rays:
            channels.append(latents.new_zeros(b, v, 6, h, w) if rays is None else rays.to(latents.dtype))
        if self.sweep is not None:
            channels.append(self.sweep(latents, 1 - per_slot))
        return tile(torch.cat(channels, dim=2), self.options.grid)


class TileDenoiser(nn.Module):
    """The U-Net and its conditioner as one module over slots: epsilon (or v) for all V views at once.

    Implements `manyview.sampling.masked.JointDenoiser` once `embeddings` (and `rays`) are bound.
    """

    def __init__(self, unet: UNet2DConditionModel, conditioner: SlotConditioner) -> None:
        super().__init__()
        self.unet = unet
        self.conditioner = conditioner

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        observed: Tensor,
        embeddings: Tensor,
        described: Tensor | None = None,
        rays: Tensor | None = None,
    ) -> Tensor:
        """[B, V, C, h, w] prediction. latents [B, V, C, h, w]; timestep int64 scalar or [B];
        observed, described bool [B, V] (described = observed by default); embeddings [B, V, D]."""
        described = observed if described is None else described
        timestep = timestep.expand(latents.shape[0])
        picture = self.conditioner.picture(latents, timestep, observed, rays)
        context = self.conditioner.context(embeddings, described)
        output = self.unet(picture, timestep, encoder_hidden_states=context, return_dict=False)[0]
        return untile(output, self.conditioner.options.grid)


def build_denoiser(preset: Literal["compact", "paper"], options: DimvisOptions) -> TileDenoiser:
    """The whole network with fresh weights."""
    conditioner = SlotConditioner(
        grid=options.grid,
        latent_channels=options.latent_channels,
        context_dim=options.context_dim,
        slot_embedding=options.slot_embedding,
        slot_time=options.slot_time,
        aligned=options.aligned,
        rays=options.rays,
        sweep_depths=options.sweep_depths,
    )
    unet = build_unet(
        preset,
        in_channels=options.in_channels,
        latent_channels=options.latent_channels,
        context_dim=options.context_dim,
        zero_channels=options.in_channels - options.latent_channels,
    )
    return TileDenoiser(unet, conditioner)
