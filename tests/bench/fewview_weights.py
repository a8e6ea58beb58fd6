"""SparseFusion at toy size with its regressor, on disk as bundles, and small scenes to ask them about."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from manyview.bench.fewview_rows import RegressorAnswerer, Row
from manyview.lift.field.options import FieldOptions
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.eft import EpipolarTransformer
from manyview.methods.sparsefusion.pipeline import SparseFusionPipeline
from manyview.methods.sparsefusion.regressor import PixelRegressor
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.methods.sparsefusion.vldm import build_scheduler
from manyview.types import Cameras, Views
from manyview.weights import write_bundle

SIZE = 16
QUICK_DISTILL = DistillOptions(
    targets=2,
    warmup_steps=2,
    rounds=1,
    steps_per_round=1,
    most_steps=1,
    rows=0,
    field=FieldOptions(encoding="voxels", resolution=16, rays=64),
)


def tiny_pipeline() -> SparseFusionPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    sizes = {
        "width": 8,
        "feedforward": 12,
        "num_layers": 1,
        "num_heads": 2,
        "num_depths": 4,
        "num_octaves": 2,
    }
    eft = EpipolarTransformer(stem=2, **sizes, half_range=0.9, normalization="group", sampling="exact")
    unet = VldmUnet(
        latent_channels=2,
        condition_channels=8,
        width=8,
        multipliers=(1, 2),
        num_blocks=(1, 1),
        num_heads=2,
        head_dim=4,
        stem_kernels=(3, 5),
    )
    return SparseFusionPipeline(vae.eval(), eft.eval(), unet.eval(), build_scheduler("ddim", 50))


def tiny_regressor() -> PixelRegressor:
    torch.manual_seed(0)
    return PixelRegressor(
        stem=2, width=8, num_depths=4, num_octaves=2, half_range=0.9, normalization="group"
    ).eval()


def regressor_row(network: PixelRegressor) -> Row:
    return Row(name="pixelnerf", answer=RegressorAnswerer(network=network, rows=4), options={"rows": 4})


def write_bundles(folder: Path) -> dict[str, Path]:
    """Folders of the weights of `sparsefusion` and `pixelnerf`."""
    pipeline = tiny_pipeline()
    parts = {
        "sparsefusion": {name: getattr(pipeline, name) for name in ("vae", "eft", "unet", "scheduler")},
        "pixelnerf": {"regressor": tiny_regressor()},
    }
    settings = {"steps": 3, "guidance": 1.5, "distill": {"rounds": 2, "field": {"rays": 64}}}
    for method, components in parts.items():
        for name, part in components.items():
            part.save_pretrained(folder / method / name)
        write_bundle(
            folder / method,
            name="tiny",
            method=method,
            licence="none",
            components={name: name for name in components},
            settings=settings if len(components) > 1 else {},
        )
    return {method: folder / method for method in parts}


def all_white(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
    return torch.ones(len(targets), 3, *given.size)
