from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from manyview.errors import InputError
from manyview.io.colmap import write_colmap
from manyview.io.mvimgnet import read_mvimgnet


@pytest.fixture
def scene(tmp_path, make_table):
    folder = tmp_path / "data" / "17" / "0a00b5e6"
    table = replace(make_table(), files=("9.jpg", "10.jpg", "2.jpg", "001.jpg"))
    write_colmap(folder / "sparse" / "0", table)
    # A second, disconnected model that has to be left alone.
    write_colmap(folder / "sparse" / "1", table.select([0]))
    (folder / "images").mkdir()
    for name in (*table.files, "11.jpg"):
        Image.new("RGB", (80, 60)).save(folder / "images" / name)
    return folder, table


def test_frames_in_filming_order_with_their_cameras(scene):
    folder, table = scene
    read = read_mvimgnet(folder)
    assert (read.category_id, read.object_id) == ("17", "0a00b5e6")
    assert read.table.files == ("images/001.jpg", "images/2.jpg", "images/9.jpg", "images/10.jpg")
    expected = table.cameras.world_from_cam[[3, 2, 0, 1]]
    np.testing.assert_allclose(read.table.cameras.world_from_cam, expected, atol=2e-6)
    assert read.table.mask_files == ()


def test_masks_of_the_second_tree(scene, tmp_path):
    folder, _ = scene
    masks = tmp_path / "masks" / "17" / "0a00b5e6"
    masks.mkdir(parents=True)
    Image.new("L", (80, 60)).save(masks / "2.jpg.png")
    read = read_mvimgnet(folder, mask_root=tmp_path / "masks")
    assert read.table.mask_files == (None, str(masks / "2.jpg.png"), None, None)


def test_missing_parts_are_named(scene, tmp_path):
    folder, _ = scene
    (folder / "images" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"images/2\.jpg"):
        read_mvimgnet(folder)
    with pytest.raises(InputError, match="sparse/0"):
        read_mvimgnet(tmp_path)
