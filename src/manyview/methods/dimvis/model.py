"""The network of DiMViS: one U-Net over a tile of V latents, told what is missing by null embeddings.

Shapes: B sets, V views, C latent channels, h x w latent cells, D embedding size. Slots fill the tile row
by row; slot v of a rig looks from azimuth phase + 360 v / V.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.methods.dimvis.sweep import (
    FEATURES,
    PlaneSweep,
    blend,
    count_candidates,
    look_along_rays,
)
from manyview.nets.unet import build_unet
from manyview.sampling.solvers import NUM_TRAIN_STEPS, build_scheduler

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
    blend: bool = False
    """Let the network choose, for every cell, among what the observed slots hold at that cell and along its
    ray, and learn the rest as a residual, so that what can be copied stays sharp. Only for velocity."""

    @property
    def num_views(self) -> int:
        """Slots of the tile."""
        return self.grid[0] * self.grid[1]

    @property
    def out_channels(self) -> int:
        """Channels the U-Net answers with: the latent's, then the candidates' logits of `blend`."""
        candidates = count_candidates(self.num_views, self.sweep_depths)
        return self.latent_channels + candidates * int(self.blend)

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
        blend: bool = False,
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
            blend=blend,
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

    def look(self, latents: Tensor, timestep: Tensor, observed: Tensor) -> Tensor | None:
        """What slots hold along each other's rays (`look_along_rays`); None without a sweep."""
        if self.sweep is None:
            return None
        clearness = 1 - self._slot_times(latents, timestep, observed)
        return look_along_rays(latents, clearness, self.options.sweep_depths)

    def picture(
        self,
        latents: Tensor,
        timestep: Tensor,
        observed: Tensor,
        rays: Tensor | None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """[B, C', H, W] the tile the U-Net reads: latents, then time, other slots, rays, sweep where on.
        `seen`: what `look` gave, if it was asked already."""
        b, v, _, h, w = latents.shape
        channels = [latents]
        if self.options.slot_time:
            time = self._slot_times(latents, timestep, observed)
            channels.append(time[:, :, None, None, None].expand(b, v, 1, h, w))
        if self.options.aligned:
            marked = torch.cat(
                [latents, observed.to(latents.dtype)[..., None, None, None].expand(b, v, 1, h, w)], 2
            )
            # Slot s sees slot s + 1 first, then s + 2, ...: the same turn of the rig in the same channels.
            channels += [marked.roll(-turn, dims=1) for turn in range(1, v)]
        if self.options.rays:
            channels.append(latents.new_zeros(b, v, 6, h, w) if rays is None else rays.to(latents.dtype))
        if self.sweep is not None:
            seen = self.look(latents, timestep, observed) if seen is None else seen
            channels.append(self.sweep(seen))
        return tile(torch.cat(channels, dim=2), self.options.grid)

    def _slot_times(self, latents: Tensor, timestep: Tensor, observed: Tensor) -> Tensor:
        """[B, V] each slot's time as a share of the whole, 0 where it is clean."""
        time = timestep.to(latents.dtype).reshape(-1, 1) / NUM_TRAIN_STEPS
        return torch.where(observed, torch.zeros_like(time), time)


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
        seen = self.conditioner.look(latents, timestep, observed)
        picture = self.conditioner.picture(latents, timestep, observed, rays, seen)
        context = self.conditioner.context(embeddings, described)
        output = self.unet(picture, timestep, encoder_hidden_states=context, return_dict=False)[0]
        output = untile(output, self.conditioner.options.grid)
        if not self.conditioner.options.blend:
            return output
        # The velocity of x0 = guess + r is that of the residual r less sqrt(1 - alpha_bar) times the guess.
        answer, logits = output.split([latents.shape[2], output.shape[2] - latents.shape[2]], dim=2)
        guess = blend(latents, observed, seen, logits)
        share = noise_shares().to(latents)[timestep].reshape(-1, 1, 1, 1, 1)
        return answer - share * guess


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
        blend=options.blend,
    )
    unet = build_unet(
        preset,
        in_channels=options.in_channels,
        latent_channels=options.latent_channels,
        context_dim=options.context_dim,
        zero_channels=options.in_channels - options.latent_channels,
        out_channels=options.out_channels,
    )
    if options.blend:
        start_blend(unet, options)
    return TileDenoiser(unet, conditioner)


def start_blend(unet: UNet2DConditionModel, options: DimvisOptions) -> None:
    """Let a fresh network begin with the same cell of the other slots, more or less their mean."""
    with torch.no_grad():
        unet.conv_out.weight[options.latent_channels :] = 0
        bias = unet.conv_out.bias
        assert bias is not None, "the U-Net's last layer has a bias"
        bias[options.latent_channels :] = 0
        bias[options.latent_channels + 1 : options.latent_channels + options.num_views] = 4


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # kept for later calls, which may be training
def noise_shares() -> Tensor:
    """[1000] sqrt(1 - alpha_bar) of the schedule that velocities are learned on."""
    return (1 - build_scheduler("v_prediction").alphas_cumprod).sqrt()
