"""TUNet at toy size: the real classes, 16 px views; with words, Stable Diffusion's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from tiny_dimvis import CHANNELS, SIZE, codec_and_encoder, spread_weights
from tiny_text import write_tiny_text_model
from torch import nn

from manyview.methods.tunet.model import TUNet, build_tunet
from manyview.methods.tunet.networks import stable_diffusion_parts
from manyview.methods.tunet.options import TUNetOptions
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.sampling.solvers import Prediction, build_scheduler
from manyview.weights import write_bundle

PARTS = ("vae", "base", "tunet", "scheduler", "image_encoder", "text_encoder", "tokenizer")


def tiny_options(**changes: Any) -> TUNetOptions:
    small: dict[str, Any] = {
        "latent_channels": CHANNELS,
        "widths": (16, 24),
        "self_attention": (False, True),
        "ray_levels": (False, True),
        "cross_dim": 16,
        "head_dim": 8,
        "camera_dim": 4,
        "class_dim": 4,
        "ray_octaves": 1,
        "sweep_depths": 3,
        "num_classes": 2,
    }
    return TUNetOptions(**{**small, **changes})


def tiny_network(*, spread: bool = True, **changes: Any) -> TUNet:
    """Every path shows in the answer, unless the weights are to be as they begin."""
    torch.manual_seed(0)
    network = build_tunet(tiny_options(**changes))
    if spread:
        spread_weights(network)
        nn.init.normal_(network.conv_out.weight, std=0.1)
    return network.eval()


def tiny_base(num_classes: int = 2) -> UNet2DModel:
    torch.manual_seed(1)
    levels: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    base = UNet2DModel(
        sample_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        num_class_embeds=num_classes + 1,
        **levels,
    )
    spread_weights(base)
    return base.eval()


def tiny_tunet(
    *,
    prediction: Prediction = "epsilon",
    network: TUNet | None = None,
    words: Path | None = None,
    **changes: Any,
) -> TunetPipeline:
    """`words`: a folder for a base that takes text, with its codec."""
    torch.manual_seed(0)
    codec, encoder = codec_and_encoder()
    spread_weights(codec)
    parts: dict[str, Any] = {"vae": codec, "base": tiny_base(), "scheduler": build_scheduler(prediction)}
    if words is not None:
        parts = stable_diffusion_parts(write_tiny_text_model(words))
        spread_weights(parts["base"])
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
    network = tiny_network() if network is None else network
    return TunetPipeline(
        **{**parts, "tunet": network, "image_encoder": encoder.eval(), "mean_steps": 2, **changes}
    )


def write_tiny_tunet(folder: Path, *, words: bool = False, **settings: Any) -> Path:
    """As `--weights` takes it."""
    pipeline = tiny_tunet(words=folder / "words" if words else None)
    names = [name for name in PARTS if getattr(pipeline, name) is not None]
    for name in names:
        getattr(pipeline, name).save_pretrained(folder / name)
    write_bundle(
        folder,
        name="tiny",
        method="tunet",
        licence="none",
        components={name: name for name in names},
        settings={"mean_steps": 2, "resolution": SIZE, **settings},
    )
    return folder
