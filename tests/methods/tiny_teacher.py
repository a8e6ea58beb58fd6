"""A teacher at toy size: the real networks of tiny_sparsefusion with a codec of two pixels a cell."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from tiny_sparsefusion import SIZE, tiny_eft, tiny_unet

from manyview.methods.sparsefusion.teacher import Teacher


def tiny_codec(latent_channels: int = 2) -> AutoencoderKL:
    torch.manual_seed(1)
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
    }
    return AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def tiny_teacher(resolution: int | None = None, blended: bool = False) -> Teacher:
    unet = tiny_unet(condition_channels=10, blended=True) if blended else tiny_unet()
    return Teacher(tiny_codec(), tiny_eft(), unet, resolution=resolution)
