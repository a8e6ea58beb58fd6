"""DiMViS and its baseline at toy size: the real classes, a few thousand weights, 16 px views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from manyview.methods.dimvis.model import DimvisOptions, SlotConditioner, TileDenoiser
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.model import PairDenoiser, PoseConditioner
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.nets.autoencoder import build_autoencoder
from manyview.sampling.solvers import build_scheduler

CHANNELS, DIM, SIZE = 4, 8, 16


def tiny_unet(in_channels: int) -> UNet2DConditionModel:
    sizes: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=in_channels,
        out_channels=CHANNELS,
        cross_attention_dim=DIM,
        attention_head_dim=2,
        norm_num_groups=4,
        layers_per_block=1,
        **sizes,
    )


def tiny_options(**changes: Any) -> DimvisOptions:
    return DimvisOptions(**{"latent_channels": CHANNELS, "context_dim": DIM, **changes})


def conditioner_of(options: DimvisOptions) -> SlotConditioner:
    return SlotConditioner(
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


def tiny_denoiser(options: DimvisOptions) -> TileDenoiser:
    """As `build_denoiser` makes it, but small."""
    unet = tiny_unet(options.in_channels)
    with torch.no_grad():
        unet.conv_in.weight[:, options.latent_channels :] = 0
    return TileDenoiser(unet, conditioner_of(options))


def codec_and_encoder() -> tuple[AutoencoderKL, CLIPVisionModelWithProjection]:
    codec = build_autoencoder("compact", latent_channels=CHANNELS)
    codec.register_to_config(sample_size=SIZE)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return codec, CLIPVisionModelWithProjection(config)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many torch threads inside; as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread_weights(module: nn.Module) -> None:
    """Fresh networks end in near-zero layers; with larger weights every path shows in the output."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1 and bool((weight != 0).any()):
                weight.mul_(1.5)


def tiny_pipeline(options: DimvisOptions | None = None, guidance: tuple[float, ...] = ()) -> DimvisPipeline:
    torch.manual_seed(0)
    options = options or tiny_options()
    codec, encoder = codec_and_encoder()
    denoiser = tiny_denoiser(options)
    spread_weights(denoiser)
    pipeline = DimvisPipeline(
        vae=codec.eval(),
        image_encoder=encoder.eval(),
        unet=denoiser.unet.eval(),
        conditioner=denoiser.conditioner.eval(),
        scheduler=build_scheduler("v_prediction"),
        guidance_by_references=guidance,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pair_pipeline() -> One2OnePipeline:
    torch.manual_seed(0)
    codec, encoder = codec_and_encoder()
    denoiser = PairDenoiser(tiny_unet(2 * CHANNELS), PoseConditioner(context_dim=DIM))
    spread_weights(denoiser)
    return One2OnePipeline(
        vae=codec.eval(),
        image_encoder=encoder.eval(),
        unet=denoiser.unet.eval(),
        conditioner=denoiser.conditioner.eval(),
        scheduler=build_scheduler("v_prediction"),
    )
