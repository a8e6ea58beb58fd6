"""`manyview render` of procedural objects and into packed data sets: results, resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from manyview.cli import main
from manyview.data import packed
from manyview.data.packed import PackedViews, pack_meshes
from manyview.data.procedural import make_object, render_object
from manyview.data.render.meshes import load_mesh
from manyview.data.render.protocols import protocol_cameras
from manyview.data.rigs import read_rigs
from manyview.geometry.trajectories import spherical_angles
from manyview.io.scene import list_scenes, read_scene

CAMERAS = protocol_cameras("orbit16", 8)


def views_of(seed: int, supersample: int = 2) -> np.ndarray:
    pixels = render_object(make_object(seed), CAMERAS, supersample).over(1.0) * 255
    return pixels.round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def test_packed_procedural(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packed, "SHARD_OBJECTS", 2)
    out = tmp_path / "set"
    words = ["--packed", "--size", "8", "--samples", "1", "--out", str(out)]
    assert main(["render", "procedural:5:3", *words, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"command": "render", "out": str(out), "objects": 3, "failed": []}
    assert "objects: 3/3" in shown.err
    views = PackedViews(out)
    assert [np.array_equal(views[i], views_of(5 + i, supersample=1)) for i in range(3)] == [True] * 3
    other = str(tmp_path / "depths")
    assert main(["render", "procedural:5:1", *words[:-1], other, "--depths", "--json"]) == 0
    assert PackedViews(tmp_path / "depths").depths(0).any()
    capsys.readouterr()
    low = str(tmp_path / "low")
    assert main(["render", "procedural:5:1", *words[:-1], low, "--elevation", "-10"]) == 0
    (rig,) = read_rigs(PackedViews(tmp_path / "low"))
    assert spherical_angles(rig.centers)[1].tolist() == pytest.approx([-10] * 16, abs=1e-3)
    assert main(["render", "procedural:5:1", "--protocol", "random", "--elevation", "9", "--out", low]) == 2
    assert "error: elevation: 9.0" in capsys.readouterr().err
    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    # The same again renders nothing; more objects keep the full shard and complete the short one.
    assert main(["render", "procedural:5:3", *words]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == stamps
    assert main(["render", "procedural:5:4", *words]) == 0
    assert (out / "views_00000005.npy").stat().st_mtime_ns == stamps["views_00000005.npy"]
    assert np.array_equal(PackedViews(out)[3], views_of(8, supersample=1))

    # Fewer, and other objects or options, are refused, or begun anew by force.
    capsys.readouterr()
    for source, more, part in (
        ("procedural:5:1", [], "holds 4 objects"),
        ("procedural:6:2", [], "other options"),
        ("procedural:5:4", ["--samples", "4"], "other options"),
    ):
        assert main(["render", source, *words, *more]) == 2
        assert part in capsys.readouterr().err.splitlines()[-1]
    assert main(["render", "procedural:6:1", *words, "--force"]) == 0
    assert len(PackedViews(out)) == 1


def test_packed_meshes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    trimesh.creation.box((1, 0.5, 0.25)).export(folder / "box.ply")
    (folder / "broken.ply").write_text("no mesh")
    words = ["render", str(folder), "--packed", "--turns", "2", "--seed", "3", "--size", "8", "--out"]
    assert main([*words, str(tmp_path / "set"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["objects"] == 2
    assert len(answer["failed"]) == 1
    assert "broken.ply" in answer["failed"][0]
    meshes = [folder / "box.ply", folder / "broken.ply"]
    pack_meshes(tmp_path / "same", meshes, CAMERAS, turns=2, seed=3, keep_going=True)
    assert PackedViews(tmp_path / "set").identity == PackedViews(tmp_path / "same").identity
    assert main([*words, str(tmp_path / "set"), "--up", "y"]) == 2
    assert "other options" in capsys.readouterr().err
    (folder / "box.ply").write_text("no mesh")
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "none of 2 could be rendered" in capsys.readouterr().err.splitlines()[-1]


def test_procedural_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    words = ["--size", "8", "--out", str(out), "--json"]
    assert main(["render", "procedural:41:2", *words]) == 0
    assert json.loads(capsys.readouterr().out)["rendered"] == ["000041", "000042"]
    first, second = list_scenes(out)
    views = read_scene(second)
    assert views.cameras is not None
    assert views.depths is not None
    torch.testing.assert_close(views.cameras.world_from_cam, CAMERAS.world_from_cam)
    expected = render_object(make_object(42), CAMERAS)
    assert float((views.over(1.0) - expected.over(1.0)).abs().max()) < 0.02
    # The mesh stands where the views show it: the reader takes glTF's +Y for up and gives +Z.
    mesh, made = load_mesh(second / "mesh.glb"), make_object(42)
    for side in (np.min, np.max):
        np.testing.assert_allclose(
            side(mesh.vertices, axis=0), side(made.vertices.numpy(), axis=0), atol=1e-4
        )

    stamp = (first / "transforms.json").stat().st_mtime_ns
    assert main(["render", "procedural:41:3", *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kept"], answer["rendered"]) == (["000041", "000042"], ["000043"])
    assert (first / "transforms.json").stat().st_mtime_ns == stamp
    assert main(["render", "procedural:41:3", *words, "--samples", "1"]) == 2
    assert "other options" in json.loads(capsys.readouterr().out)["error"]["line"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("procedural:0",), ["MESHES", "procedural:FIRST:COUNT"]),
        (("procedural:0:0",), ["MESHES", "positive"]),
        (("procedural:-1:2",), ["MESHES"]),
        (("procedural:0:2", "mug.glb"), ["MESHES", "no other source"]),
        (("procedural:0:2", "--engine", "cycles"), ["--engine"]),
        (("procedural:0:2", "--up", "y"), ["--up"]),
        (("procedural:0:2", "--turns", "3", "--packed"), ["--turns", "meshes"]),
        (("procedural:0:2", "--depths"), ["--depths", "for --packed"]),
        (("procedural:0:2", "--seed", "3", "--packed"), ["--seed", "FIRST"]),
        (("procedural:0:2", "--samples", "3", "--packed"), ["samples", "square"]),
        (("procedural:0:2", "--protocol", "random", "--packed"), ["--protocol", "orbit16"]),
        (("procedural:0:2", "--num-views", "4", "--packed"), ["--num-views", "4", "orbit16"]),
        (("procedural:0:2", "--workers", "0", "--packed"), ["--workers", "1 to"]),
        (("procedural:0:2", "--workers", "2"), ["--workers", "--packed"]),
        (("mug.glb", "--turns", "2"), ["--turns", "--packed"]),
        (("mug.glb", "--packed"), ["meshes", "mug.glb"]),
        (("mug.glb", "--packed", "--engine", "cycles"), ["--engine", "fast"]),
    ],
)
def test_refusals(
    words: tuple[str, ...], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", *words, "--out", str(tmp_path / "set")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert all(part in shown for part in parts), shown
    assert not (tmp_path / "set").exists()
