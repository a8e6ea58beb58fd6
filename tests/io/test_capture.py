"""Captures in every format become one table of frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.capture import open_capture, read_frame
from manyview.io.co3d import Co3dSequence, write_co3d
from manyview.io.colmap import write_colmap
from manyview.io.frames import FrameTable
from manyview.io.images import write_png
from manyview.io.transforms import write_blender_transforms, write_split, write_transforms

COUNT = 4


def table(prefix: str = "images/", **changes) -> FrameTable:
    files = tuple(f"{prefix}{index:03d}.png" for index in range(COUNT))
    return FrameTable(files=files, cameras=orbit(COUNT, 20.0, size=(8, 10)), **changes)


def write_images(folder: Path, files: tuple[str, ...]) -> None:
    for index, name in enumerate(files):
        write_png(folder / name, torch.full((3, 8, 10), index / 10))


def masked(folder: Path, names: tuple[str, ...]) -> None:
    half = torch.zeros(1, 8, 10)
    half[..., 5:] = 1
    for name in names:
        write_png(folder / name, half)


@pytest.fixture(params=["nerfstudio", "blender", "colmap", "co3d"])
def capture(request, tmp_path: Path):
    kind, mask_names = request.param, tuple(f"masks/{index:03d}.png" for index in range(COUNT))
    if kind == "nerfstudio":
        write_transforms(tmp_path, table(mask_files=mask_names))
        place = tmp_path
    elif kind == "blender":
        write_blender_transforms(tmp_path / "transforms_train.json", table().select([0, 1]))
        write_blender_transforms(tmp_path / "transforms_test.json", table().select([2, 3]))
        place = tmp_path
    elif kind == "colmap":
        write_colmap(tmp_path / "sparse" / "0", table(prefix=""))
        mask_names = tuple(f"masks/{index:03d}.png.png" for index in range(COUNT))
        place = tmp_path
    else:
        found = table(prefix="cup/12/images/", mask_files=tuple(f"cup/12/{name}" for name in mask_names))
        write_co3d(
            tmp_path / "cup" / "frame_annotations.jgz", [Co3dSequence("12", found, (0, 1, 2, 3), (1.0,) * 4)]
        )
        place = tmp_path / "cup" / "12"
        place.mkdir(exist_ok=True)
    write_images(place, table().files)
    if kind != "blender":
        masked(place, mask_names)
    return kind, open_capture(place)


def test_every_format_says_the_same(capture):
    kind, found = capture
    expected = table().cameras
    assert len(found) == COUNT
    assert_close(found.cameras.world_from_cam, expected.world_from_cam, atol=1e-5, rtol=0)
    assert_close(found.cameras.K, expected.K, atol=1e-4, rtol=0)
    assert found.names == ("000", "001", "002", "003")
    # The Blender variant says which frames are given.
    given = [True, True, False, False] if kind == "blender" else [True] * 4
    assert found.observed.tolist() == given
    image, mask = read_frame(found, 3)
    assert_close(image, torch.full((3, 8, 10), 76 / 255))  # 0.3 in 8 bits
    if kind == "blender":
        assert mask is None
    else:
        assert mask is not None
        assert mask[0, 0].tolist() == [0.0] * 5 + [1.0] * 5


def test_a_split_and_absent_images(tmp_path: Path):
    write_transforms(tmp_path, table())
    write_images(tmp_path, table().files[:3])
    assert open_capture(tmp_path).observed.tolist() == [True, True, True, False]
    write_split(tmp_path / "train_test_split_2.json", [2, 0], [3])
    found = open_capture(tmp_path, split=2)
    assert found.names == ("000", "002", "003")
    assert found.observed.tolist() == [True, True, False]
    with pytest.raises(InputError, match="no such split"):
        open_capture(tmp_path, split=3)


def test_an_opaque_alpha_is_no_mask(tmp_path: Path):
    write_transforms(tmp_path, table())
    for name in table().files:
        write_png(tmp_path / name, torch.zeros(3, 8, 10), torch.ones(1, 8, 10))
    assert read_frame(open_capture(tmp_path), 0)[1] is None


def test_refusals(tmp_path: Path):
    with pytest.raises(InputError, match=r"INPUT: .*absent: does not exist"):
        open_capture(tmp_path / "absent")
    with pytest.raises(InputError, match="expected a capture with cameras"):
        open_capture(tmp_path)
    write_png(tmp_path / "photo.png", torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="expected a capture with cameras"):
        open_capture(tmp_path / "photo.png")
    write_transforms(tmp_path, table())
    with pytest.raises(InputError, match=r"has no image of its 4 frames, such as .*000\.png"):
        open_capture(tmp_path)
    for name in table().files:
        write_png(tmp_path / name, torch.zeros(3, 9, 10))
    with pytest.raises(InputError, match="10 x 9 pixels, but its camera has 10 x 8"):
        read_frame(open_capture(tmp_path), 0)
    record = json.loads((tmp_path / "transforms.json").read_text())
    record["frames"] = []
    (tmp_path / "transforms.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="has no frames"):
        open_capture(tmp_path)
