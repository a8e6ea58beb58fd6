"""Ordered captures: MVImgNet's tree and scenes, their square views and cameras, the printed splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from manyview.data.captures import (
    capture_batches,
    captures_identity,
    is_capture_tree,
    list_captures,
    ninety_five_five,
    one_of_99,
    split_names,
)
from manyview.errors import InputError
from manyview.geometry.projection import project
from manyview.geometry.trajectories import orbit
from manyview.io.colmap import write_colmap
from manyview.io.frames import FrameTable
from manyview.io.scene import write_scene
from manyview.types import Cameras, Views


def wide_cameras(count: int, lens: bool = False) -> Cameras:
    """An orbit seen through 24 x 16 pixel cameras; with a lens bent a little."""
    cameras = orbit(count, size=16)
    K = cameras.K.clone()
    K[:, 0, 2] = 12.0
    bent = torch.tensor([[0.05, 0, 0, 0, 0, 0]]).expand(count, 6).clone() if lens else None
    return Cameras(
        world_from_cam=cameras.world_from_cam, K=K, sizes=torch.tensor([[16, 24]] * count), distortion=bent
    )


def write_object(folder: Path, count: int, lens: bool = False) -> None:
    """Frames 001.png ... of which column x has the grey 10 x, in COLMAP's layout."""
    files = tuple(f"{number + 1:03d}.png" for number in range(count))
    table = FrameTable(files=files, cameras=wide_cameras(count, lens))
    write_colmap(folder / "sparse" / "0", table)
    (folder / "images").mkdir()
    line = (torch.arange(24) * 10).to(torch.uint8)
    pixels = line.expand(16, 24)[..., None].expand(-1, -1, 3)
    for file in files:
        Image.fromarray(pixels.numpy()).save(folder / "images" / file)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mvimgnet")
    for name, count in (("7/b", 3), ("7/a", 5), ("12/c", 4)):
        write_object(root / name, count)
    return root


def test_captures_of_the_tree_are_cut_in_the_middle(tree: Path) -> None:
    captures = list_captures(tree)
    assert is_capture_tree(tree)
    assert [one.name for one in captures] == ["7/a", "7/b", "12/c"]
    assert [len(one) for one in captures] == [5, 3, 4]
    # 24 x 16 cut to columns 4 to 19, then 2 x 2 pixels averaged: columns 4 and 5 have 45 on average.
    view = captures[0].read(2, 8)
    assert view.shape == (3, 8, 8)
    expected = (45 + 20 * torch.arange(8)) / 255
    torch.testing.assert_close(view[0, 3], expected, atol=1e-4, rtol=0)
    # A point is seen at the pixel that cutting by 4 columns and halving brings it to.
    point = torch.tensor([[[0.1, -0.05, 0.2]]])
    before, _ = project(point, wide_cameras(5))
    after, _ = project(point, captures[0].cameras(8))
    torch.testing.assert_close(after, (before - torch.tensor([4.0, 0.0])) / 2, atol=1e-4, rtol=0)


def test_lenses_are_taken_out(tmp_path: Path) -> None:
    write_object(tmp_path / "1" / "x", 2, lens=True)
    (capture,) = list_captures(tmp_path)
    assert capture.cameras(16).distortion is None
    view = capture.read(0, 16)
    # Straight through the middle nothing moves; at the border the lens had shown what lies further out.
    wide = list_captures(tmp_path)[0].table.cameras[0]
    assert wide.distortion is not None
    off = (torch.arange(16) + 0.5 - 8) / wide.K[0, 0, 0]
    bent = 8 + 4 + wide.K[0, 0, 0] * off * (1 + 0.05 * (off**2 + (0.5 / wide.K[0, 1, 1]) ** 2))
    expected = (bent - 0.5) * 10 / 255
    torch.testing.assert_close(view[0, 8], expected.float(), atol=3e-3, rtol=0)


def test_scenes_are_captures_too(tmp_path: Path, tree: Path) -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 1, 8, 8)
    masks[0, :, :2] = 0
    write_scene(Views(images=images, masks=masks, cameras=orbit(3, size=8)), tmp_path / "cup")
    (capture,) = list_captures(tmp_path)
    assert (capture.name, is_capture_tree(tmp_path)) == ("cup", False)
    view = capture.read(0, 8)
    torch.testing.assert_close(view[:, :2], torch.ones(3, 2, 8))  # over white
    torch.testing.assert_close(view[:, 2:], images[0, :, 2:], atol=0.5 / 255 + 1e-6, rtol=0)
    (batch,) = capture_batches([capture], 4)
    assert batch.shape == (3, 4, 4, 3)
    first = captures_identity([capture], 4)
    assert first != captures_identity([capture], 8)
    moved = replace(capture.table.cameras, K=capture.table.cameras.K * 1.0)
    moved.K[0, 0, 0] += 1e-3
    other = replace(capture, table=replace(capture.table, cameras=moved))
    assert captures_identity([other], 4) != first
    (tmp_path / "plain" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="has no cameras"):
        list_captures(tmp_path)
    with pytest.raises(InputError, match="existing folder"):
        list_captures(tmp_path / "nowhere")


def test_ninety_five_five_by_category() -> None:
    names = [f"chair/{number:03d}" for number in range(40)] + [f"table/{number}" for number in range(3)]
    splits = ninety_five_five(reversed(names))
    # Of 40: up to 36, then up to 38, the rest. Of 3: 2.7 and 2.85 round down to 2.
    assert splits.train == (*names[:36], "table/0", "table/1")
    assert splits.val == tuple(names[36:38])
    assert splits.test == (*names[38:40], "table/2")


def test_one_of_99_leaves_every_category_a_test_scene() -> None:
    names = [f"a/{number:04d}" for number in range(200)] + ["b/x", "b/y"]
    splits = one_of_99(names)
    assert splits.test == ("a/0000", "a/0099", "a/0198", "b/x")
    assert len(splits.train) + len(splits.test) == 202
    assert not set(splits.train) & set(splits.test)


def test_parts_of_a_rule() -> None:
    names = [f"s{number}" for number in range(4)]
    assert split_names(names, "all", "test") == tuple(names)
    assert split_names(names, "1-of-99", "train") == ("s1", "s2", "s3")
    with pytest.raises(InputError, match="leaves no scene for val"):
        split_names(names, "90-5-5", "val")
    with pytest.raises(InputError, match="--split"):
        split_names(names, "half", "train")
