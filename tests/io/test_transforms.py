from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from manyview.errors import InputError
from manyview.io import transforms

LENS = (0.02, -0.01, 0.003, 0.001, 0.002, -0.004)


def opengl_pixels(record: dict, frame: dict, world: np.ndarray) -> np.ndarray:
    """Pixels by OpenGL's formula: y up and z back, so u = cx - fx x / z and v = cy + fy y / z (no lens)."""
    merged = {**record, **frame}
    pose = np.linalg.inv(np.array(frame["transform_matrix"]))
    x, y, z = pose[:3, :3] @ world.T + pose[:3, 3:]
    assert (z < 0).all()
    u = merged["cx"] - merged["fl_x"] * x / z
    v = merged["cy"] + merged["fl_y"] * y / z
    return np.stack((u, v), axis=1)


@pytest.mark.parametrize("shared", [True, False])
def test_written_files_project_by_opengls_formula(tmp_path, make_table, points, opencv_pixels, shared):
    table = make_table(shared=shared)
    transforms.write_transforms(tmp_path, table)
    record = json.loads((tmp_path / "transforms.json").read_text())
    assert ("fl_x" in record) == shared
    for index, frame in enumerate(record["frames"]):
        expected = opencv_pixels(table.cameras, index, points)
        np.testing.assert_allclose(opengl_pixels(record, frame, points), expected, atol=1e-4)


def test_known_file(tmp_path, points, opencv_pixels):
    # Blender's default front view: camera at (0, -4, 0) looking along +Y, up +Z.
    matrix = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
    record = {"fl_x": 100, "w": 64, "h": 48, "frames": [{"file_path": "./a.png", "transform_matrix": matrix}]}
    (tmp_path / "transforms.json").write_text(json.dumps(record))
    table = transforms.read_transforms(tmp_path)
    assert table.files == ("a.png",)
    # A point one unit right, half up, at depth 4: u = 32 + 100 / 4 = 57, v = 24 - 50 / 4 = 11.5.
    pixel = opencv_pixels(table.cameras, 0, np.array([[1.0, 0.0, 0.5]]))
    np.testing.assert_allclose(pixel, [[57.0, 11.5]])


@pytest.mark.parametrize("lens", [None, LENS])
def test_round_trip_is_exact(tmp_path, make_table, same_cameras, lens):
    applied = np.array([[0.0, 1, 0, 2], [-1, 0, 0, 0.5], [0, 0, 1, -3], [0, 0, 0, 1]])
    table = replace(
        make_table(lens=lens),
        mask_files=("mask/0.png", None, None, "mask/3.png"),
        depth_files=("depth/0.png",) * 4,
        world_from_source=applied,
        point_file="points.ply",
    )
    transforms.write_transforms(tmp_path / "cameras.json", table)
    back = transforms.read_transforms(tmp_path / "cameras.json")
    same_cameras(back.cameras, table.cameras)
    for name in ("files", "mask_files", "depth_files", "splits", "point_file"):
        assert getattr(back, name) == getattr(table, name)
    np.testing.assert_array_equal(back.world_from_source, applied)
    # Undoing the applied transform: x_source = applied^-1 x, so centres map by it too.
    centers = transforms.source_cameras(back).centers.numpy()
    np.testing.assert_allclose(
        centers @ applied[:3, :3].T + applied[:3, 3], table.cameras.centers.numpy(), atol=1e-5
    )


def test_a_frames_own_intrinsics_win(tmp_path, make_table):
    transforms.write_transforms(tmp_path, make_table(shared=True))
    path = tmp_path / "transforms.json"
    record = json.loads(path.read_text())
    record["frames"][2].update(fl_x=33.0, w=100, k1=0.5)
    path.write_text(json.dumps(record))
    cameras = transforms.read_transforms(path).cameras
    assert cameras.K[:, 0, 0].tolist()[2] == 33
    assert cameras.sizes.tolist() == [[60, 80], [60, 80], [60, 100], [60, 80]]
    assert cameras.distortion is not None
    assert cameras.distortion[:, 0].tolist() == [0, 0, 0.5, 0]


def test_blender_variant(tmp_path, make_table, same_cameras):
    # camera_angle_x of 90 degrees: the focal length is half the width.
    matrix = np.eye(4).tolist()
    frames = [{"file_path": "./train/r_0", "rotation": 0.01, "transform_matrix": matrix}]
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps({"camera_angle_x": math.pi / 2, "frames": frames}))
    table = transforms.read_transforms(path, size=(40, 60))
    assert table.files == ("train/r_0.png",)
    np.testing.assert_allclose(table.cameras.K[0], [[30, 0, 30], [0, 30, 20], [0, 0, 1]])
    # Without a size the image's header gives it.
    (tmp_path / "train").mkdir()
    Image.new("RGBA", (80, 50)).save(tmp_path / "train" / "r_0.png")
    assert transforms.read_transforms(path).cameras.sizes.tolist() == [[50, 80]]
    written = make_table(centered=True)
    transforms.write_blender_transforms(tmp_path / "b.json", written)
    assert json.loads((tmp_path / "b.json").read_text())["frames"][1]["file_path"] == "./images/001"
    back = transforms.read_transforms(tmp_path / "b.json")
    assert back.files == written.files
    same_cameras(back.cameras, written.cameras, atol=1e-5)
    with pytest.raises(InputError, match="centred"):
        transforms.write_blender_transforms(tmp_path / "b.json", make_table())


def test_splits(tmp_path):
    path = transforms.split_path(tmp_path, 2)
    assert path.name == "train_test_split_2.json"
    transforms.write_split(path, [0, 5], [1, 2])
    assert json.loads(path.read_text()) == {"train_ids": [0, 5], "test_ids": [1, 2]}
    assert transforms.read_split(path, num_frames=6) == transforms.Split((0, 5), (1, 2))
    with pytest.raises(InputError, match="below 5"):
        transforms.read_split(path, num_frames=5)
    with pytest.raises(InputError, match="each frame once"):
        transforms.write_split(path, [1, 1], [])


BREAKS = {
    "NaN": (lambda r: r["frames"][1]["transform_matrix"][0].__setitem__(0, math.nan), "NaN"),
    "mirror": (
        lambda r: [row.__setitem__(0, -row[0]) for row in r["frames"][1]["transform_matrix"][:3]],
        "mirrored",
    ),
    "scale": (
        lambda r: [row.__setitem__(0, 2 * row[0]) for row in r["frames"][1]["transform_matrix"][:3]],
        "orthonormal",
    ),
    "no matrix": (lambda r: r["frames"][1].pop("transform_matrix"), "transform_matrix"),
    "short matrix": (lambda r: r["frames"][1].update(transform_matrix=[[1, 2]]), "4x4"),
    "no focal": (lambda r: [r.pop("fl_x"), r["frames"][0].update(fl_x=1.0)], "fl_x"),
    "negative focal": (lambda r: r["frames"][1].update(fl_x=-3.0), "focal > 0"),
    "text focal": (lambda r: r["frames"][1].update(fl_x="wide"), "finite number"),
    "fisheye": (lambda r: r["frames"][1].update(camera_model="OPENCV_FISHEYE"), "one of OPENCV"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_frames_are_named(tmp_path, make_table, kind):
    transforms.write_transforms(tmp_path, make_table(shared=True))
    path = tmp_path / "transforms.json"
    record = json.loads(path.read_text())
    damage, word = BREAKS[kind]
    damage(record)
    path.write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        transforms.read_transforms(path)
    line = str(caught.value)
    assert word in line
    assert "transforms.json: frame 1" in line
    assert "\n" not in line


def test_broken_files_are_named(tmp_path, make_table):
    path = tmp_path / "transforms.json"
    with pytest.raises(InputError, match="no such file"):
        transforms.read_transforms(path)
    for text, word in (("{", "not json"), ("[]", "json object"), ('{"frames": []}', "has no frames")):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            transforms.read_transforms(path)
    path.write_text(json.dumps({"frames": [{"transform_matrix": np.eye(4).tolist()}]}))
    with pytest.raises(InputError, match=r"frame 0.*file_path"):
        transforms.read_transforms(path)
    transforms.write_transforms(path, make_table())
    with pytest.raises(InputError, match=r"frame 0: images/000.png"):
        transforms.read_transforms(path, require_files=True)
