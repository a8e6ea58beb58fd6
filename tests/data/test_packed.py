"""Packed data sets: what is written is what the renderer gives, whatever the interruptions."""

from __future__ import annotations

import itertools
import json
import pickle
import resource
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


def test_a_longer_run_completes_the_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHARD_OBJECTS", 4)
    pack_procedural(tmp_path / "set", 0, 2, CAMERAS)
    pack_procedural(tmp_path / "set", 0, 5, CAMERAS)
    pack_procedural(tmp_path / "other", 0, 5, CAMERAS)
    grown, whole = PackedViews(tmp_path / "set"), PackedViews(tmp_path / "other")
    assert len(grown) == 5
    assert grown.identity == whole.identity


def test_identity_is_of_the_bytes_alone(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3), dtype=np.uint8)
    cuts = {"one": [0, 3], "two": [0, 1, 3]}
    for name, ends in cuts.items():
        describe(tmp_path / name, {"source": name})
        for start, end in itertools.pairwise(ends):
            write_shard(tmp_path / name, start, pictures[start:end])
    assert PackedViews(tmp_path / "one").identity == PackedViews(tmp_path / "two").identity
    pictures[2, 1, 3, 3, 2] ^= 1
    write_shard(tmp_path / "two", 1, pictures[1:])
    assert PackedViews(tmp_path / "one").identity != PackedViews(tmp_path / "two").identity
    # The same bytes cut into views otherwise are other views.
    describe(tmp_path / "three", {"source": "three"})
    write_shard(tmp_path / "three", 0, np.load(tmp_path / "one/views_00000000.npy").reshape(3, 2, 2, 8, 3))
    assert PackedViews(tmp_path / "one").identity != PackedViews(tmp_path / "three").identity


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    describe(tmp_path, {"source": "test"})
    for number in range(300):
        write_shard(tmp_path, number, np.full((1, 1, 1, 1, 3), number % 256, np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        views = PackedViews(tmp_path)
        assert [int(views[i].max()) for i in range(300)] == [i % 256 for i in range(300)]
        assert len(views.identity) == 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_refusal_comes_back_from_a_worker(tmp_path: Path) -> None:
    def refuse() -> packed._Done:
        raise InputError("--out", "x", "the disk is full")

    assert pickle.loads(pickle.dumps(packed._run_alone(refuse))) == ("--out", "x", "the disk is full")


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    for name, extents in (("flat", (1, 1, 0.2)), ("tall", (0.3, 0.3, 1))):
        trimesh.creation.box(extents).export(tmp_path / f"{name}.ply")
    (tmp_path / "broken.ply").write_text("no mesh")
    meshes = [tmp_path / f"{name}.ply" for name in ("flat", "broken", "tall")]
    with pytest.raises(InputError, match=r"broken\.ply"):
        pack_meshes(tmp_path / "strict", meshes, CAMERAS, turns=1)
    seen: list[int] = []
    failed = pack_meshes(
        tmp_path / "many", meshes, CAMERAS, turns=1, progress=seen.append, workers=2, keep_going=True
    )
    assert seen == [1, 1, 1]
    assert len(failed) == 1
    assert "broken.ply" in failed[0]
    # One mesh broken or not, the others are placed as they were; the broken one has its turn later.
    trimesh.creation.icosphere(1).export(tmp_path / "broken.ply")
    assert pack_meshes(tmp_path / "many", meshes, CAMERAS, turns=1) == ()
    pack_meshes(tmp_path / "one", meshes, CAMERAS, turns=1)
    assert PackedViews(tmp_path / "many").identity == PackedViews(tmp_path / "one").identity


def test_other_contents_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(InputError, match="holds something else"):
            pack_procedural(tmp_path, 0, 1, CAMERAS, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_force_begins_anew(tmp_path: Path) -> None:
    describe(tmp_path, {"source": "old"})
    write_shard(tmp_path, 7, np.zeros((2, 2, 16, 16, 3), np.uint8))
    pack_procedural(tmp_path, 0, 1, CAMERAS, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.json", "views_00000000.npy"]


def test_depths_are_kept_to_half_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHARD_OBJECTS", 2)
    pack_procedural(tmp_path / "set", 10, 3, CAMERAS, depths=True)
    pack_procedural(tmp_path / "plain", 10, 3, CAMERAS)
    views, plain = PackedViews(tmp_path / "set"), PackedViews(tmp_path / "plain")
    assert views.identity == plain.identity
    codes = views.depth_codes
    # Objects of side 1 reach sqrt(3) / 2 from the middle, 1.5 away.
    assert codes.near == pytest.approx(1.5 - 3**0.5 / 2, abs=1e-6)
    assert codes.far == pytest.approx(1.5 + 3**0.5 / 2, abs=1e-6)
    half_step = (1 / codes.near - 1 / codes.far) / 254 / 2
    for index in range(3):
        true = render_object(make_object(10 + index), CAMERAS).depths
        assert true is not None
        expected, found = true[:, 0].numpy(), codes.decode(views.depths(index))
        assert views.depths(index).dtype == np.uint8
        assert np.array_equal(found > 0, expected > 0)
        solid = expected > 0
        assert np.abs(1 / found[solid] - 1 / expected[solid]).max() < half_step * 1.001
        assert codes.shares(views.depths(index)).max() <= 1
    with pytest.raises(InputError, match="no depths"):
        plain.depths(0)
    with pytest.raises(InputError, match="other options"):
        pack_procedural(tmp_path / "plain", 10, 3, CAMERAS, depths=True)
    pack_procedural(tmp_path / "set", 0, 1, CAMERAS, force=True)
    assert not list((tmp_path / "set").glob("depths_*"))


def test_meshes_keep_depths_too(tmp_path: Path) -> None:
    trimesh.creation.icosphere(3).export(tmp_path / "ball.ply")
    pack_meshes(tmp_path / "set", [tmp_path / "ball.ply"], orbit(1, size=33), depths=True)
    views = PackedViews(tmp_path / "set")
    # A ball of radius 0.5 is met 1.0 away in the middle of the picture.
    assert views.depth_codes.decode(views.depths(0))[0, 16, 16] == pytest.approx(1.0, abs=0.01)
