"""One stage at work: its networks, and how an orbit's latents are drawn with them.

Shapes: B clips, F frames shown (1 in the first stage, all in the second), T frames drawn, C latent channels,
S depth channels, H x W pixels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.methods.hi3d.frames import AT_ONCE, Condition, encode_frames, noised_latents
from manyview.methods.hi3d.sampler import sample_clips
from manyview.methods.hi3d.train import vector_of
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.nets.autoencoder import latent_scale
from manyview.nets.image_encoder import embed
from manyview.sampling.noise import item_noise
from manyview.sampling.workers import OnStep


@dataclass(frozen=True, kw_only=True)
class StageNetworks:
    """The networks of a stage, and how its input is shown to them."""

    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    unet: OrbitUNet
    scheduler: EulerDiscreteScheduler
    condition: Condition
    augmentation: float
    """Deviation of the noise on what is shown."""
    streams: tuple[int, int]
    """Numbers that keep the draws of latents and of the condition's noise apart from all others."""
    device: torch.device

    @property
    def num_frames(self) -> int:
        """T: views of an orbit."""
        return int(self.unet.config["num_frames"])

    def draw(
        self,
        given: Tensor,
        frames: Tensor,
        elevation_deg: Tensor,
        scale: Tensor,
        *,
        items: Sequence[int],
        seed: int,
        num_steps: int,
        depth: Tensor | None = None,
        blend: bool = False,
        at_once: int = AT_ONCE,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """[B, T, C, h, w] latents of orbits, on the device.

        given [B, 3, H, W]: the pictures that are embedded; frames [B, F, 3, H, W]: those whose noised latents
        are shown; elevation_deg [B]; scale [T]: guidance of each frame; depth [B, T, S, h, w]; blend: pull
        the first steps to the latents of `frames`. Orbit b's noise follows from (seed, items[b]) alone.
        """
        frames = frames.to(self.device, self.vae.dtype)
        clean = encode_frames(self.vae, frames, at_once) if blend or self.condition == "latents" else None
        shown = noised_latents(
            self.vae,
            frames,
            self.condition,
            self.augmentation,
            items=items,
            seed=seed,
            stream=self.streams[1],
            clean=clean,
            at_once=at_once,
        )
        cells = frames.shape[-1] // latent_scale(self.vae)
        channels = int(self.unet.config["out_channels"])
        noise = item_noise(seed, items, (self.num_frames, channels, cells, cells), self.streams[0])
        return sample_clips(
            self.unet,
            self.scheduler,
            noise.to(self.device),
            shown,
            embed(self.image_encoder, given.to(self.device, self.vae.dtype)),
            self.vector(elevation_deg),
            scale.to(self.device),
            num_steps=num_steps,
            depth=None if depth is None else depth.to(self.device),
            coarse=clean if blend else None,
            on_step=on_step,
        )

    def vector(self, elevation_deg: Tensor) -> Tensor:
        """[B, W] what the network is told of elevations [B], with the stage's noise on the condition."""
        told = torch.full((len(elevation_deg),), self.augmentation, device=self.device)
        return vector_of(self.unet.config, elevation_deg.to(self.device), told)
