"""`manyview train hi3d` for the networks beside the orbit's: depth, elevation, and the refiner on depth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.cli import main
from manyview.data.packed import PackedViews, describe, pack_procedural, write_shard
from manyview.geometry.trajectories import orbit
from manyview.methods.hi3d.depth import load_depth
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.elevation import ElevationNet
from manyview.methods.hi3d.upscaler import load_upscaler, upscale
from manyview.nets.autoencoder import build_autoencoder
from manyview.nets.image_encoder import build_image_encoder

SHORT = ("--steps", "1", "--batch-size", "2", "--device", "cpu", "--dtype", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    pack_procedural(folder / "set", 0, 2, orbit(4, size=64), depths=True)
    torch.manual_seed(0)
    build_autoencoder("compact", latent_channels=2).save_pretrained(folder / "vae")
    build_image_encoder().save_pretrained(folder / "image_encoder")
    return folder


def train(data: Path, stage: str, *more: str) -> int:
    words = ("--data", str(data / "set"), "--out", str(data / stage))
    return main(["train", "hi3d", "--stage", stage, *words, *SHORT, *more])


def test_depth_then_refine(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, "depth", "--size", "64", "--validation", str(data / "set"), "--shares", "2") == 0
    net = load_depth(data / "depth" / "export")
    assert isinstance(net, DepthNet)
    assert net.size == 64
    assert json.loads((data / "depth/train.json").read_text())["method"] == "hi3d_depth"
    clips = np.full((2, 4, 32, 32, 3), 200, np.uint8)
    describe(data / "own", {"source": "hi3d", "seed": 3})
    write_shard(data / "own", 0, clips)
    parts = ("--vae", str(data / "vae"), "--image-encoder", str(data / "image_encoder"))
    made = ("--depth-net", str(data / "depth/export"), "--own", str(data / "own"))
    small = ("--window", "2", "--crop-cells", "4", "--own-share", "0.7", "--shares", "1")
    held_out = ("--validation", str(data / "set"), "--validate-every", "1")
    assert train(data, "refine", *parts, *made, *small, *held_out) == 0
    record = json.loads((data / "refine/train.json").read_text())
    assert record["settings"]["crop"] == 4
    assert set(record["validation"]) == {"loss_val_low", "loss_val_middle", "loss_val_high"}
    config = json.loads((data / "refine/export/refiner/config.json").read_text())
    assert config["in_channels"] == 2 + 9 + 2
    assert train(data, "refine", *parts) == 2
    assert "--depth-net" in capsys.readouterr().err


def test_elevation(data: Path) -> None:
    assert train(data, "elevation") == 0
    net = ElevationNet.from_pretrained(str(data / "elevation/export")).float()
    view = torch.from_numpy(np.array(PackedViews(data / "set")[0][0])).permute(2, 0, 1).float() / 255
    assert -10 <= net.estimate(view, (view.amin(dim=0, keepdim=True) < 1).float()).degrees <= 40


def test_upscaler(data: Path) -> None:
    held_out = ("--validation", str(data / "set"), "--validate-every", "1")
    assert train(data, "upscaler", "--crop", "16", "--size", "64", *held_out) == 0
    record = json.loads((data / "upscaler/train.json").read_text())
    assert record["settings"]["crop"] == 16
    assert record["validation"]["psnr_val"] > 20
    images = torch.ones(1, 3, 8, 8)
    with torch.no_grad():
        made = upscale(load_upscaler(data / "upscaler/export"), images)
    assert made.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("stage", "flags", "said"),
    [
        ("depth", ("--crop", "32"), "--crop"),
        ("depth", ("--window", "2"), "--window"),
        ("depth", ("--preset", "paper"), "--preset"),
        ("orbit", ("--shares", "1", "2"), "--shares"),
        ("orbit", ("--crop-cells", "4"), "--crop-cells"),
        ("refine", ("--sweep-depths", "4"), "--sweep-depths"),
        ("elevation", ("--coarse", "."), "--coarse"),
        ("orbit", ("--depth-net", "."), "--depth-net"),
        ("refine", ("--coarse", ".", "--depth-net", "."), "--coarse"),
        ("refine", ("--coarse", ".", "--own", "."), "--own"),
        ("refine", ("--coarse", ".", "--validation", "."), "--coarse"),
        ("refine", ("--depth-net", ".", "--own", ".", "--own-share", "2"), "--own-share"),
    ],
)
def test_flags_of_other_stages_are_refused(
    data: Path, stage: str, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, stage, *flags) == 2
    assert f"error: {said}: " in capsys.readouterr().err
