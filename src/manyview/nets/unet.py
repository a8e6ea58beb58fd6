"""The latent denoiser of the image methods: diffusers' `UNet2DConditionModel` in two sizes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel


def build_unet(
    preset: Literal["compact", "paper"],
    *,
    in_channels: int,
    latent_channels: int,
    context_dim: int,
    zero_channels: int = 0,
    out_channels: int | None = None,
) -> UNet2DConditionModel:
    """A denoiser with fresh weights that reads `in_channels` and answers with `latent_channels`, or
    `out_channels`.

    `paper` has the sizes of Stable Diffusion 1 (and of its image variations); `compact` about 4.5 M
    parameters with attention below the finest level. The last `zero_channels` input channels start with
    zero weights, so that an option that adds them changes nothing at first.
    """
    shared: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": latent_channels if out_channels is None else out_channels,
        "cross_attention_dim": context_dim,
    }
    if preset == "paper":
        unet = UNet2DConditionModel(sample_size=64, attention_head_dim=8, **shared)
    else:
        unet = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(48, 96, 112),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=16,
            **shared,
        )
    if zero_channels:
        with torch.no_grad():
            unet.conv_in.weight[:, -zero_channels:] = 0
    return unet


def load_grown(unet: UNet2DConditionModel, saved: UNet2DConditionModel) -> None:
    """Give `unet` the weights of `saved`, a U-Net of the same sizes or of fewer channels.

    Input channels that the saved one has not got start at zero weights, and output channels that it has not
    got stay as they are in `unet`; both are the last ones.
    """
    state = unet.state_dict()
    with torch.no_grad():
        state["conv_in.weight"].zero_()
        for name, value in saved.state_dict().items():
            state[name][tuple(slice(size) for size in value.shape)] = value
    unet.load_state_dict(state)
