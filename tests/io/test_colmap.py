from __future__ import annotations

import struct

import numpy as np
import pytest

from manyview.errors import InputError
from manyview.io import colmap

LENS = (0.02, -0.01, 0.0, 0.0, 0.002, -0.004)


def quaternion_rotation(q: np.ndarray) -> np.ndarray:
    """v' = v + 2 w (u x v) + 2 u x (u x v) for q = (w, u), applied to the basis vectors."""
    w, u = q[0], q[1:]
    columns = [e + 2 * w * np.cross(u, e) + 2 * np.cross(u, np.cross(u, e)) for e in np.eye(3)]
    return np.stack(columns, axis=1)


def test_text_model_projects_by_colmaps_formula(tmp_path, make_table, points, opencv_pixels):
    table = make_table()
    colmap.write_colmap(tmp_path, table, format="txt")
    rows = [r.split() for r in (tmp_path / "cameras.txt").read_text().splitlines() if not r.startswith("#")]
    lenses = {row[0]: (row[1], [float(value) for value in row[4:]]) for row in rows}
    lines = (tmp_path / "images.txt").read_text().splitlines()[1::2]
    for index, line in enumerate(lines):
        fields = line.split()
        q, t = np.array(fields[1:5], dtype=float), np.array(fields[5:8], dtype=float)
        x, y, z = quaternion_rotation(q) @ points.T + t[:, None]
        model, (fx, fy, cx, cy) = lenses[fields[8]]
        assert (model, fields[9]) == ("PINHOLE", table.files[index])
        expected = opencv_pixels(table.cameras, index, points)
        np.testing.assert_allclose(np.stack((fx * x / z + cx, fy * y / z + cy), 1), expected, atol=1e-4)


@pytest.mark.parametrize("format", ["bin", "txt"])
@pytest.mark.parametrize("lens", [None, LENS])
def test_round_trip(tmp_path, make_table, same_cameras, format, lens):
    table = make_table(lens=lens)
    rng = np.random.default_rng(0)
    cloud = colmap.PointCloud(
        rng.normal(size=(9, 3)), rng.integers(0, 256, (9, 3)).astype(np.uint8), rng.uniform(size=9)
    )
    colmap.write_colmap(tmp_path / "sparse" / "0", table, cloud, format=format)
    back = colmap.read_colmap(tmp_path)
    assert back.table.files == table.files
    same_cameras(back.table.cameras, table.cameras, atol=2e-6)
    np.testing.assert_array_equal(back.points.positions, cloud.positions)
    np.testing.assert_array_equal(back.points.colors, cloud.colors)
    np.testing.assert_array_equal(back.points.errors, cloud.errors)


def test_equal_intrinsics_share_a_camera(tmp_path, make_table):
    colmap.write_colmap(tmp_path, make_table(shared=True), format="txt")
    assert len((tmp_path / "cameras.txt").read_text().splitlines()) == 2


MODELS = {
    "SIMPLE_PINHOLE": ("50 32 24", (50, 50, 32, 24), None),
    "PINHOLE": ("50 60 32 24", (50, 60, 32, 24), None),
    "SIMPLE_RADIAL": ("50 32 24 0.125", (50, 50, 32, 24), (0.125, 0, 0, 0, 0, 0)),
    "RADIAL": ("50 32 24 0.125 0.25", (50, 50, 32, 24), (0.125, 0.25, 0, 0, 0, 0)),
    "OPENCV": ("50 60 32 24 0.125 0.25 0.5 0.75", (50, 60, 32, 24), (0.125, 0.25, 0, 0, 0.5, 0.75)),
}


def write_one_image(folder, model, params, image_lines="1 1 0 0 0 0 0 4 1 a b.png\n\n"):
    (folder / "cameras.txt").write_text(f"# comment\n1 {model} 64 48 {params}\n")
    (folder / "images.txt").write_text("# comment\n" + image_lines)


@pytest.mark.parametrize("model", MODELS)
def test_models(tmp_path, model):
    params, (fx, fy, cx, cy), lens = MODELS[model]
    write_one_image(tmp_path, model, params)
    table = colmap.read_colmap(tmp_path).table
    assert table.files == ("a b.png",)
    assert table.cameras.K[0].tolist() == [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    assert table.cameras.sizes.tolist() == [[48, 64]]
    # Identity rotation and t = (0, 0, 4): the centre is -t.
    assert table.cameras.centers.tolist() == [[0, 0, -4]]
    assert (None if lens is None else list(lens)) == (
        None if table.cameras.distortion is None else table.cameras.distortion[0].tolist()
    )


def test_images_come_by_name_and_keypoints_are_skipped(tmp_path):
    lines = "7 1 0 0 0 0 0 4 1 b.png\n1.5 2.5 -1 3.5 4.5 12\n9 1 0 0 0 0 0 5 1 a.png\n\n"
    write_one_image(tmp_path, "PINHOLE", "50 60 32 24", lines)
    table = colmap.read_colmap(tmp_path).table
    assert table.files == ("a.png", "b.png")
    assert table.cameras.centers[:, 2].tolist() == [-5, -4]


def test_binary_layout_as_documented(tmp_path):
    # Written field by field from the format's description, with keypoints and a track to step over.
    cameras = struct.pack("<Q", 1) + struct.pack("<iiQQ3d", 3, 0, 64, 48, 50.0, 32.0, 24.0)
    image = struct.pack("<i7di", 8, 1, 0, 0, 0, 0, 0, 4, 3) + b"a.png\0"
    keypoints = struct.pack("<Q", 2) + struct.pack("<ddq", 1, 2, -1) + struct.pack("<ddq", 3, 4, 5)
    second = struct.pack("<i7di", 9, 1, 0, 0, 0, 0, 0, 6, 3) + b"b.png\0" + struct.pack("<Q", 0)
    point = struct.pack("<Q3d3Bd", 5, 1, 2, 3, 10, 20, 30, 0.5) + struct.pack("<Qii", 1, 8, 1)
    (tmp_path / "cameras.bin").write_bytes(cameras)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 2) + image + keypoints + second)
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)
    model = colmap.read_colmap(tmp_path)
    assert model.table.files == ("a.png", "b.png")
    assert model.table.cameras.centers[:, 2].tolist() == [-4, -6]
    assert model.points.positions.tolist() == [[1, 2, 3]]
    assert model.points.colors.tolist() == [[10, 20, 30]]
    (tmp_path / "images.bin").write_bytes((struct.pack("<Q", 2) + image + keypoints + second)[:-30])
    with pytest.raises(InputError, match="broken model"):
        colmap.read_colmap(tmp_path)


def test_bad_models_are_named(tmp_path, make_table):
    with pytest.raises(InputError, match="sparse/0"):
        colmap.read_colmap(tmp_path)
    write_one_image(tmp_path, "OPENCV_FISHEYE", "1 1 1 1 0 0 0 0")
    with pytest.raises(InputError, match="OPENCV_FISHEYE: expected one of SIMPLE_PINHOLE, PINHOLE"):
        colmap.read_colmap(tmp_path)
    write_one_image(tmp_path, "PINHOLE", "50 60 32")
    with pytest.raises(InputError, match="3 parameters"):
        colmap.read_colmap(tmp_path)
    write_one_image(tmp_path, "PINHOLE", "50 60 32 24", "1 1 0 0 0 0 0 4 2 a.png\n\n")
    with pytest.raises(InputError, match=r"a.png: camera 2"):
        colmap.read_colmap(tmp_path)
    write_one_image(tmp_path, "PINHOLE", "50 60 32 24", "1 nan 0 0 0 0 0 4 1 a.png\n\n")
    with pytest.raises(InputError, match="quaternion"):
        colmap.read_colmap(tmp_path)
    write_one_image(tmp_path, "PINHOLE", "50 60 32 24", "")
    with pytest.raises(InputError, match="no registered images"):
        colmap.read_colmap(tmp_path)
    with pytest.raises(InputError, match="k3, k4"):
        colmap.write_colmap(tmp_path / "out", make_table(lens=(0.1, 0, 0.1, 0, 0, 0)))
    assert not (tmp_path / "out").exists()
