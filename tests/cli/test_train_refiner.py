"""`manyview train refiner`: all five stages one after the other, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from tiny_refiner import tiny_self_taught, write_single_views

from manyview.cli import main
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.yaw_net import YawNet
from manyview.nets.stylegan2.generator import StyleGAN2Generator

SHORT = ("--steps", "1", "--batch-size", "2", "--device", "cpu", "--dtype", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    write_single_views(folder / "views")
    return folder


def train(place: Path, stage: str, *more: str) -> int:
    words = ("train", "refiner", "--stage", stage, "--out", str(place / stage))
    return main([*words, *SHORT, *more])


def test_generator_yaw_depth_and_refiner(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("--data", str(place / "views"))
    held_out = ("--validation", str(place / "views"), "--validate-every", "1")
    assert train(place, "autoencoder", *data, *held_out, "--rate", "2e-3") == 0
    record = json.loads((place / "autoencoder/train.json").read_text())
    assert record["method"] == "refiner_autoencoder"
    assert record["settings"]["autoencoder_rate"] == 2e-3
    assert set(record["validation"]) == {"kernel_val", "psnr_val", "spread_val"}
    before = ("--initial", str(place / "autoencoder/export"))
    assert train(place, "generator", *data, *held_out, *before, "--r1", "2", "--augment", "0.3") == 0
    record = json.loads((place / "generator/train.json").read_text())
    assert record["method"] == "refiner_generator"
    assert record["settings"]["gan_r1"] == 2
    assert record["config"]["betas"] == [0.0, 0.99]
    assert record["config"]["clip_norm"] is None
    assert set(record["validation"]) == {"kernel_val", "spread_val"}
    generator = StyleGAN2Generator.from_pretrained(str(place / "generator/export"))
    assert (generator.resolution, generator.num_ws) == (64, 10)
    assert train(place, "yaw", *data, *held_out) == 0
    assert YawNet.from_pretrained(str(place / "yaw/export")).size == 64
    # The search for the turning direction is tested by itself, and slow.
    basis = SweepBasis(w_dim=generator.w_dim, num_components=2, layers=[0, 4])
    basis.vectors[0, 0] = 1.0
    monkeypatch.setattr("manyview.methods.refiner.train_depth.search_basis", lambda *_: basis)
    made = ("--generator", str(place / "generator/export"))
    known = ("--yaw-range", "50", "--near", "0.2", "0.6", "--symmetric")
    assert train(place, "depth", *made, *held_out, *known, "--yaw-net", str(place / "yaw/export")) == 0
    record = json.loads((place / "depth/train.json").read_text())
    assert record["settings"]["depth_yaw_range"] == 50
    assert record["settings"]["depth_anchor"] == 16
    assert record["settings"]["depth_near"] == [0.2, 0.6]
    assert record["settings"]["depth_search"]["symmetric"] is True
    assert set(record["validation"]) == {
        *("depth_rank_val", "round_rank_val", "yaw_error_deg_val", "turned_deg_val")
    }
    calibration = ("--calibration", str(place / "depth/export"))
    assert train(place, "refiner", *made, *calibration, "--without", "latent", "--guard", "20") == 0
    record = json.loads((place / "refiner/train.json").read_text())
    assert record["settings"]["loss_latent"] == 0
    assert record["settings"]["loss_guard"] == 20
    assert CodeRefiner.from_pretrained(str(place / "refiner/export/refiner")).num_ws == 10


@pytest.mark.parametrize(
    ("stage", "flags", "said"),
    [
        ("generator", (), "--data"),
        ("yaw", (), "--data"),
        ("depth", (), "--generator"),
        ("refiner", ("--generator", "GENERATOR"), "--calibration"),
        ("refiner", ("--generator", ".", "--calibration", "."), "--generator"),
        ("depth", ("--generator", "GENERATOR", "--data", "VIEWS"), "--data"),
        ("depth", ("--generator", "GENERATOR", "--guard", "3"), "--guard"),
        ("generator", ("--data", "VIEWS", "--calibration", "."), "--calibration"),
        ("generator", ("--data", "VIEWS", "--without", "warp"), "--without"),
        ("generator", ("--data", "VIEWS", "--augment", "2"), "--augment"),
        ("autoencoder", ("--data", "VIEWS", "--r1", "3"), "--r1"),
        ("autoencoder", ("--data", "VIEWS", "--rate", "3"), "--rate"),
        ("generator", ("--data", "VIEWS", "--rate", "0.1"), "--rate"),
        ("generator", ("--data", "VIEWS", "--odd", "2"), "--odd"),
        ("depth", ("--generator", "GENERATOR", "--near", "0.5", "0.1"), "--near"),
        ("depth", ("--generator", "GENERATOR", "--yaw-range", "200"), "--yaw-range"),
        ("refiner", ("--generator", "GENERATOR", "--calibration", "GENERATOR", "--symmetric"), "--symmetric"),
        ("yaw", ("--data", "VIEWS", "--preset", "paper"), "--preset"),
        ("yaw", ("--data", "VIEWS", "--vae", "."), "--vae"),
        ("orbit", ("--data", "VIEWS"), "--stage"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Path,
    tmp_path: Path,
    stage: str,
    flags: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = tmp_path / "made"
    tiny_self_taught().pose.save_pretrained(str(generator))
    places = {"GENERATOR": str(generator), "VIEWS": str(place / "views")}
    words = ["train", "refiner", "--stage", stage, "--out", str(tmp_path / "run"), *SHORT]
    assert main([*words, *(places.get(flag, flag) for flag in flags)]) == 2
    assert f"error: {said}: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_its_flags_are_not_for_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "vae", "--data", str(place / "views"), "--out", str(place / "vae"), "--guard", "3"]
    assert main(words) == 2
    assert "error: --guard: given: is not for vae, only for refiner" in capsys.readouterr().err
