"""Tiny data sets and pipelines: real classes at 32 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_scenes import SIZE, grey_views
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from manyview.io.scene import write_scene
from manyview.methods.dimvis.model import SlotConditioner
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.model import PoseConditioner
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.sampling.solvers import build_scheduler


def tiny_parts(in_channels: int) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 4),
    }
    vae = AutoencoderKL(
        **levels,
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=8,
            projection_dim=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=16,
            patch_size=8,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=in_channels,
        out_channels=2,
        cross_attention_dim=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        attention_head_dim=1,
        norm_num_groups=4,
        mid_block_type="UNetMidBlock2DCrossAttn",
    )
    return {"vae": vae.eval(), "image_encoder": encoder.eval(), "unet": unet.eval()}


@pytest.fixture(scope="session")
def dimvis() -> DimvisPipeline:
    conditioner = SlotConditioner(grid=(2, 2), latent_channels=2, context_dim=8)
    return DimvisPipeline(
        **tiny_parts(2),
        conditioner=conditioner,
        scheduler=build_scheduler("v_prediction"),
        guidance_by_references=(3.0, 1.0, 1.0),
    )


@pytest.fixture(scope="session")
def one2one() -> One2OnePipeline:
    return One2OnePipeline(
        **tiny_parts(4),
        conditioner=PoseConditioner(context_dim=8),
        scheduler=build_scheduler("v_prediction"),
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy scenes, `cup` and `shoe`."""
    root = tmp_path_factory.mktemp("data") / "set"
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.1 + 0.03 * k for k in range(16)], number), root / name)
    return root
