"""The refiner at toy size: the real classes, 64 px pictures, codes of 10 rows of 8 numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.data.depth_codes import DepthCodes
from manyview.data.packed import describe, write_shard
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.generator import StyleGANCodes
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.pose import PoseEstimator
from manyview.methods.refiner.train_depth import SelfTaught
from manyview.methods.refiner.yaw_net import YawNet
from manyview.nets.monodepth.disparity import DisparityNet
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.training.task import Task
from manyview.weights import write_bundle

SIZE, ROWS, NUMBERS = 64, 10, 8
PARTS = ("generator", "depth", "pose", "directions", "refiner", "yaw")

sys.path.append(str(Path(__file__).parents[2] / "papers" / "refiner"))
from toy_scene import ToyGenerator as ToyGenerator  # noqa: E402


def tiny_generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        resolution=SIZE, z_dim=8, w_dim=NUMBERS, mapping_layers=2, channel_base=256, channel_max=8
    )
    # Every code shows, and pictures are neither blank nor full.
    with torch.no_grad():
        for block in generator.blocks:
            block.to_image.bias.add_(0.3)  # pyright: ignore
    return generator.eval()


def tiny_discriminator() -> StyleGAN2Discriminator:
    torch.manual_seed(1)
    return StyleGAN2Discriminator(resolution=SIZE, channel_base=256, channel_max=8)


def tiny_basis() -> SweepBasis:
    basis = SweepBasis(w_dim=NUMBERS, num_components=2, component=0, layers=[0, 4], yaw_per_sigma_deg=10.0)
    basis.vectors.copy_(torch.eye(2, NUMBERS))
    basis.spread.fill_(0.5)
    return basis.eval()


def tiny_self_taught() -> SelfTaught:
    torch.manual_seed(2)
    widths = (8, 8, 8, 8, 8)
    depth = DisparityNet(widths=widths, decoder_widths=(4, 4, 4, 4, 4))
    return SelfTaught(depth, PoseEstimator(widths=widths, hidden=8), tiny_basis()).eval()


def tiny_refiner(moving: bool = False) -> CodeRefiner:
    """Fresh it changes nothing; `moving` gives its last layer weights."""
    torch.manual_seed(3)
    refiner = CodeRefiner(
        num_ws=ROWS,
        w_dim=NUMBERS,
        model_channels=16,
        channel_mult=(1, 2),
        attention_levels=(1,),
        head_channels=8,
        norm_groups=8,
    )
    refiner.set_statistics(torch.zeros(NUMBERS), torch.full((NUMBERS,), 0.5))
    if moving:
        with torch.no_grad():
            for weight in refiner.parameters():
                if not bool(weight.any()):
                    weight.normal_(std=0.05)
    return refiner.eval()


def tiny_codes() -> StyleGANCodes:
    return StyleGANCodes(tiny_generator().requires_grad_(False))


def tiny_components(moving: bool = True) -> dict[str, Any]:
    taught = tiny_self_taught()
    return {
        "generator": tiny_generator(),
        "depth": taught.depth,
        "pose": taught.pose,
        "directions": taught.basis,
        "refiner": tiny_refiner(moving),
        "yaw": YawNet(size=SIZE, widths=(8, 8), hidden=8).eval(),
    }


def write_tiny_bundle(folder: Path, *, leave_out: tuple[str, ...] = ()) -> Path:
    """As `--weights` takes it, but for the components left out."""
    names = [name for name in PARTS if name not in leave_out]
    made = tiny_components()
    for name in names:
        made[name].save_pretrained(folder / name)
    write_bundle(
        folder, name="tiny", method="refiner", licence="none", components={name: name for name in names}
    )
    return folder


def write_single_views(folder: Path, count: int = 6, size: int = SIZE) -> Path:
    """Packed single views of squares that move with their yaw, with depths."""
    codes = DepthCodes(near=0.6, far=2.4)
    describe(
        folder,
        {
            "source": "squares",
            "first_seed": 0,
            "elevation_deg": 10.0,
            "distance": 1.5,
            "depths": {"near": codes.near, "far": codes.far},
            "size": [size, size],
        },
    )
    yaws = np.linspace(-50, 50, count).astype(np.float32)
    images = np.full((count, 1, size, size, 3), 255, np.uint8)
    depths = torch.zeros(count, 1, size, size)
    for number, yaw in enumerate(yaws):
        left = round(size / 4 + yaw / 100 * size / 4)
        images[number, 0, size // 4 : 3 * size // 4, left : left + size // 2] = (60, 90 + number, 140)
        depths[number, 0, size // 4 : 3 * size // 4, left : left + size // 2] = torch.linspace(
            1.1, 1.4, size // 2
        )
    np.save(folder / "yaws_00000000.npy", yaws)
    write_shard(folder, 0, images, depths=codes.encode(depths))
    return folder


def short_run(task: Task, out: Path, stop: int | None = None, **more: Any) -> None:
    """Train a task for four steps of two items, or go on with it; `stop`: after so many."""
    config = TrainConfig(
        steps=4,
        batch_size=2,
        clip_norm=None,
        weight_decay=0.0,
        warmup_steps=0,
        log_every=1,
        validate_every=4,
        device="cpu",
        dtype="fp32",
        stop_after_steps=stop,
        tensorboard=False,
        **more,
    )
    fit(task, config, out, resume=True, progress=False)
