"""Packed data sets: what is written is what the renderer gives, whatever the interruptions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from manyview.data import packed
from manyview.data.packed import PackedViews, describe, pack_meshes, pack_procedural, write_shard
from manyview.data.procedural import make_object, render_object
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit

CAMERAS = orbit(2, size=16)


def test_procedural_pack_holds_the_rendered_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHARD_OBJECTS", 2)
    seen: list[int] = []
    pack_procedural(tmp_path / "set", 10, 5, CAMERAS, progress=seen.append)
    assert seen == [2, 2, 1]
    views = PackedViews(tmp_path / "set")
    assert (len(views), views.num_views) == (5, 2)
    for index in range(5):
        expected = render_object(make_object(10 + index), CAMERAS).over(1.0).permute(0, 2, 3, 1) * 255
        assert views[index].dtype == np.uint8
        assert np.array_equal(views[index], expected.round().to(torch.uint8).numpy())
    assert views.description["source"] == "procedural"
    assert views.description["size"] == [16, 16]
    assert not list((tmp_path / "set").glob(".*"))


def test_finished_shards_are_kept_and_missing_ones_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SHARD_OBJECTS", 2)
    folder = tmp_path / "set"
    pack_procedural(folder, 0, 4, CAMERAS)
    whole = [np.array(PackedViews(folder)[index]) for index in range(4)]
    # A finished shard is not rendered again (marked here), a lost one is.
    write_shard(folder, 0, np.zeros((2, 2, 16, 16, 3), np.uint8))
    (folder / "views_00000002.npy").unlink()
    seen: list[int] = []
    pack_procedural(folder, 0, 4, CAMERAS, progress=seen.append)
    views = PackedViews(folder)
    assert seen == [2]
    assert not views[0].any()
    assert np.array_equal(views[2], whole[2])
    assert np.array_equal(views[3], whole[3])


def test_batches_cover_everything_in_order(tmp_path: Path) -> None:
    describe(tmp_path, {"source": "test"})
    pictures = np.arange(7, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 4, 4, 3), np.uint8)
    write_shard(tmp_path, 0, pictures[:3])
    write_shard(tmp_path, 3, pictures[3:])
    batches = list(PackedViews(tmp_path).batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert np.array_equal(np.concatenate(batches), pictures)


def test_indices_outside_are_refused(tmp_path: Path) -> None:
    describe(tmp_path, {"source": "test"})
    write_shard(tmp_path, 0, np.zeros((2, 1, 4, 4, 3), np.uint8))
    views = PackedViews(tmp_path)
    for index in (2, -1):
        with pytest.raises(IndexError):
            views[index]


def test_other_options_are_refused(tmp_path: Path) -> None:
    pack_procedural(tmp_path, 0, 1, CAMERAS)
    before = (tmp_path / "packed.json").read_text()
    with pytest.raises(InputError, match=r"--out: .*: was begun with other options"):
        pack_procedural(tmp_path, 5, 1, CAMERAS)
    with pytest.raises(InputError, match="was begun with other options"):
        pack_procedural(tmp_path, 0, 1, orbit(3, size=16))
    assert (tmp_path / "packed.json").read_text() == before


@pytest.mark.parametrize("begun", [False, True])
def test_folders_without_data_are_refused(tmp_path: Path, begun: bool) -> None:
    if begun:
        describe(tmp_path, {"source": "test"})
    with pytest.raises(InputError, match=r"--data: .*(packed data set|no finished shard)"):
        PackedViews(tmp_path)


def test_meshes_in_random_placements(tmp_path: Path) -> None:
    box = trimesh.creation.box((1, 0.5, 0.25))
    box.visual.vertex_colors = np.tile([200, 30, 30, 255], (8, 1))
    box.export(tmp_path / "box.ply")
    pack_meshes(tmp_path / "one", [tmp_path / "box.ply"], CAMERAS, turns=4, seed=1)
    pack_meshes(tmp_path / "two", [tmp_path / "box.ply"], CAMERAS, turns=4, seed=1)
    pack_meshes(tmp_path / "other", [tmp_path / "box.ply"], CAMERAS, turns=4, seed=2)
    one, two, other = (PackedViews(tmp_path / name) for name in ("one", "two", "other"))
    assert (len(one), one.num_views) == (4, 2)
    assert all(np.array_equal(one[i], two[i]) for i in range(4))
    assert not np.array_equal(one[0], other[0])
    assert len({one[i].tobytes() for i in range(4)}) == 4
    for index in range(4):  # seen whole: an object on white
        assert (one[index][:, [0, -1]] == 255).all()
        assert 0.02 < (one[index][..., 1] < 200).mean() < 0.6
    assert json.loads((tmp_path / "one/packed.json").read_text())["turns"] == 4


def test_a_mesh_as_it_is(tmp_path: Path) -> None:
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    pack_meshes(tmp_path / "set", [tmp_path / "ball.ply"], CAMERAS)
    views = PackedViews(tmp_path / "set")
    assert len(views) == 1
    # A ball looks the same from everywhere, up to its facets.
    assert np.abs(views[0][0].astype(int) - views[0][1]).mean() < 3
