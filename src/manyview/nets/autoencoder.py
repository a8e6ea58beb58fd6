"""The image codec every latent method shares: diffusers' `AutoencoderKL`, deterministic and normalised.

Images are [B, 3, H, W] in [0, 1]; latents are [B, C, H / 8, W / 8] with about zero mean and unit
variance per channel (`latents_mean` and `latents_std` in the codec's config, or its `scaling_factor`
for published codecs such as Stable Diffusion's).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

Preset = Literal["compact", "paper"]


def build_autoencoder(preset: Preset = "compact", latent_channels: int | None = None) -> AutoencoderKL:
    """A codec with fresh weights: `compact` (ours) or `paper` (the sizes of Stable Diffusion's)."""
    # A dictionary, since diffusers annotates its tuples of any length as tuples of one.
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512) if preset == "paper" else (16, 32, 64, 128),
    }
    if preset == "paper":
        return AutoencoderKL(
            **levels,
            layers_per_block=2,
            latent_channels=latent_channels or 4,
            sample_size=512,
            scaling_factor=0.18215,
        )
    return AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=latent_channels or 8,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def encode(codec: AutoencoderKL, images: Tensor) -> Tensor:
    """Normalised latents of the posterior's mode (never sampled, so the same image gives the same latent)."""
    latents = raw_latents(codec, images)
    mean, std = _statistics(codec, latents)
    return (latents - mean) / std


def decode(codec: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images in [0, 1] (clamped) from normalised latents."""
    mean, std = _statistics(codec, latents)
    return raw_images(codec, latents * std + mean).clamp(0, 1)


def raw_latents(codec: AutoencoderKL, images: Tensor) -> Tensor:
    """The posterior's mode as the encoder gives it, not normalised, of images in [0, 1]."""
    return codec.encode(images * 2 - 1, return_dict=False)[0].mode()


def raw_images(codec: AutoencoderKL, latents: Tensor) -> Tensor:
    """The decoder's answer on the scale of images, not clamped, to latents that are not normalised."""
    # The annotation asks for a FloatTensor, which no tensor's static type is.
    return codec.decode(latents, return_dict=False)[0] / 2 + 0.5  # pyright: ignore[reportArgumentType]


def latent_scale(codec: AutoencoderKL) -> int:
    """Pixels along a side of one latent cell."""
    return 2 ** (len(codec.config["block_out_channels"]) - 1)


def set_statistics(codec: AutoencoderKL, latents: Tensor) -> None:
    """Record the mean and deviation per channel of raw latents [N, C, h, w] in the codec's config."""
    codec.register_to_config(
        latents_mean=latents.mean(dim=(0, 2, 3)).tolist(),
        latents_std=latents.std(dim=(0, 2, 3)).tolist(),
    )


def _statistics(codec: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = codec.config.get("latents_mean"), codec.config.get("latents_std")
    if mean is None or std is None:
        return torch.zeros((), device=like.device), torch.tensor(
            1 / codec.config["scaling_factor"], device=like.device, dtype=like.dtype
        )
    as_map = {"device": like.device, "dtype": like.dtype}
    return torch.tensor(mean, **as_map)[:, None, None], torch.tensor(std, **as_map)[:, None, None]
