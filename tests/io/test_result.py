"""Results saved and loaded, the contact sheet, and a full disk half way."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from manyview.errors import InputError
from manyview.io.glb import read_glb, write_glb
from manyview.io.manifest import build_manifest, read_json
from manyview.io.result import Result
from manyview.io.scene import read_scene
from manyview.io.sheet import GIVEN, MADE, draw_sheet
from manyview.io.video import read_frames
from manyview.types import Views


def some_result(count: int = 4, side: int = 16) -> Result:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(0, 256, (2, count, 3, side, side), generator=generator) / 255
    views = Views(images=samples[0], observed=torch.arange(count) == 0)
    spread = torch.randint(0, 65536, (count, 1, side, side), generator=generator) / 65535
    manifest = build_manifest("synth dimvis", seed=5, seconds=0.5)
    return Result(
        views=views, spread=spread, samples=samples, manifest=manifest, metrics={"psnr": {"mean": 20.5}}
    )


def test_round_trip(tmp_path: Path) -> None:
    result = some_result()
    result.save(tmp_path / "out")
    back = Result.load(tmp_path / "out")
    assert torch.equal(back.views.images, result.views.images)
    assert back.views.observed.tolist() == [True, False, False, False]
    assert back.spread is not None
    assert result.spread is not None
    assert torch.equal(back.spread, result.spread)
    assert back.samples is not None
    assert result.samples is not None
    assert torch.equal(back.samples, result.samples)
    assert back.manifest == result.manifest
    assert back.metrics == result.metrics
    assert back.mesh is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("images", "manifest.json", "metrics.json", "samples", "sheet.png", "spread"),
        *("train_test_split_1.json", "video.mp4"),
    ]


def test_a_result_is_a_scene(tmp_path: Path) -> None:
    result = some_result()
    result.save(tmp_path / "out", video=False)
    assert not (tmp_path / "out" / "video.mp4").exists()
    # The sheet and the maps beside the images are no views.
    assert torch.equal(read_scene(tmp_path / "out").images, result.views.images)


def test_video_holds_the_views_in_order(tmp_path: Path) -> None:
    grey = torch.tensor([0.1, 0.4, 0.9]).reshape(3, 1, 1, 1).expand(3, 3, 16, 16)
    Result(views=Views(images=grey.clone())).save(tmp_path / "out")
    frames, fps = read_frames(tmp_path / "out" / "video.mp4")
    assert torch.allclose(frames.mean(dim=(1, 2, 3)), torch.tensor([0.1, 0.4, 0.9]), atol=0.01)
    assert fps == pytest.approx(8)


def test_second_save_needs_force(tmp_path: Path) -> None:
    result = some_result(2)
    result.save(tmp_path / "out")
    with pytest.raises(InputError, match="--force"):
        result.save(tmp_path / "out")
    Result(views=result.views).save(tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "spread").exists()


def test_mesh_keeps_its_place_and_is_upright_for_others(tmp_path: Path) -> None:
    # A pole from the origin to z = 2, leaning to y = 1: in glTF, +Y is up and -Z is our +Y.
    mesh = trimesh.Trimesh([[0, 0, 0], [0.1, 0, 0], [0, 1, 2]], [[0, 1, 2]], process=False)
    mesh.visual.vertex_colors = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]
    write_glb(tmp_path / "mesh.glb", mesh)
    foreign = trimesh.load_mesh(tmp_path / "mesh.glb", process=False)
    assert np.allclose(foreign.vertices[2], [0, 2, -1])
    back = read_glb(tmp_path / "mesh.glb")
    assert np.allclose(back.vertices, mesh.vertices)
    assert (back.visual.vertex_colors == mesh.visual.vertex_colors).all()
    Result(views=Views(images=torch.zeros(1, 3, 16, 16)), mesh=mesh).save(tmp_path / "out")
    loaded = Result.load(tmp_path / "out").mesh
    assert loaded is not None
    assert np.allclose(loaded.vertices, mesh.vertices)
    # The given mesh itself was not turned.
    assert np.allclose(mesh.vertices[2], [0, 1, 2])


class TinySplats:
    def write_ply(self, path: Path) -> None:
        path.write_text("ply\n")


def test_splats_write_themselves(tmp_path: Path) -> None:
    views = Views(images=torch.zeros(1, 3, 16, 16))
    Result(views=views, splats=TinySplats()).save(tmp_path / "out")
    assert (tmp_path / "out" / "splats.ply").read_text() == "ply\n"
    with pytest.raises(InputError, match="splats: str"):
        Result(views=views, splats="x").save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_shapes_are_checked() -> None:
    views = Views(images=torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="spread"):
        Result(views=views, spread=torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="samples"):
        Result(views=views, samples=torch.zeros(4, 3, 3, 8, 8))


def test_sheet_tells_given_from_made() -> None:
    # Two columns, three views: frames are 4 pixels, cells 192, gap 8, label 18.
    views = Views(images=torch.full((3, 3, 16, 16), 0.5), observed=torch.tensor([True, False, False]))
    page = np.asarray(draw_sheet(views, columns=2))
    step_x, step_y = 192 + 8 + 8, 192 + 8 + 18 + 8
    assert page.shape == (2 * step_y + 8, 2 * step_x + 8, 3)
    assert tuple(page[8, 8]) == GIVEN
    assert tuple(page[8, 8 + step_x]) == MADE
    assert tuple(page[8 + step_y, 8]) == MADE
    assert tuple(page[8 + step_y, 8 + step_x]) == (255, 255, 255)
    assert tuple(page[8 + 4 + 96, 8 + 4 + 96]) == (128, 128, 128)
    # Something is written below the first view.
    assert (page[8 + 200 : 8 + 218, 8:208] < 200).any()


def test_sheet_with_a_spread_row() -> None:
    views = Views(images=torch.zeros(2, 3, 16, 16))
    spread = torch.zeros(2, 1, 16, 16)
    spread[1] = 0.2
    page = np.asarray(draw_sheet(views, spread))
    step_x, step_y = 192 + 8 + 8, 192 + 8 + 18 + 8
    middle = 8 + 4 + 96
    # No spread is white, the largest dark red.
    assert tuple(page[middle + step_y, middle]) == (255, 255, 255)
    assert tuple(page[middle + step_y, middle + step_x]) == (102, 0, 31)


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    # Images of noise fit in the allowed file size, the sheet does not.
    script = f"""
    import resource, torch
    from manyview.errors import InputError
    from manyview.io.result import Result
    from manyview.types import Views
    result = Result(views=Views(images=torch.rand(4, 3, 32, 32)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        result.save({str(tmp_path / "deep" / "out")!r})
    except InputError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a file would be larger than this system allows" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a result"):
        Result.load(tmp_path)
    some_result(2).save(tmp_path / "out")
    (tmp_path / "out" / "spread" / "001.png").unlink()
    with pytest.raises(InputError, match="misses 001"):
        Result.load(tmp_path / "out")


def test_manifest_is_written(tmp_path: Path) -> None:
    some_result(2).save(tmp_path / "out")
    assert read_json(tmp_path / "out" / "manifest.json")["seed"] == 5
