"""Data sets as arrays, their cache, and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.data.datasets import (
    SceneArrays,
    Splits,
    every_tenth,
    open_views,
    read_splits,
    write_splits,
)
from manyview.data.packed import PackedViews
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.io.scene import write_scene
from manyview.types import Views


def write_constant(folder: Path, name: str, color: tuple[float, float, float], num_views: int = 2) -> None:
    """A scene whose left half is `color` and whose right half is empty, 8 x 8."""
    images = torch.tensor(color)[None, :, None, None].expand(num_views, 3, 8, 8).clone()
    masks = torch.zeros(num_views, 1, 8, 8)
    masks[..., :4] = 1
    write_scene(Views(images=images, masks=masks), folder / name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_constant(tmp_path / "set", "a", (1, 0, 0))
    write_constant(tmp_path / "set", "b", (0, 0.2, 1))
    return tmp_path / "set"


def test_arrays_are_composited_and_averaged_by_area(data: Path) -> None:
    arrays = SceneArrays(data, size=4)
    assert arrays.names == ("a", "b")
    assert (len(arrays), arrays.num_views) == (2, 2)
    assert arrays[0].shape == (2, 4, 4, 3)
    assert arrays[0].dtype == np.uint8
    # 0.2 is byte 51; the right half is white. Blocks of 2 x 2 do not straddle the middle.
    np.testing.assert_array_equal(arrays[1][0, 2, 1], [0, 51, 255])
    np.testing.assert_array_equal(arrays[1][1, 2, 2], [255, 255, 255])
    # One pixel over grey 0: half of it is red, half is background.
    one = SceneArrays(data, size=1, background=0.0)
    np.testing.assert_allclose(one[0][0, 0, 0], [127.5, 0, 0], atol=0.6)
    (both,) = arrays.batches(2)
    np.testing.assert_array_equal(both, np.stack([arrays[0], arrays[1]]))


def test_cache_is_used_and_never_for_something_else(data: Path) -> None:
    assert SceneArrays(data, size=4).num_views == 2
    (cached,) = (data / ".arrays").iterdir()
    # A sign that the second reader takes what is there: change it behind its back.
    stored = np.load(cached / "views_00000000.npy", mmap_mode="r+")
    stored[0, 0, 0, 0, 0] = 7
    stored.flush()
    assert SceneArrays(data, size=4)[0][0, 0, 0, 0] == 7
    assert SceneArrays(data, size=2)[0][0, 0, 0, 0] == 255
    assert SceneArrays(data, size=4, background=0.5)[0][0, 0, 0, 0] == 255
    picked = SceneArrays(data, size=4, names=["b", "a"])
    assert picked[1][0, 0, 0, 0] == 255
    np.testing.assert_array_equal(picked[0][0, 0, 0], [0, 51, 255])
    # Same names, other pixels.
    before = SceneArrays(data, size=4).identity
    (data / "a" / "images" / "000.png").write_bytes((data / "b" / "images" / "000.png").read_bytes())
    changed = SceneArrays(data, size=4)
    assert changed.identity != before
    np.testing.assert_array_equal(changed[0][0, 0, 0], [0, 51, 255])


def test_half_a_cache_is_not_taken(data: Path, tmp_path: Path) -> None:
    write_constant(data, "c", (0, 1, 0), num_views=3)
    cache = tmp_path / "cache"
    for _ in range(2):  # what the first try left must not pass for the whole in the second
        with pytest.raises(InputError, match="has 3 views, expected 2 as in a"):
            SceneArrays(data, size=4, cache=cache)[0]
    assert len(SceneArrays(data, size=4, cache=cache, names=["a", "b"]).packed) == 2


def test_stopped_packing_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyview.data.datasets.SHARD_OBJECTS", 1)
    write_constant(data, "c", (0, 1, 0))
    broken = data / "c" / "images" / "001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:20])
    with pytest.raises(InputError, match=r"--validation: .*001\.png"):
        SceneArrays(data, size=4, cache=tmp_path / "cache", argument="--validation")[0]
    (begun,) = (tmp_path / "cache").iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in begun.glob("views_*")}
    assert sorted(kept) == ["views_00000000.npy", "views_00000001.npy"]
    # The same identity again, as after a kill: only the third scene is read.
    arrays = SceneArrays(data, size=4, cache=tmp_path / "cache")
    broken.write_bytes(whole)
    monkeypatch.setattr(SceneArrays, "identity", property(lambda _: begun.name))
    np.testing.assert_array_equal(arrays[2][1, 0, 0], [0, 255, 0])
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in begun.glob("views_*")}.items()


def test_both_kinds_open_and_agree(data: Path, tmp_path: Path) -> None:
    scenes = open_views(data, size=4, cache=tmp_path / "cache")
    assert isinstance(scenes, SceneArrays)
    packed = open_views(scenes.packed.folder, size=99)
    assert isinstance(packed, PackedViews)
    kinds: list[ObjectViews] = [scenes, packed]
    first, second = (list(kind.batches(1)) for kind in kinds)
    np.testing.assert_array_equal(first, second)
    with pytest.raises(InputError, match=r"--validation: .*scenes"):
        open_views(tmp_path / "nowhere", size=4, argument="--validation")


def test_refusals(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names"):
        SceneArrays(data, size=4, names=["z"])
    with pytest.raises(InputError, match="size"):
        SceneArrays(data, size=0)
    with pytest.raises(InputError, match="grey level"):
        SceneArrays(data, size=4, background=2.0)
    with pytest.raises(InputError, match="scenes"):
        SceneArrays(tmp_path / "nowhere", size=4)


def test_every_tenth_by_name() -> None:
    names = [f"{number:03d}" for number in range(1, 26)]
    splits = every_tenth(reversed(names))
    assert splits.val == ("010", "020")
    assert len(splits.train) == 23
    assert sorted((*splits.train, *splits.val)) == names


def test_splits_round_trip_and_refusals(data: Path) -> None:
    assert read_splits(data) is None
    splits = Splits(train=("a",), test=("b",))
    write_splits(data, splits)
    assert read_splits(data) == splits
    write_splits(data, Splits(train=("a", "gone")))
    with pytest.raises(InputError, match="not there: gone"):
        read_splits(data)
    for text in ("{", "[]", '{"train": "a"}', '{"other": []}'):
        (data / "splits.json").write_text(text)
        with pytest.raises(InputError, match="expected"):
            read_splits(data)
    with pytest.raises(InputError, match="two places"):
        Splits(train=("a",), val=("a",))
