"""`manyview synth --method sparsefusion` and `manyview convert`: what is typed, what is on disk after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from manyview.cli import main
from manyview.geometry.normalization import Similarity
from manyview.io.colmap import write_colmap
from manyview.io.frames import FrameTable
from manyview.io.images import read_image, write_png
from manyview.io.result import Result
from manyview.io.transforms import write_transforms
from manyview.lift.field.render import render_field
from manyview.lift.volume_files import read_volume

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from box_capture import AWAY, HALF, box_cameras, draw_box, over_background, write_nerfstudio
from tiny_fewview import write_tiny_bundle

SIDE = 16
QUICK = (
    *("--distill.targets", "4", "--distill.warmup-steps", "60", "--distill.rounds", "0"),
    *("--distill.rows", "8", "--distill.field.resolution", "24", "--distill.field.rays", "256"),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Someone else's capture, as far as one can be made up: a phone's portrait lens with COLMAP's distortion,
    a world of any place and scale, cameras that look past the object, a wall behind it, no masks."""
    folder = tmp_path_factory.mktemp("capture")
    cameras = box_cameras(6)
    return write_nerfstudio(folder, cameras, over_background(*draw_box(cameras), "wall"))


def synth(scene: Path, weights: Path, out: Path, *words: str) -> int:
    base = ("--method", "sparsefusion", "--weights", str(weights), "--device", "cpu")
    return main(["synth", str(scene), *base, "--out", str(out), *words])


def test_a_foreign_capture_runs_through(capture: Path, weights: Path, tmp_path: Path, capsys):
    words = ("--mode", "eft", "--given", "3", "--rows", "8", "--attention", "--json")
    assert synth(capture, weights, tmp_path / "out", *words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["views"], answer["observed"]) == (6, [0, 1, 2])
    result = Result.load(tmp_path / "out")
    record = result.manifest["capture"]
    assert record["masks"] == ["plain background"]
    assert record["targets"] == "the capture's other cameras"
    assert record["given"] == [0, 2, 3]
    # All six cameras stand where the capture's stood, in its own world, and look at the box.
    order = [0, 2, 3, 1, 4, 5]
    cameras = result.views.cameras
    assert_close(cameras.centers.double(), box_cameras(6).centers[order], atol=1e-3, rtol=0)
    toward = torch.nn.functional.normalize(AWAY.translation - cameras.centers.double(), dim=1)
    axes = cameras.world_from_cam[:, :3, 2].double()
    assert float((toward * axes).sum(dim=1).min()) > 0.98
    assert result.views.observed.tolist() == [True] * 3 + [False] * 3
    assert (tmp_path / "out" / "epipolar.png").is_file()
    assert read_image(tmp_path / "out" / "attention_depth.png")[0].shape == (3, SIDE, SIDE)
    # Depth of the attention is in the capture's units: some 3.7 times 1.6 from the cameras.
    made = result.views.depths[3:]
    assert 2 < float(made[made > 0].median()) < 10


def test_the_same_capture_from_colmap_ends_in_the_same_views(capture: Path, weights: Path, tmp_path: Path):
    cameras = box_cameras(6)
    images = over_background(*draw_box(cameras), "wall")
    names = tuple(f"frame_{index + 1:05d}.png" for index in range(6))
    table = FrameTable(files=names, cameras=cameras.to(torch.float32))
    write_colmap(tmp_path / "colmap" / "sparse" / "0", table)
    for name, image in zip(names, images, strict=True):
        write_png(tmp_path / "colmap" / "images" / name, image)
    words = ("--mode", "vldm", "--given", "2", "--steps", "2", "--targets", "orbit:3")
    assert synth(capture, weights, tmp_path / "a", *words) == 0
    assert synth(tmp_path / "colmap", weights, tmp_path / "b", *words) == 0
    first, second = Result.load(tmp_path / "a"), Result.load(tmp_path / "b")
    assert len(first.views) == 4  # the orbit leaves the given camera out
    assert_close(second.views.images, first.views.images, atol=2 / 255 + 1e-6, rtol=0)


def test_a_field_comes_out_in_the_captures_world(weights: Path, tmp_path: Path):
    cameras = box_cameras(4)
    images, masks = draw_box(cameras)
    scene = write_nerfstudio(tmp_path / "scene", cameras, images, masks, how="alpha")
    words = ("--to", "field", "video", "--targets", "orbit:2", *QUICK)
    assert synth(scene, weights, tmp_path / "out", *words) == 0
    result = Result.load(tmp_path / "out")
    field = read_volume(tmp_path / "out" / "field.safetensors")
    seen = render_field(field, result.views.cameras[4])
    assert float(seen.alphas.mean()) > 0.05
    assert_close(seen.images[0], result.views.over(1.0)[4], atol=2 / 255 + 1e-3, rtol=0)
    # It stands where the box stands, in the box's own units.
    depth = result.views.depths[4][result.views.depths[4] > 0].mean()
    distance = torch.linalg.vector_norm(result.views.cameras.centers[4].double() - AWAY.translation)
    assert abs(float(depth - distance)) < 3.7 * float(HALF.max())
    assert (tmp_path / "out" / "turntable.mp4").stat().st_size > 0
    assert not list(tmp_path.glob(".out*"))


def test_targets_of_a_file(capture: Path, weights: Path, tmp_path: Path):
    other = box_cameras(3, arc_deg=70.0)
    files = ("a.png", "b.png", "c.png")
    write_transforms(tmp_path / "targets.json", FrameTable(files=files, cameras=other.to(torch.float32)))
    words = ("--mode", "eft", "--rows", "4", "--given", "2", "--targets", str(tmp_path / "targets.json"))
    assert synth(capture, weights, tmp_path / "out", *words) == 0
    found = Result.load(tmp_path / "out").views.cameras.centers[2:]
    assert_close(found.double(), other.centers, atol=1e-3, rtol=0)


def test_doubtful_input_is_said_in_one_line(capture: Path, weights: Path, tmp_path: Path, capsys):
    record = json.loads((capture / "transforms.json").read_text())
    for index, frame in enumerate(record["frames"]):
        frame["file_path"] = str(capture / frame["file_path"])
        frame["fl_x"] = frame["fl_y"] = 78.0 * (1.6 if index == 2 else 1)
    for key in ("fl_x", "fl_y"):
        record.pop(key)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "transforms.json").write_text(json.dumps(record))
    assert synth(tmp_path / "wrong", weights, tmp_path / "out", "--mode", "eft", "--rows", "2") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert any("frame_00003" in line for line in lines)
    assert Result.load(tmp_path / "out").manifest["capture"]["findings"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode", "eft", "--to", "mesh"), "--to: mesh: needs --mode field"),
        (("--rows", "8"), "--rows: 8: is for --mode eft"),
        (("--slots", "0"), "--slots: given: sparsefusion has no rig"),
        (("--solver", "dpm"), "--solver: dpm: expected ddim or plms"),
        (("--mode", "vldm", "--distill.rounds", "1"), "--distill: with --mode vldm: is for --mode field"),
        (("--given", "9"), "--given: 9: expected a number from 1 to 8"),
        (("--targets", "circle"), "--targets: circle: expected orbit:16"),
    ],
)
def test_refused_in_one_line(capture: Path, weights: Path, tmp_path: Path, capsys, words, said):
    assert synth(capture, weights, tmp_path / "out", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "out").exists()


def test_impossible_input_is_refused(capture: Path, weights: Path, tmp_path: Path, capsys):
    flip = Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    cameras = flip.apply_to_cameras(box_cameras(6))
    cameras.world_from_cam[:, :3, 1:3] *= -1  # OpenGL's axes taken for OpenCV's
    files = tuple(str(capture / f"images/frame_{index + 1:05d}.png") for index in range(6))
    (tmp_path / "wrong").mkdir()
    write_transforms(tmp_path / "wrong", FrameTable(files=files, cameras=cameras.to(torch.float32)))
    assert synth(tmp_path / "wrong", weights, tmp_path / "out", "--mode", "eft") == 2
    error = capsys.readouterr().err
    assert "lies behind it; expected cameras that look at it" in error


def test_other_methods_refuse_its_flags(tmp_path: Path, capsys):
    write_png(tmp_path / "a.png", torch.zeros(3, 8, 8))
    assert main(["synth", str(tmp_path / "a.png"), "--given", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--given: given: dimvis has no such choice; sparsefusion does" in capsys.readouterr().err
