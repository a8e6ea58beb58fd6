"""`manyview train tunet`: the base, then the network on its inversions; renders and ordered captures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from manyview.cli import main
from manyview.data.packed import pack_procedural
from manyview.geometry.trajectories import orbit
from manyview.methods.tunet.model import TUNet
from manyview.nets.autoencoder import build_autoencoder

sys.path.append(str(Path(__file__).parents[1] / "data"))

from test_captures import write_object

SHORT = ("--steps", "2", "--batch-size", "2", "--device", "cpu", "--dtype", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Renders, captures, a codec, and a base trained on the renders."""
    folder = tmp_path_factory.mktemp("tunet")
    pack_procedural(folder / "set", 0, 2, orbit(4, size=64))
    torch.manual_seed(0)
    build_autoencoder("compact", latent_channels=2).save_pretrained(folder / "vae")
    for name, count in (("3/a", 26), ("3/b", 4), ("5/c", 11)):
        write_object(folder / "captures" / name, count)
    held_out = ("--validation", str(folder / "set"), "--validate-every", "2")
    assert train(folder, "base", "set", *held_out, "--prediction", "epsilon", "--min-snr", "5") == 0
    return folder


def train(data: Path, stage: str, source: str, *more: str, out: str = "") -> int:
    words = ("--data", str(data / source), "--vae", str(data / "vae"), "--out", str(data / (out or stage)))
    return main(["train", "tunet", "--stage", stage, *words, *SHORT, *more])


def test_base_then_tunet(data: Path) -> None:
    record = json.loads((data / "base/train.json").read_text())
    assert record["method"] == "tunet_base"
    assert set(record["validation"]) == {"loss_val_low", "loss_val_middle", "loss_val_high"}
    assert record["settings"]["min_snr"] == 5
    base = ("--base", str(data / "base/export"), "--mean-steps", "2", "--schedule", "cyclic", "--cycles", "2")
    held_out = ("--validation", str(data / "set"), "--validate-every", "2", "--targets-each", "3")
    assert train(data, "tunet", "set", *base, *held_out) == 0
    record = json.loads((data / "tunet/train.json").read_text())
    assert record["settings"]["mean_steps"] == 2
    assert record["settings"]["targets"] == 3
    assert record["config"]["schedule"] == "cyclic"
    assert set(record["validation"]) == {"loss_val", "copy_val"}
    network = TUNet.from_pretrained(data / "tunet/export/tunet", local_files_only=True)
    assert network.options.latent_channels == 2
    # Latents of the base's run are found again, means are new: one cache of each.
    assert len(list((data / "set/.latents").iterdir())) == 2
    assert train(data, "tunet", "set", *base, *held_out) == 2  # the folder is in use
    assert train(data, "tunet", "set", *base, *held_out, "--resume") == 0  # and finished


def test_ordered_captures_with_their_categories(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--base", str(data / "base/export"), "--mean-steps", "1", "--size", "32")
    out = "captured"
    assert train(data, "tunet", "captures", *base, "--ablation", "concat", out=out) == 0
    record = json.loads((data / out / "train.json").read_text())
    assert record["settings"]["classes"] == ["3", "5"]
    # The capture of 4 frames is left out; ten pairs of each of the others.
    assert record["settings"]["examples"] == 20
    network = TUNet.from_pretrained(data / out / "export/tunet", local_files_only=True)
    assert network.options.num_classes == 2
    assert network.options.conditioning == "concat"
    # The first of every 99 scenes of a category is held out: of the category 5 nothing is left.
    split = ("--split", "1-of-99")
    assert train(data, "tunet", "captures", *base, *split, out="split") == 2
    assert "at least 10 frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "flags", "said"),
    [
        ("tunet", (), "--base"),
        ("tunet", ("--base", "vae"), "--base"),
        ("tunet", ("--base", "nowhere"), "--base"),
        ("tunet", ("--base", "base/export", "--min-snr", "5"), "--min-snr"),
        ("tunet", ("--base", "base/export", "--prediction", "epsilon"), "--prediction"),
        ("tunet", ("--base", "base/export", "--t-star", "1000"), "--t-star"),
        ("tunet", ("--base", "base/export", "--mean-steps", "601"), "--mean-steps"),
        ("tunet", ("--base", "base/export", "--split", "90-5-5"), "--split"),
        ("tunet", ("--base", "base/export", "--preset", "paper", "--mean-steps", "1"), "--vae"),
        ("base", ("--t-star", "500"), "--t-star"),
        ("base", ("--ablation", "concat"), "--ablation"),
        ("base", ("--preset", "paper"), "--preset"),
        ("base", ("--class-drop", "2"), "--class-drop"),
        ("orbit", (), "--stage"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    data: Path, stage: str, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = [str(data / word) if word in ("vae", "nowhere", "base/export") else word for word in flags]
    assert train(data, stage, "set", *placed, out="refused") == 2
    shown = capsys.readouterr().err
    assert f"error: {said}: " in shown
    assert shown.strip().count("\n") == 0
    assert not (data / "refused").exists()


def test_flags_of_tunet_are_for_it_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vae", "--data", str(data / "set"), "--out", str(data / "x"), "--t-star", "5"]) == 2
    assert "--t-star: 5: is not for vae" in capsys.readouterr().err
