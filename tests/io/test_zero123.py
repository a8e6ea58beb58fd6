from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manyview.errors import InputError
from manyview.io.zero123 import read_zero123, write_zero123


@pytest.fixture
def folder(tmp_path, make_table):
    table = make_table(3)
    write_zero123(tmp_path, table)
    for name in table.files:
        Image.new("RGBA", (64, 64)).save(tmp_path / name)
    return tmp_path / "images", table


def test_files_hold_blenders_camera(folder, points, opencv_pixels):
    # Blender looks along -z with y up: u = c - f x / z, v = c + f y / z.
    # 35 mm on a 32 mm sensor is f = 70 at 64 pixels.
    images, _ = folder
    read = read_zero123(images)
    assert read.files == ("000.png", "001.png", "002.png")
    for index, name in enumerate(read.files):
        matrix = np.load((images / name).with_suffix(".npy"))
        assert matrix.shape == (3, 4)
        x, y, z = matrix[:, :3] @ points.T + matrix[:, 3:]
        assert (z < 0).all()
        expected = opencv_pixels(read.cameras, index, points)
        np.testing.assert_allclose(np.stack((32 - 70 * x / z, 32 + 70 * y / z), axis=1), expected, atol=1e-4)


@pytest.mark.parametrize("axes", ["opengl", "opencv"])
def test_round_trip(folder, axes):
    images, table = folder
    write_zero123(images.parent, table, axes=axes)
    back = read_zero123(images, axes=axes, size=(512, 512))
    assert back.cameras.K[0].tolist() == [[560, 0, 256], [0, 560, 256], [0, 0, 1]]
    np.testing.assert_allclose(back.cameras.world_from_cam, table.cameras.world_from_cam, atol=2e-6)


def test_the_wrong_axes_turn_the_camera_around(folder):
    images, table = folder
    wrong = read_zero123(images, axes="opencv").cameras
    np.testing.assert_allclose(
        wrong.world_from_cam[:, :3, 2], -table.cameras.world_from_cam[:, :3, 2], atol=2e-6
    )


def test_bad_folders_are_named(folder, tmp_path):
    images, _ = folder
    with pytest.raises(InputError, match="axes: maya"):
        read_zero123(images, axes="maya")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no \.npy"):
        read_zero123(tmp_path)
    np.save(images / "001.npy", np.full((3, 4), np.nan))
    with pytest.raises(InputError, match=r"001\.npy.*NaN"):
        read_zero123(images)
    np.save(images / "001.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"001\.npy.*not an array"):
        read_zero123(images)
    (images / "000.png").unlink()
    with pytest.raises(InputError, match=r"000\.png"):
        read_zero123(images)
