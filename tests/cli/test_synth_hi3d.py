"""`manyview synth --method hi3d`: what is typed, what is on disk after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from manyview.cli import main
from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.io.images import write_png
from manyview.io.result import Result
from manyview.io.scene import write_scene
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.reconstruction import ReconstructOptions
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.methods.hi3d import products

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from tiny_hi3d import write_tiny_bundle
from tiny_text import write_tiny_text_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box off the middle of a light wall."""
    image = torch.full((3, 40, 60), 0.9)
    image[0, 12:30, 20:40] = 0.2
    image[2, 16:24, 24:34] = 0.5
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_png(path, image)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Small fits; what they were asked for."""
    asked: list[dict[str, Any]] = []

    def small(**named: Any) -> ReconstructOptions:
        asked.append(named)
        return ReconstructOptions(
            to="mesh",
            interpolate=named["interpolated"],
            splats=SplatOptions(num_steps=10, num_points=100),
            sdf=SdfOptions(steps=10, resolution=16, rays=64),
            mesh=MeshOptions(resolution=16, texture_size=32, num_faces=200),
        )

    monkeypatch.setattr(products, "lift_options", small)
    return asked


def synth(source: Path | None, weights: Path, out: Path, *words: str) -> int:
    base = ("--method", "hi3d", "--weights", str(weights), "--device", "cpu", "--out", str(out))
    return main(["synth", *([] if source is None else [str(source)]), *base, *words])


def test_a_photo_runs_through(photo: Path, weights: Path, tmp_path: Path, quick: Any, capsys: Any) -> None:
    words = ("--elevation", "-5", "--to", "splats", "mesh", "video", "--seed", "3", "--interpolated", "8")
    assert synth(photo, weights, tmp_path / "out", *words, "--json") == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["views"], answer["observed"], answer["elevation_deg"]) == (8, [0], -5)
    assert "GB at the peak" in captured.err
    assert quick == [{"interpolated": 8, "num_steps": None, "seed": 3}]
    result = Result.load(tmp_path / "out")
    assert result.views.size == (32, 32)
    assert result.views.observed.tolist() == [True] + [False] * 7
    azimuth, elevation, distance = spherical_angles(result.views.cameras.centers)
    assert_close(elevation, torch.full((8,), -5.0), atol=1e-3, rtol=0)
    assert_close(distance, torch.full((8,), 1.5))
    assert_close(azimuth, 45.0 * torch.arange(8), atol=1e-3, rtol=0)
    manifest = result.manifest
    assert manifest["options"]["elevation"]["source"] == "given"
    assert manifest["framing"]["mask"] == "plain background"
    assert manifest["products"] == {"made": ["mesh", "splats"], "failed": {}, "interpolated": 8}
    for name in ("sheet.png", "video.mp4", "turntable.mp4", "splats.ply", "mesh.glb", "transforms.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert not list(tmp_path.glob(".out*"))
    # The same command again, to the last bit of every picture.
    assert synth(photo, weights, tmp_path / "again", "--elevation", "-5", "--to", "views", "--seed", "3") == 0
    assert torch.equal(Result.load(tmp_path / "again").views.images, result.views.images)
    assert not (tmp_path / "again" / "splats.ply").exists()


def test_choices_are_passed_on(photo: Path, weights: Path, tmp_path: Path) -> None:
    words = ("--no-refine", "--guidance", "3", "--guidance-shape", "linear", "--steps", "1", "--samples", "2")
    assert synth(photo, weights, tmp_path / "coarse", "--to", "views", *words) == 0
    result = Result.load(tmp_path / "coarse")
    assert result.views.size == (16, 16)
    assert result.samples.shape == (2, 8, 3, 16, 16)
    options = result.manifest["options"]
    assert options["elevation"]["source"] == "estimated"
    assert (options["refined"], options["guidance"], options["guidance_shape"]) == (False, [1, 3], "linear")
    assert options["steps"] == 1
    words = ("--refine-steps", "1", "--refine-guidance", "1", "--blend", "off", "--no-depth", "--fill", "0.5")
    assert synth(photo, weights, tmp_path / "fine", "--to", "views", *words, "--elevation", "sweep") == 0
    manifest = Result.load(tmp_path / "fine").manifest
    options = manifest["options"]
    assert options["elevation"]["source"] == "swept"
    assert len(options["elevation"]["scores"]) > 1
    assert (options["refine_steps"], options["refine_guidance"]) == (1, [1, 1])
    assert (options["blend"], options["depth"]) == (False, False)
    assert manifest["framing"]["fill"] == 0.5


def test_a_view_of_a_scene_keeps_its_camera(weights: Path, tmp_path: Path, capsys: Any) -> None:
    views = render_seed(3, orbit(8, 20.0, size=32))
    write_scene(views, tmp_path / "scene")
    assert synth(tmp_path / "scene", weights, tmp_path / "out", "--to", "views") == 2
    assert "INPUT: 8 given views: expected one; name it with --slots" in capsys.readouterr().err
    assert synth(tmp_path / "scene", weights, tmp_path / "out", "--to", "views", "--slots", "3") == 0
    result = Result.load(tmp_path / "out")
    order = [(3 + step) % 8 for step in range(8)]
    assert_close(result.views.cameras.world_from_cam, views.cameras.world_from_cam[order], atol=1e-4, rtol=0)
    assert_close(result.views.images[0], views.over(1.0)[3], atol=0.01, rtol=0)
    assert result.manifest["options"]["elevation"]["source"] == "camera"


def test_a_stopped_run_goes_on(
    photo: Path, weights: Path, tmp_path: Path, quick: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ("--to", "splats", "--elevation", "10")
    lift = products.lift_orbit

    def stop(*given: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(products, "lift_orbit", stop)
    assert synth(photo, weights, tmp_path / "out", *words) == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(products, "lift_orbit", lift)
    # With other options it is another run.
    assert synth(photo, weights, tmp_path / "out", *words, "--seed", "1", "--resume") == 2
    assert "the stopped run had other options" in capsys.readouterr().err
    assert synth(photo, weights, tmp_path / "out", *words, "--resume") == 0
    assert "denoising steps" not in capsys.readouterr().err
    assert synth(photo, weights, tmp_path / "anew", *words) == 0
    assert "denoising steps" in capsys.readouterr().err
    one, other = (Result.load(tmp_path / name).views.images for name in ("out", "anew"))
    assert torch.equal(one, other)
    same = [(tmp_path / name / "splats.ply").read_bytes() for name in ("out", "anew")]
    assert same[0] == same[1]
    assert not list(tmp_path.glob(".*"))


def test_what_fails_of_the_lift_is_said(
    photo: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def nothing(*given: Any, **named: Any) -> products.Lift:
        return products.Lift(failed={"mesh": "views: no surface is left"})

    monkeypatch.setattr(products, "lift_orbit", nothing)
    words = ("--elevation", "0", "--to", "mesh", "--json")
    assert synth(photo, weights, tmp_path / "out", *words) == 2
    captured = capsys.readouterr()
    assert "no surface is left; the views are written all the same" in captured.err
    assert json.loads(captured.out)["warnings"] == ["--to: mesh: views: no surface is left"]
    assert len(Result.load(tmp_path / "out").views) == 8


def test_words_for_a_photo(weights: Path, tmp_path: Path, capsys: Any) -> None:
    model = str(write_tiny_text_model(tmp_path / "text"))
    words = ("--prompt", "a chair", "--text-model", model, "--masks", "white", "--to", "views")
    assert synth(None, weights, tmp_path / "out", *words, "--elevation", "20") == 0
    assert (tmp_path / "out" / "text.png").is_file()
    manifest = Result.load(tmp_path / "out").manifest
    assert (manifest["input"], manifest["text_model"]) == ("a chair", model)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--elevation", "high"), "--elevation: high: expected degrees"),
        (("--elevation", "95"), "--elevation: 95: expected degrees"),
        (("--to", "field"), "--to: field: hi3d makes none"),
        (("--to", "video"), "--to: video: shows splats or the mesh"),
        (("--to", "views", "mesh"), "--to: views: means nothing beside the views"),
        (("--targets", "orbit:16"), "--targets: orbit:16: hi3d has no such choice"),
        (("--solver", "ddim"), "--solver: ddim: hi3d has no such choice"),
        (("--no-refine", "--refine-steps", "3"), "--refine-steps: 3: is for the second stage"),
        (("--slots", "0,1"), "--slots: 0,1: hi3d takes one view"),
        (("--rows", "3"), "--rows: given: hi3d has no such choice; sparsefusion does"),
        (("--interpolated", "-1"), "--interpolated: -1: expected a number from 0"),
        (("--prompt", "a chair", "--text-model", "x/y"), "--prompt: a chair: given together with INPUT"),
        (("--offload", "model"), "--offload: model: is for a GPU"),
        (("--max-memory", "1MB"), "--max-memory: 1MB"),
        (("--mask", "missing.png"), "--mask: missing.png: does not exist"),
    ],
)
def test_refused_in_one_line(
    photo: Path, weights: Path, tmp_path: Path, capsys: Any, words: tuple[str, ...], said: str
) -> None:
    assert synth(photo, weights, tmp_path / "out", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "out").exists()


def test_refused_without_input_and_by_others(weights: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    assert synth(None, weights, tmp_path / "out") == 2
    assert "INPUT: not given: expected an image, a folder or a scene" in capsys.readouterr().err
    assert synth(None, weights, tmp_path / "out", "--prompt", "a chair") == 2
    assert "--text-model: not given: --prompt needs a text-to-image pipeline" in capsys.readouterr().err
    base = ["synth", str(photo), "--method", "one2one", "--out", str(tmp_path / "out")]
    assert main([*base, "--elevation", "3"]) == 2
    assert "--elevation: given: one2one has no such choice; hi3d and tunet do" in capsys.readouterr().err


def test_weights_that_lack_something(photo: Path, tmp_path: Path, capsys: Any) -> None:
    bare = write_tiny_bundle(tmp_path / "bare", leave_out=("refiner", "depth", "elevation"))
    assert synth(photo, bare, tmp_path / "out", "--to", "views") == 2
    assert "--elevation: auto: needs a camera or weights with a network" in capsys.readouterr().err
    assert synth(photo, bare, tmp_path / "out", "--to", "views", "--elevation", "5", "--blend", "on") == 2
    assert "--blend: on: these weights have no second stage" in capsys.readouterr().err
    assert synth(photo, bare, tmp_path / "out", "--to", "views", "--elevation", "5") == 0
    assert "these weights have no second stage: the views are not refined" in capsys.readouterr().out
    assert Result.load(tmp_path / "out").views.size == (16, 16)
    blind = write_tiny_bundle(tmp_path / "blind", leave_out=("depth",))
    assert synth(photo, blind, tmp_path / "other", "--to", "views") == 2
    assert "has no network for depth" in capsys.readouterr().err


def test_pictures_without_a_mask_are_refused_before_weights_load(
    weights: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import manyview.methods

    monkeypatch.setattr(manyview.methods, "load", None)
    write_png(tmp_path / "noise.png", torch.rand(3, 30, 30))
    assert synth(tmp_path / "noise.png", weights, tmp_path / "out") == 2
    assert "no plain background" in capsys.readouterr().err
