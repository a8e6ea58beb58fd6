"""`manyview reconstruct` from a scene on disk to files on disk, at tiny sizes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import KDTree

from manyview.cli import main
from manyview.cli.reconstruct import Options, choose_side, estimate_bytes
from manyview.data.render.jobs import render_procedural
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.io.glb import read_glb
from manyview.io.manifest import read_json
from manyview.io.result import Result
from manyview.io.scene import read_scene, write_scene
from manyview.lift import reconstruction
from manyview.lift.volume_files import read_volume

# Few steps of everything: enough for the shape of a simple object at 48 pixels.
QUICK = ["--splats.num-steps", "150", "--splats.num-points", "1500", "--field.steps", "120"]
QUICK += ["--field.resolution", "48", "--field.rays", "1024", "--sdf.steps", "150", "--sdf.resolution", "48"]
QUICK += ["--sdf.rays", "1024", "--mesh.resolution", "48", "--mesh.num-faces", "2000"]
QUICK += ["--mesh.texture-size", "128", "--turntable", "0"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    render_procedural(4, 1, folder, protocol="orbit32", size=48, samples=4)
    return folder / "000004"


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    code = main(["reconstruct", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    code, answer = run(capsys, *words)
    assert code == 2, answer
    line = answer["error"]["line"]
    assert "\n" not in line
    return line


def changed(scene: Path, to: Path, **parts: Any) -> Path:
    """A copy of the scene's given views with some parts replaced."""
    views = read_scene(scene, split=16)[:16]
    write_scene(replace(views, depths=None, **parts), to)
    return to


def baseline_psnr(scene: Path) -> float:
    """PSNR of plain white at the held-out views: what knowing nothing gives."""
    real = read_scene(scene, split=16)[16:].over(1.0)
    return float(-10 * torch.log10((1 - real).square().mean(dim=(1, 2, 3))).mean())


def test_splats_with_scores_and_files(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [scene, "--to", "splats", "--out", out, *QUICK, "--also", "splat", "--turntable", "3"]
    code, answer = run(capsys, *words)
    assert code == 0
    # The table of 150 steps: far above white, which itself is most of each view.
    assert answer["metrics"]["psnr"]["mean"] > baseline_psnr(scene) + 6
    assert answer["views"] == 16
    result = Result.load(out)
    assert result.views.observed.tolist() == [True] * 16 + [False] * 16
    given = read_scene(scene, split=16)
    torch.testing.assert_close(result.views.over(1.0)[:16], given.over(1.0)[:16], atol=3e-3, rtol=0)
    assert result.views.depths is not None
    assert len(trimesh.load(out / "splats.ply").vertices) > 500  # pyright: ignore
    for name in ("splats.splat", "turntable.mp4", "metrics.json", "sheet.png"):
        assert (out / name).stat().st_size > 0
    assert read_json(out / "manifest.json")["options"]["splats"]["num_steps"] == 150
    assert not list(tmp_path.glob(".out*")), "the kept steps are cleaned away"
    assert "already exists" in refused(capsys, *words)


def test_a_mesh_close_to_the_true_one(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, answer = run(
        capsys, scene, "--to", "mesh", "--out", out, *QUICK, "--interpolate", "8", "--also", "obj", "ply"
    )
    assert code == 0
    scores = answer["metrics"]
    assert scores["chamfer_mean"]["mean"] < 0.04
    assert scores["volume_iou_64"]["mean"] > 0.6
    assert scores["psnr"]["mean"] > baseline_psnr(scene) + 4
    mesh = read_glb(out / "mesh.glb")
    assert mesh.visual.material.baseColorTexture.size == (128, 128)  # pyright: ignore
    true = read_glb(scene / "mesh.glb")
    np.testing.assert_allclose(mesh.bounds, true.bounds, atol=0.05)
    for suffix in ("obj", "ply"):
        assert len(trimesh.load(out / f"mesh.{suffix}", process=False).faces) == len(mesh.faces)  # pyright: ignore


def test_a_field_and_its_file(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, answer = run(capsys, scene, "--to", "field", "--out", out, *QUICK)
    assert code == 0
    assert answer["metrics"]["psnr"]["mean"] > baseline_psnr(scene) + 6
    cloud: Any = trimesh.load(out / "points.ply")
    true = read_glb(scene / "mesh.glb")
    assert cloud.colors.shape == (len(cloud.vertices), 4)
    distances = KDTree(true.sample(20_000, seed=0)).query(cloud.vertices)[0]
    assert np.median(distances) < 0.03
    # The file holds the field itself: it draws the very views of the result.
    field = read_volume(out / "field.safetensors")
    result = Result.load(out)
    assert result.views.cameras is not None
    made = reconstruction.Reconstruction(kind="field", field=field, cameras=result.views.cameras)
    drawn = made.render(result.views.cameras[16:])
    torch.testing.assert_close(drawn.over(1.0), result.views[16:].over(1.0), atol=6e-3, rtol=0)


def test_all_views_of_a_result_are_fitted_and_scored_by_the_truth(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_scene(scene, split=16)[:16]
    observed = torch.arange(16) < 4
    Result(views=replace(views, observed=observed), manifest={"command": "synth"}).save(tmp_path / "made")
    words = [tmp_path / "made", "--to", "splats", *QUICK]
    code, answer = run(capsys, *words, "--out", tmp_path / "all", "--truth", scene)
    assert code == 0
    assert answer["fitted"]["views"] == 16
    # Of the 32 real frames the four given ones are not scored.
    assert answer["views"] == 28
    code, answer = run(capsys, *words, "--out", tmp_path / "given", "--use", "given")
    assert answer["fitted"]["views"] == 4
    assert answer["views"] == 12


def test_a_stopped_run_goes_on(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = [scene, "--to", "mesh", "--out", out, *QUICK, "--interpolate", "4"]

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the splats were there")

    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "fit_sdf", stop)
        code, _ = run(capsys, *words)
    assert code == 130
    assert not out.exists()
    assert "other options" in refused(capsys, *words, "--resume", "--seed", "3")
    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "fit_splats", again)
        code, _ = run(capsys, *words, "--resume")
    assert code == 0
    assert (out / "mesh.glb").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_scale_of_the_world_does_not_matter(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_scene(scene, split=16)
    assert views.cameras is not None
    move = Similarity(1000.0, torch.eye(3), torch.tensor([5000.0, -200.0, 30.0]))
    write_scene(replace(views, cameras=move.apply_to_cameras(views.cameras), depths=None), tmp_path / "far")
    for kind in ("splats", "mesh"):
        _, near = run(capsys, scene, "--to", kind, "--out", tmp_path / f"{kind}_near", *QUICK)
        code, far = run(capsys, tmp_path / "far", "--to", kind, "--out", tmp_path / f"{kind}_far", *QUICK)
        assert code == 0
        assert abs(far["metrics"]["psnr"]["mean"] - near["metrics"]["psnr"]["mean"]) < 1.0
    mesh = read_glb(tmp_path / "mesh_far" / "mesh.glb")
    true = read_glb(scene / "mesh.glb")
    np.testing.assert_allclose(mesh.bounds, true.bounds * 1000 + [5000, -200, 30], atol=60)


def test_degenerate_input_gives_something_or_one_line(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_scene(scene, split=16)
    assert views.cameras is not None
    assert views.masks is not None

    def kept(name: str, index: list[int], **parts: Any) -> Path:
        chosen = views[index]
        write_scene(
            replace(chosen, depths=None, observed=torch.ones(len(index)) > 0, **parts), tmp_path / name
        )
        return tmp_path / name

    one = kept("one", [0])
    assert run(capsys, one, "--to", "splats", "--out", tmp_path / "a", *QUICK)[0] == 0
    for kind in ("field", "mesh"):
        assert "at least two" in refused(capsys, one, "--to", kind, "--out", tmp_path / "b", *QUICK)
    twice = kept("twice", [0, 0, 4, 8])
    for kind in ("splats", "field", "mesh"):
        assert run(capsys, twice, "--to", kind, "--out", tmp_path / f"twice_{kind}", *QUICK)[0] == 0
    same = kept("same", [3, 3])
    assert refused(capsys, same, "--to", "mesh", "--out", tmp_path / "b", *QUICK)
    empty = kept("empty", [0, 4, 8], masks=torch.zeros(3, 1, 48, 48))
    for kind in ("splats", "field", "mesh"):
        assert "mask" in refused(capsys, empty, "--to", kind, "--out", tmp_path / "b", *QUICK)
    assert not (tmp_path / "b").exists()
    # Views of one camera swapped with its opposite: nothing fits, yet splats give their best compromise.
    swapped = kept(
        "swapped", [0, 4, 8, 12], images=views.images[[8, 12, 0, 4]], masks=views.masks[[8, 12, 0, 4]]
    )
    assert run(capsys, swapped, "--to", "splats", "--out", tmp_path / "c", *QUICK)[0] == 0
    code, _ = run(capsys, swapped, "--to", "mesh", "--out", tmp_path / "d", *QUICK)
    assert code in (0, 2)


def test_what_cannot_be_done_is_refused_at_once(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [scene, "--out", tmp_path / "out", *QUICK, "--to"]
    assert "--interpolate" in refused(capsys, *words, "splats", "--interpolate", "4")
    assert "--also" in refused(capsys, *words, "splats", "--also", "obj")
    assert "--max-memory" in refused(capsys, *words, "splats", "--max-memory", "200M")
    assert "no such split" in refused(capsys, *words, "splats", "--split", "3")
    plain = tmp_path / "plain"
    shutil.copytree(scene / "images", plain / "images")
    assert "cameras" in refused(capsys, plain, "--to", "mesh", "--out", tmp_path / "out")
    assert "does not exist" in refused(capsys, tmp_path / "none", "--to", "mesh", "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain"]


def test_memory_decides_the_size_of_large_images() -> None:
    # Eight times 4096 x 4096 pixels: in full their copies would take far more than four gigabytes.
    sizes = [(4096, 4096)] * 8
    options = Options(scene=Path("s"), to="mesh", out=Path("o"), max_memory="4G")
    side = choose_side(options, sizes)
    assert 256 <= side < 4096
    assert estimate_bytes("mesh", sizes, side) <= 4e9 < estimate_bytes("mesh", sizes, 4096)
    assert choose_side(replace(options, max_memory=None), sizes) == 1024
    with pytest.raises(InputError, match="estimated to need"):
        choose_side(replace(options, max_side=4096), sizes)
