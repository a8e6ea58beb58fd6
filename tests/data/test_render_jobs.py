"""Meshes into data sets: names, cameras, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from manyview.data.render.jobs import (
    INDEX_NAME,
    find_meshes,
    render_dataset,
    render_procedural,
    scene_sources,
)
from manyview.data.render.protocols import protocol_cameras
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.scene import list_scenes, read_scene

SIZE = 16
QUICK = {"size": SIZE, "protocol": "random", "num_views": 2, "samples": 1}


def write_box(path: Path, *extents: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box(extents=extents or (1, 1, 1)).export(path)
    return path


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    for number, name in enumerate(("ball", "cup", "dog")):
        write_box(folder / f"{name}.ply", 1, 1, 1 + number)
    return folder


def stamps(out: Path) -> dict[str, int]:
    return {path.name: (path / "transforms.json").stat().st_mtime_ns for path in list_scenes(out)}


class Stop(Exception):
    pass


class StopAfter:
    """Progress that ends the run after some objects, as a user would."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.finished = False

    def start(self, total: int, what: str) -> None:
        assert total == 3

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left == 0:
            raise Stop

    def finish(self) -> None:
        self.finished = True


def test_scene_is_complete_and_reads_back(meshes: Path, tmp_path: Path) -> None:
    summary = render_dataset([meshes / "cup.ply"], tmp_path / "out", size=SIZE)
    assert summary.rendered == ("cup",)
    scene = tmp_path / "out" / "cup"
    views = read_scene(scene)
    assert len(views) == 16
    assert views.cameras is not None
    assert views.masks is not None
    assert views.depths is not None
    expected = protocol_cameras("orbit16", SIZE)
    torch.testing.assert_close(views.cameras.world_from_cam, expected.world_from_cam)
    assert float(views.masks.amax()) == 1
    # The mesh is in the scene's coordinates but for glTF's axes: 1 x 1 x 2 becomes 0.5 x 1 (y up) x 0.5.
    mesh = trimesh.load_mesh(scene / "mesh.glb")
    np.testing.assert_allclose(mesh.extents, [0.5, 1.0, 0.5], atol=1e-6)
    # Depth lies between the nearest and the farthest corner's distance.
    seen = views.depths[views.depths > 0]
    assert 1.5 - 0.75 < float(seen.min()) < float(seen.max()) < 1.5 + 0.75


def test_stopped_run_goes_on(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop = StopAfter(2)
    with pytest.raises(Stop):
        render_dataset([meshes], out, **QUICK, progress=stop)
    assert stop.finished
    before = stamps(out)
    assert sorted(before) == ["ball", "cup"]
    # As a kill in the middle of an object leaves things: a hidden half scene, and a whole one not yet listed.
    shutil.copytree(out / "ball", out / ".dog.0123456789ab")
    (out / ".dog.0123456789ab" / "transforms.json").unlink()
    index = json.loads((out / INDEX_NAME).read_text())
    del index["scenes"]["cup"]
    (out / INDEX_NAME).write_text(json.dumps(index))

    summary = render_dataset([meshes], out, **QUICK)
    assert summary.kept == ("ball",)
    assert summary.rendered == ("cup", "dog")
    after = stamps(out)
    assert after["ball"] == before["ball"]
    assert after["cup"] != before["cup"]
    # What a run in one go gives is the same, byte for byte.
    render_dataset([meshes], tmp_path / "once", **QUICK)
    for path in sorted((tmp_path / "once").rglob("*")):
        if path.is_file():
            assert (out / path.relative_to(tmp_path / "once")).read_bytes() == path.read_bytes(), path.name


def test_a_data_set_beside_its_meshes_does_not_feed_on_itself(meshes: Path) -> None:
    out = meshes / "renders"
    for _ in range(2):
        summary = render_dataset([meshes], out, **QUICK)
        assert [scene.name for scene in list_scenes(out)] == ["ball", "cup", "dog"]
    assert summary.kept == ("ball", "cup", "dog")


def test_changed_mesh_is_rendered_again(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render_dataset([meshes], out, **QUICK)
    write_box(meshes / "dog.ply", 1, 3, 1)
    summary = render_dataset([meshes], out, **QUICK)
    assert summary.kept == ("ball", "cup")
    assert summary.rendered == ("dog",)


def test_other_options_are_refused_and_force_starts_over(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    render_dataset([meshes], out, **QUICK)
    before = stamps(out)
    with pytest.raises(InputError, match="other options \\(seed\\)"):
        render_dataset([meshes], out, **QUICK, seed=1)
    assert stamps(out) == before
    summary = render_dataset([meshes / "ball.ply"], out, **QUICK, seed=1, force=True)
    assert summary.rendered == ("ball",)
    assert [scene.name for scene in list_scenes(out)] == ["ball"]
    assert json.loads((out / INDEX_NAME).read_text())["options"]["seed"] == 1


def test_bad_meshes_cost_only_themselves(meshes: Path, tmp_path: Path) -> None:
    (meshes / "bad.glb").write_bytes(b"nothing")
    summary = render_dataset([meshes], tmp_path / "out", **QUICK)
    assert summary.rendered == ("ball", "cup", "dog")
    assert len(summary.failed) == 1
    assert str(meshes / "bad.glb") in summary.failed[0]
    assert "\n" not in summary.failed[0]
    assert not (tmp_path / "out" / "bad").exists()
    with pytest.raises(InputError, match="none of 1 could be rendered"):
        render_dataset([meshes / "bad.glb"], tmp_path / "other", **QUICK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "slow"}, "fast or cycles"),
        ({"protocol": "square"}, "orbit16 or orbit32 or random"),
        ({"protocol": "orbit16", "num_views": 4}, "its own number"),
        ({"samples": 5}, "square number"),
        ({"size": 2}, "8 to 8192"),
        ({"up": "x"}, "expected y or z"),
    ],
)
def test_bad_options_leave_nothing(
    meshes: Path, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        render_dataset([meshes], tmp_path / "out", **{**QUICK, **options})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(InputError, match="holds something else"):
            render_dataset([meshes], out, **QUICK, force=force)
    # An index that names a path outside must not make force delete it.
    (out / INDEX_NAME).write_text(
        json.dumps({"format": 1, "options": {}, "scenes": {"../meshes": {"sha256": "0"}}})
    )
    with pytest.raises(InputError, match="not an index"):
        render_dataset([meshes], out, **QUICK, force=True)
    assert (meshes / "cup.ply").is_file()


def test_inputs_are_files_folders_and_patterns(meshes: Path) -> None:
    write_box(meshes / "deep" / "er" / "ant2.glb")
    write_box(meshes / "deep" / "er" / "ant10.glb")
    write_box(meshes / ".hidden" / "no.ply")
    (meshes / "notes.txt").write_text("")
    assert [path.name for path in find_meshes([meshes / "deep"])] == ["ant2.glb", "ant10.glb"]
    assert [path.name for path in find_meshes([str(meshes / "*.ply")])] == ["ball.ply", "cup.ply", "dog.ply"]
    # Named twice, taken once.
    assert len(find_meshes([meshes, meshes / "cup.ply"])) == 5
    with pytest.raises(InputError, match="holds some"):
        find_meshes([meshes / "none*.glb"])


def test_scene_names_are_unique(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/mesh.glb", "b/mesh.glb", "b/mesh.obj", "b/cup.glb")]
    assert list(scene_sources(paths)) == ["a__mesh", "b__mesh_glb", "b__mesh_obj", "cup"]
    assert list(scene_sources(paths[:2])) == ["a__mesh", "b__mesh"]


def test_random_cameras_depend_on_name_and_seed_alone() -> None:
    first = protocol_cameras("random", SIZE, name="mug", seed=0, num_views=200)
    assert torch.equal(
        first.world_from_cam,
        protocol_cameras("random", SIZE, name="mug", seed=0, num_views=200).world_from_cam,
    )
    for other in ({"name": "cup", "seed": 0}, {"name": "mug", "seed": 1}):
        cameras = protocol_cameras("random", SIZE, num_views=200, **other)  # type: ignore[arg-type]
        assert not torch.equal(first.world_from_cam, cameras.world_from_cam)
    azimuth, elevation, distance = spherical_angles(first.centers)
    torch.testing.assert_close(distance, torch.full((200,), 1.5))
    assert float(elevation.min()) >= -10.001
    assert float(elevation.max()) <= 40.001
    # 200 uniform draws leave the outer tenth of the range empty with probability 0.9^200 < 1e-9.
    assert float(elevation.min()) < -5
    assert float(elevation.max()) > 35
    assert float(azimuth.max() - azimuth.min()) > 300


def test_orbit16_is_the_papers() -> None:
    cameras = protocol_cameras("orbit16", 256)
    azimuth, elevation, _ = spherical_angles(cameras.centers)
    torch.testing.assert_close((azimuth + 1e-3) % 360, torch.arange(16) * 22.5 + 1e-3, atol=2e-3, rtol=0)
    torch.testing.assert_close(elevation, torch.full((16,), 30.0))
    # 35 mm on 32 mm over 256 pixels: 280 pixels.
    assert cameras.K[0, 0, 0] == 280


def test_orbit32_holds_out_the_views_between(tmp_path: Path) -> None:
    render_procedural(5, 1, tmp_path / "set", protocol="orbit32", size=16, samples=1)
    views = read_scene(tmp_path / "set" / "000005", split=16)
    assert views.observed.tolist() == [True] * 16 + [False] * 16
    assert views.cameras is not None
    azimuth, elevation, distance = spherical_angles(views.cameras.centers)
    torch.testing.assert_close(azimuth[16:], azimuth[:16] + 11.25, atol=1e-3, rtol=0)
    torch.testing.assert_close(elevation[:16], torch.full((16,), 30.0), atol=1e-3, rtol=0)
    held = elevation[16:].sort().values
    assert 15 <= float(held[0]) < 19
    assert 41 < float(held[-1]) <= 45
    # Spread: no gap of more than twice the mean step of 30 / 16 degrees.
    assert float(held.diff().max()) < 3.75
    torch.testing.assert_close(distance, torch.full((32,), 1.5))
