from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from manyview.errors import InputError
from manyview.io import co3d


def pytorch3d_pixels(record: dict, world: np.ndarray) -> np.ndarray:
    """Pixels by PyTorch3D's own steps: row vectors, +x left and +y up in view and NDC, then the screen."""
    view = record["viewpoint"]
    height, width = record["image"]["size"]
    x, y, z = (world @ np.array(view["R"]) + np.array(view["T"])).T
    assert (z > 0).all()
    ndc_x = view["focal_length"][0] * x / z + view["principal_point"][0]
    ndc_y = view["focal_length"][1] * y / z + view["principal_point"][1]
    if view["intrinsics_format"] == "ndc_isotropic":
        # The short side spans [-1, 1], the long one [-a, a] with the aspect ratio a.
        limits = np.array([width, height]) / min(width, height)
    else:
        limits = np.ones(2)
    return np.stack(((1 - ndc_x / limits[0]) * width / 2, (1 - ndc_y / limits[1]) * height / 2), axis=1)


@pytest.fixture
def sequence(make_table):
    table = replace(make_table(), splits=("train_known", "test_unseen", None, "train_known"))
    table = replace(table, mask_files=("m0", None, "m2", "m3"), depth_files=("d0", "d1", None, "d3"))
    return co3d.Co3dSequence("12_34_56", table, (1, 2, 5, 9), (1.0, 2.5, 1.0, 0.5))


@pytest.mark.parametrize("format", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_projection_and_round_trip(tmp_path, sequence, points, opencv_pixels, same_cameras, format):
    path = tmp_path / "frame_annotations.jgz"
    co3d.write_co3d(path, [sequence], intrinsics_format=format)
    records = json.loads(gzip.decompress(path.read_bytes()))
    for index, record in enumerate(records):
        expected = opencv_pixels(sequence.table.cameras, index, points)
        np.testing.assert_allclose(pytorch3d_pixels(record, points), expected, atol=1e-4)
    back = co3d.read_co3d(tmp_path)["12_34_56"]
    same_cameras(back.table.cameras, sequence.table.cameras, atol=1e-5)
    assert back.frame_numbers == sequence.frame_numbers
    assert back.depth_scales == sequence.depth_scales
    for name in ("files", "mask_files", "depth_files", "splits"):
        assert getattr(back.table, name) == getattr(sequence.table, name)


def test_known_camera(tmp_path):
    # Identity R and T = (0, 0, 2): the point (-0.5, 0.25, 0) is right of and above the axis (x left, y up).
    # Bounds of 100 x 60, focal (2, 4): u = 50 + 50 * 2 * 0.25 = 75, v = 30 - 30 * 4 * 0.125 = 15.
    view = {"R": np.eye(3).tolist(), "T": [0, 0, 2], "focal_length": [2, 4], "principal_point": [0, 0]}
    view["intrinsics_format"] = "ndc_norm_image_bounds"
    image = {"path": "a.jpg", "size": [60, 100]}
    record = {"sequence_name": "s", "frame_number": 0, "image": image, "viewpoint": view}
    path = tmp_path / "frame_annotations.jgz"
    path.write_bytes(gzip.compress(json.dumps([record]).encode()))
    cameras = co3d.read_co3d(path)["s"].table.cameras
    assert cameras.K[0].tolist() == [[100, 0, 50], [0, 120, 30], [0, 0, 1]]
    cam_from_world = cameras.cam_from_world[0].numpy()
    x, y, z = (cam_from_world @ [-0.5, 0.25, 0, 1])[:3]
    np.testing.assert_allclose((100 * x / z + 50, 120 * y / z + 30), (75, 15))


def test_choosing_sequences_and_ordering_frames(tmp_path, sequence):
    other = replace(sequence, name="other")
    path = tmp_path / "frame_annotations.jgz"
    co3d.write_co3d(path, [sequence, other])
    records = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps(records[::-1]).encode()))
    assert set(co3d.read_co3d(path)) == {"12_34_56", "other"}
    chosen = co3d.read_co3d(path, sequences=["other"])
    assert list(chosen) == ["other"]
    assert chosen["other"].frame_numbers == (1, 2, 5, 9)
    with pytest.raises(InputError, match="nowhere"):
        co3d.read_co3d(path, sequences=["nowhere"])


def test_set_lists(tmp_path, sequence):
    path = tmp_path / "set_lists_fewview_dev.json"
    entries = {
        "train": [["12_34_56", 1, "a"], ["12_34_56", 5, "b"], ["other", 2, "c"]],
        "test": [["12_34_56", 9, "d"]],
    }
    path.write_text(json.dumps(entries))
    marked = co3d.apply_set_list(sequence, co3d.read_set_list(path))
    assert marked.table.splits == ("train", None, "train", "test")
    path.write_text("[1]")
    with pytest.raises(InputError, match="set list"):
        co3d.read_set_list(path)


def test_bad_frames_are_named(tmp_path, sequence):
    path = tmp_path / "frame_annotations.jgz"
    with pytest.raises(InputError, match="no such file"):
        co3d.read_co3d(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="not gzipped json"):
        co3d.read_co3d(path)
    co3d.write_co3d(path, [sequence])
    records = json.loads(gzip.decompress(path.read_bytes()))

    def read_with(**changes):
        broken = [records[0], {**records[1], "viewpoint": {**records[1]["viewpoint"], **changes}}]
        path.write_bytes(gzip.compress(json.dumps(broken).encode()))
        with pytest.raises(InputError, match="12_34_56 frame 2") as caught:
            co3d.read_co3d(path)
        return str(caught.value)

    assert "mirrored" in read_with(R=(-np.array(records[1]["viewpoint"]["R"])).tolist())
    assert "expected one of ndc_norm" in read_with(intrinsics_format="screen")
    assert "'T'" in read_with(T=None)
    assert "NaN" in read_with(T=[float("nan"), 0, 0])
    assert "focal > 0" in read_with(focal_length=[0, 1])
