"""Frames to latents and back, a few at a time, and the noised latents that a network is shown.

Shapes: B clips, F frames of a clip, C latent channels, H x W pixels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from manyview.errors import InputError
from manyview.nets.autoencoder import decode, encode, raw_latents
from manyview.sampling.noise import item_noise

Condition = Literal["latents", "pixels"]
"""Where the condition's noise goes and how it is scaled, see `noised_latents`."""
AT_ONCE = 8
"""Frames in the codec at once: its activations are the largest of all."""


def encode_frames(vae: AutoencoderKL, frames: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """[B, F, C, h, w] normalised latents of frames [B, F, 3, H, W] in [0, 1], on the frames' device."""
    parts = frames.flatten(0, 1).split(_checked(at_once))
    return torch.cat([encode(vae, part) for part in parts]).unflatten(0, frames.shape[:2])


def decode_frames(
    vae: AutoencoderKL, latents: Tensor, at_once: int = AT_ONCE, device: torch.device | str | None = None
) -> Tensor:
    """[B, F, 3, H, W] float32 on the CPU in [0, 1] of latents [B, F, C, h, w]. `device`: where the codec
    works; its own when not given."""
    flat = latents.to(vae.device if device is None else device, vae.dtype).flatten(0, 1)
    parts = [decode(vae, part).float().cpu() for part in flat.split(_checked(at_once))]
    return torch.cat(parts).unflatten(0, latents.shape[:2])


def noised_latents(
    vae: AutoencoderKL,
    frames: Tensor,
    kind: Condition,
    strength: float,
    *,
    items: Sequence[int],
    seed: int,
    stream: int,
    clean: Tensor | None = None,
    at_once: int = AT_ONCE,
) -> Tensor:
    """[B, F, C, h, w] latents of frames [B, F, 3, H, W] with noise of deviation `strength`, clip b's from
    (seed, items[b]) alone.

    `latents`: the noise is put on the normalised latents, as our training does (`clean`: these, where they
    are known). `pixels`: on the pictures in [-1, 1], whose latents are then not normalised, as the published
    weights expect.
    """
    if kind == "latents":
        latents = encode_frames(vae, frames, at_once) if clean is None else clean
        return latents + strength * item_noise(seed, items, latents.shape[1:], stream).to(latents)
    grain = item_noise(seed, items, frames.shape[1:], stream).to(frames)
    # On the scale of [-1, 1], which is twice that of the picture.
    noised = (frames + strength / 2 * grain).flatten(0, 1)
    parts = [raw_latents(vae, part) for part in noised.split(_checked(at_once))]
    return torch.cat(parts).unflatten(0, frames.shape[:2])


def _checked(at_once: int) -> int:
    if at_once < 1:
        raise InputError("decode_frames", at_once, "expected at least 1")
    return at_once
