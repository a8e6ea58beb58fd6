"""Plain enlargement by a network, picture by picture: what a refinement of whole orbits is measured against.

The networks are transformers' Swin2SR (Conde et al. 2022, "Swin2SR: SwinV2 transformer for compressed image
super-resolution and restoration"): one of 84 thousand parameters that we train on rendered views, or any
under a hub id (`caidas/swin2SR-lightweight-x2-64`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

from manyview.errors import InputError
from manyview.weights.packing import load_component

FACTOR = 2
_OVER_BICUBIC = "over_bicubic"
"""In a network's config: it tells what is to be added to the bicubic picture, not the picture."""


def build_upscaler() -> Swin2SRForImageSuperResolution:
    """The compact network to twice the size, which begins as bicubic enlargement."""
    config = Swin2SRConfig(
        image_size=48,
        patch_size=1,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[4, 4],
        window_size=8,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        upscale=FACTOR,
        upsampler="pixelshuffledirect",
    )
    setattr(config, _OVER_BICUBIC, True)
    network = Swin2SRForImageSuperResolution(config)
    for weight in network.upsample.parameters():
        torch.nn.init.zeros_(weight)
    return network


def load_upscaler(weights: str | Path, *, argument: str = "--upscaler") -> Swin2SRForImageSuperResolution:
    """A Swin2SR network in a folder or under a hub id. Raises `InputError` where there is none, and for one
    of another factor than 2."""
    try:
        if Path(weights).is_dir():
            network = load_component(
                Swin2SRForImageSuperResolution, Path(weights), torch.float32, argument=argument
            )
        else:
            network = Swin2SRForImageSuperResolution.from_pretrained(str(weights), use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(argument, str(weights), f"no Swin2SR network is there ({reason})") from error
    if network.config.upscale != FACTOR:
        raise InputError(
            argument, str(weights), f"enlarges {network.config.upscale} times, expected {FACTOR}"
        )
    return network.float().eval()


def upscale(network: Swin2SRForImageSuperResolution, images: Tensor) -> Tensor:
    """[B, 3, 2H, 2W] of images [B, 3, H, W] in [0, 1]; not cut to [0, 1].

    Sides are first filled up, by repeating the last row and column, to whole windows of the network.
    """
    height, width = images.shape[-2:]
    window = int(network.config.window_size)
    fill = (0, -width % window, 0, -height % window)
    told = network(pixel_values=F.pad(images, fill, mode="replicate")).reconstruction
    told = told[..., : FACTOR * height, : FACTOR * width]
    if not getattr(network.config, _OVER_BICUBIC, False):
        return told
    size = (FACTOR * height, FACTOR * width)
    # The class puts the mean colour of photographs on everything it tells.
    added = told - network.swin2sr.mean.to(told)
    return added + F.interpolate(images, size, mode="bicubic", align_corners=False)
