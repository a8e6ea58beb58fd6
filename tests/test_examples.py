"""Every example runs from a folder of weights, at toy size, and leaves what its docstring says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from manyview.geometry.trajectories import spherical_angles
from manyview.io.glb import read_glb
from manyview.io.result import Result
from manyview.methods.dimvis.model import SlotConditioner
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.nets.autoencoder import build_autoencoder
from manyview.sampling.solvers import build_scheduler

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DiMViS of the real classes with random weights, for views of 16 pixels."""
    torch.manual_seed(0)
    codec = build_autoencoder("compact", latent_channels=4)
    codec.register_to_config(sample_size=16)
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            projection_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8,
    )
    folder = tmp_path_factory.mktemp("weights")
    DimvisPipeline(
        vae=codec,
        image_encoder=encoder,
        unet=unet,
        conditioner=SlotConditioner(latent_channels=4, context_dim=8),
        scheduler=build_scheduler("v_prediction"),
    ).save_pretrained(folder)
    return folder


def run(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"examples/{name}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_missing_views(weights: Path, tmp_path: Path) -> None:
    words = ("--weights", weights, "--steps", "1", "--samples", "2", "--out", tmp_path / "made")
    done = run("01_missing_views.py", *words)
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "made")
    assert result.views.observed.tolist() == [True, False, True, False]
    assert result.samples is not None
    assert result.samples.shape == (2, 4, 3, 16, 16)
    assert (tmp_path / "made" / "sheet.png").is_file()
    assert "mean of the given views: " in done.stdout


def test_train_small(weights: Path, tmp_path: Path) -> None:
    words = ("--weights", weights, "--objects", "2", "--steps", "40", "--out", tmp_path)
    done = run("02_train_small.py", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["examples"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40
    assert rows[-1]["loss"] < 1.2  # fresh weights predict about 0 of a target of about unit variance
    assert Result.load(tmp_path / "result").views.observed.tolist() == [True, False, False, False]


def test_own_data_set(weights: Path, tmp_path: Path) -> None:
    photos = ROOT / "examples" / "data" / "demo" / "images"
    files = ("--files", "001.png", "000.png", "--azimuths", "135", "45")
    words = ("--photos", photos, "--weights", weights, "--steps", "1")
    done = run("03_own_data_set.py", *words, *files, "--out", tmp_path / "own")
    assert done.returncode == 0, done.stderr
    scene = json.loads((tmp_path / "own" / "scene" / "transforms.json").read_text())
    # Azimuth 135 at elevation 30 from 1.5 away: 1.5 cos 30 (cos 135, sin 135) = (-0.9186, 0.9186), z = 0.75.
    position = [row[3] for row in scene["frames"][0]["transform_matrix"][:3]]
    assert position == pytest.approx([-0.91856, 0.91856, 0.75], abs=1e-4)
    # From 135 to 45 degrees is a quarter turn back, which is the last slot of four.
    assert Result.load(tmp_path / "own" / "result").views.observed.tolist() == [True, False, False, True]
    again = run("03_own_data_set.py", *words, *files, "--out", tmp_path / "own")
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out: ")
    assert again.stderr.count("\n") == 1


def test_views_to_mesh(tmp_path: Path) -> None:
    done = run("04_views_to_mesh.py", "--size", "32", "--steps", "60", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read_glb(tmp_path / "mesh.glb").faces) > 100
    assert (tmp_path / "splats.ply").stat().st_size > 1000
    levels = [float(line.split()[1]) for line in done.stdout.splitlines()]
    # White is 12 to 15 dB away from views of an object; even so short a fit is far nearer.
    assert min(levels) > 18


def test_few_views_to_field(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "tests" / "methods"))
    from tiny_fewview import write_tiny_bundle

    weights = write_tiny_bundle(tmp_path / "weights")
    words = ("--weights", weights, "--rounds", "0", "--steps", "15", "--out", tmp_path / "field")
    done = run("05_few_views_to_field.py", *words)
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "field")
    assert result.views.observed.tolist() == [True] * 2 + [False] * 8
    assert (tmp_path / "field" / "field.safetensors").stat().st_size > 1000
    assert "8 views made from a distance of 1.50" in done.stdout


def test_photo_to_orbit(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "tests" / "methods"))
    from tiny_hi3d import write_tiny_bundle

    weights = write_tiny_bundle(tmp_path / "weights")
    words = ("--weights", weights, "--lift-steps", "5", "--no-mesh", "--out", tmp_path / "turned")
    done = run("06_photo_to_orbit.py", *words)
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "turned")
    assert result.views.observed.tolist() == [True] + [False] * 7
    assert (tmp_path / "turned" / "splats.ply").stat().st_size > 1000
    assert "8 views of 32 pixels" in done.stdout


def test_one_image_to_any_camera(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "tests" / "methods"))
    from tiny_tunet import write_tiny_tunet

    weights = write_tiny_tunet(tmp_path / "weights")
    words = ("--weights", weights, "--views", "3", "--yaw", "30", "--candidates", "A", "B")
    done = run("07_one_image_to_any_camera.py", *words, "--out", tmp_path / "around")
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "around")
    assert result.views.observed.tolist() == [True, False, False, False]
    assert result.views.cameras is not None
    azimuth = spherical_angles(result.views.cameras.centers)[0]
    assert ((azimuth + 180) % 360 - 180).tolist() == pytest.approx([0, -30, 0, 30], abs=0.1)
    assert "3 views of 16 pixels" in done.stdout
    assert "selected: " in done.stdout


def test_turn_a_gan(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "tests" / "methods"))
    from tiny_refiner import write_tiny_bundle

    weights = write_tiny_bundle(tmp_path / "weights")
    words = ("--weights", weights, "--yaws", "-1", "0", "1", "--out", tmp_path / "turned")
    done = run("08_turn_a_gan.py", *words)
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "turned")
    assert result.views.observed.tolist() == [False, True, False]
    assert "asked for   -1.0 degrees, reached" in done.stdout
    assert done.stdout.count("\n") == 3
    again = run("08_turn_a_gan.py", *words)
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out: ")


def test_examples_are_numbered_and_say_what_they_show() -> None:
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert [name[:3] for name in names] == [f"{number:02d}_" for number in range(1, len(names) + 1)]
    for name in names:
        assert f"python examples/{name} " in (ROOT / "examples" / name).read_text()
