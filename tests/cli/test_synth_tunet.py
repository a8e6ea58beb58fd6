"""`manyview synth` and `manyview convert` with `--method tunet`: what is typed, what is on disk after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from manyview.cli import main
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.io.images import write_png
from manyview.io.result import Result
from manyview.io.scene import write_scene
from manyview.methods import load
from manyview.types import Views

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from tiny_text import write_tiny_text_model
from tiny_tunet import SIZE, tiny_network, write_tiny_tunet


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tunet(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box off the middle of a light wall."""
    image = torch.full((3, 40, 60), 0.9)
    image[0, 12:30, 20:40] = 0.2
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_png(path, image)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views on an orbit away from the world's origin, the second of them given."""
    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    move = Similarity(2.0, torch.eye(3), torch.tensor([3.0, 1.0, 0.5]))
    cameras = move.apply_to_cameras(orbit(4, 20.0, size=SIZE))
    place = tmp_path_factory.mktemp("scene") / "one"
    write_scene(Views(images=images, cameras=cameras, observed=torch.arange(4) == 1), place)
    return place


def synth(*words: object) -> int:
    return main(["synth", *map(str, words), "--method", "tunet"])


def test_photo_to_orbit(weights: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert synth(photo, "--weights", weights, "--targets", "orbit:4", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    result = Result.load(out)
    assert len(result.views) == told["views"] == 4
    assert result.views.observed.tolist() == [True, False, False, False]
    assert result.views.cameras is not None
    azimuth, elevation, distance = spherical_angles(result.views.cameras.centers)
    assert_close(azimuth.round(), torch.tensor([0.0, 90, 180, 270]))
    assert_close(elevation, torch.full((4,), 30.0), rtol=0, atol=1e-3)
    assert_close(distance, torch.full((4,), 1.5))
    for name in ("manifest.json", "sheet.png", "video.mp4", "transforms.json"):
        assert (out / name).is_file()
    assert result.manifest["reference"]["camera"] == "assumed"
    assert result.manifest["reference"]["mask"]
    assert result.manifest["targets"] == "orbit:4"
    assert result.manifest["options"]["candidates"] == ["A:eps_t"]
    # Framed as in training, and not as it lies in the photo.
    assert float(result.views.images[0, :, 0].mean()) > 0.98


def test_elevation_and_sweep_of_cameras(weights: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--weights", weights, "--elevation", 10, "--targets", "yaw:-40:40:3", "--framing", "crop"]
    assert synth(photo, *words, "--out", tmp_path / "out") == 0
    assert "elevation: 10 degrees (given)" in capsys.readouterr().out
    result = Result.load(tmp_path / "out")
    assert result.views.cameras is not None
    azimuth, elevation, _ = spherical_angles(result.views.cameras.centers)
    assert_close(azimuth, torch.tensor([0.0, 320, 0, 40]), rtol=0, atol=1e-3)
    assert_close(elevation, torch.full((4,), 10.0), rtol=0, atol=1e-3)
    assert result.manifest["reference"]["framing"] == "crop"


def test_a_scene_keeps_its_world(weights: Path, scene: Path, tmp_path: Path) -> None:
    assert synth(scene, "--weights", weights, "--out", tmp_path / "out") == 0
    result = Result.load(tmp_path / "out")
    assert len(result.views) == 4
    assert result.manifest["reference"] == {"camera": "scene", "view": 1}
    assert result.manifest["targets"] == "the scene's other cameras"
    assert result.views.cameras is not None
    assert_close(result.views.cameras.centers.mean(dim=0)[:2], torch.tensor([3.0, 1.0]), rtol=0, atol=1e-3)
    named = ["--slots", 2, "--targets", scene / "transforms.json"]
    assert synth(scene, "--weights", weights, *named, "--out", tmp_path / "two") == 0
    second = Result.load(tmp_path / "two")
    assert len(second.views) == 5
    assert second.manifest["reference"]["view"] == 2


def test_same_seed_same_bytes_and_candidates_are_written(weights: Path, photo: Path, tmp_path: Path) -> None:
    words = [photo, "--weights", weights, "--targets", "orbit:3", "--candidates", "A", "B:gaussian"]
    for name in ("a", "b"):
        assert synth(*words, "--seed", 5, "--out", tmp_path / name) == 0
    first, second = (sorted((tmp_path / name / "samples").rglob("*.png")) for name in ("a", "b"))
    assert len(first) == 2 * 3
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    told = json.loads((tmp_path / "a" / "manifest.json").read_text())["options"]
    assert told["candidates"] == ["A:eps_t", "B:gaussian"]
    assert len(told["chosen"]) == 2


def test_choices_reach_the_pipeline(weights: Path, photo: Path, tmp_path: Path) -> None:
    words = ["--fusion", "B", "--noise-source", "latent_t", "--t-star", 500, "--mean-steps", 3]
    more = ["--refinements", 1, "--class-id", 1, "--targets", "orbit:2"]
    assert synth(photo, "--weights", weights, *words, *more, "--out", tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]
    wanted = {"candidates": ["B:latent_t"], "t_star": 500, "mean_steps": 3, "refinements": 1, "class_id": 1}
    assert wanted.items() <= told.items()


def test_words_edit_views_where_the_base_takes_text(photo: Path, tmp_path: Path) -> None:
    folder = write_tiny_tunet(tmp_path / "w", words=True)
    words = ["--weights", folder, "--targets", "orbit:2", "--prompt", "red", "--guidance", 2]
    assert synth(photo, *words, "--out", tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]
    assert told["prompt"] == "red"
    assert told["guidance"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "red"], "--prompt: red: these weights' base takes no text"),
        (["--class-id", "7"], "--class-id: 7: expected 0 to 1"),
        (["--t-star", "0"], "--t-star"),
        (["--t-star", "100", "--mean-steps", "200"], "--mean-steps: 200: expected 1 to 100"),
        (["--candidates", "A", "A:eps_t"], "--candidates: A A:eps_t: expected different ones"),
        (["--candidates", "C"], "--candidates: C"),
        (["--candidates", "A", "mean"], "--candidates: mean"),
        (["--candidates", "A", "--fusion", "B"], "--fusion: given together with --candidates"),
        (["--fusion", "mean", "--noise-source", "eps_t"], "--noise-source: eps_t"),
        (["--steps", "5"], "--steps: 5: tunet's are --mean-steps"),
        (["--solver", "dpm"], "--solver: dpm"),
        (["--samples", "2"], "--samples: 2"),
        (["--guidance", "3"], "--guidance: 3.0: is the strength of --prompt"),
        (["--elevation", "sweep"], "--elevation: sweep"),
        (["--elevation", "100"], "--elevation: 100"),
        (["--slots", "0,1"], "--slots: 0,1: tunet takes one view"),
        (["--targets", "nowhere.json"], "--targets: nowhere.json"),
        (["--to", "mesh"], "--to: given: tunet has no such choice; hi3d and refiner and sparsefusion do"),
        (["--refine-steps", "3"], "--refine-steps: given: tunet has no such choice; hi3d does"),
        (["--framing", "crop", "--fill", "0.5"], "--fill: 0.5: is for --framing object"),
    ],
)
def test_refused_in_one_line_before_weights_load(
    weights: Path, photo: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, words: list[str], said: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("manyview.methods.load", never)
    assert synth(photo, "--weights", weights, "--out", tmp_path / "out", *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_scene_has_its_camera(weights: Path, scene: Path, tmp_path: Path, capsys: Any) -> None:
    for words in (["--elevation", "20"], ["--framing", "crop"], ["--fill", "0.5"]):
        assert synth(scene, "--weights", weights, "--out", tmp_path / "out", *words) == 2
        assert "the scene has its camera" in capsys.readouterr().err


def test_flags_of_tunet_are_refused_elsewhere(photo: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["synth", str(photo), "--method", "one2one", "--targets", "orbit:2", "--out", str(tmp_path / "o")]
    assert main([*words, "--fusion", "A"]) == 2
    assert "--fusion: given: one2one has no such choice; tunet does" in capsys.readouterr().err
    assert main([*words, "--mask", str(photo)]) == 2
    assert "hi3d and refiner and tunet do" in capsys.readouterr().err


def test_stable_diffusion_and_a_tunet_become_one_bundle(photo: Path, tmp_path: Path, capsys: Any) -> None:
    sd = write_tiny_text_model(tmp_path / "sd")
    tiny_network().save_pretrained(tmp_path / "run" / "tunet")
    both = [str(sd), str(tmp_path / "run"), "--method", "tunet"]
    assert main(["convert", *both, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"]
    assert told["parts"]["base"]["matched"] > 50
    assert told["parts"]["tunet"]["matched"] == len(tiny_network().state_dict())
    assert main(["convert", *both, "--out", str(tmp_path / "w"), "--licence", "openrail"]) == 0
    pipe = load("tunet", tmp_path / "w")
    assert pipe.takes_text
    assert pipe.plan().record["mean_steps"] == 30
    assert pipe.resolution == SIZE
    words = ["--weights", tmp_path / "w", "--targets", "orbit:2", "--mean-steps", 2]
    assert synth(photo, *words, "--out", tmp_path / "out") == 0
    for wrong, said in (
        ([str(sd)], "lacks a trained tunet"),
        ([str(sd), str(sd)], "that"),
        ([str(photo.parent)], "expected a folder of Stable Diffusion"),
    ):
        assert main(["convert", *wrong, "--method", "tunet", "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
