"""transforms.json: nerfstudio's camera file (this package's own scene file) and the Blender NeRF variant.

nerfstudio: camera-to-world matrices with OpenGL camera axes (x right, y up, z back), world up +Z, intrinsics
`fl_x fl_y cx cy w h` in pixels with half-pixel centres, lens `k1 k2 k3 k4 p1 p2`; any of these may be given
once at the top or in a frame, which then wins. `applied_transform` (3x4) is what was already applied to the
source's world; the matrices are used as they stand and it is only kept (see `source_cameras` to undo it).
Blender NeRF: `camera_angle_x` (horizontal field of view, radians) and file paths without extension.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.frames import (
    FLIP_YZ,
    FrameTable,
    camera_matrix,
    check_pose,
    image_size,
    invert_pose,
    need,
    need_number,
    stack_cameras,
)
from manyview.types import Cameras

CAMERA_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_LENS_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class Split:
    """Which frames are given and which are asked for, by index."""

    train_ids: tuple[int, ...]
    test_ids: tuple[int, ...]


def read_transforms(
    path: str | os.PathLike[str], *, size: tuple[int, int] | None = None, require_files: bool = False
) -> FrameTable:
    """Frames of a transforms.json (or of the folder that holds one), either variant.

    `size` (height, width) is used where the file has no `w` and `h`; without it the image's header is read.
    A `file_path` without extension (the Blender variant) gets `.png`. `require_files` checks that every named
    file exists. Raises `InputError` naming file and frame for missing keys, an unknown `camera_model`, no
    frames, and matrices with NaN, scale or mirroring.
    """
    path = Path(path)
    path = path / "transforms.json" if path.is_dir() else path
    top = _read_json(path)
    frames = top.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(str(path), "has no frames", "expected a non-empty list 'frames'")
    files, poses, matrices, sizes, lenses = [], [], [], [], []
    masks: list[str | None] = []
    depths: list[str | None] = []
    for index, frame in enumerate(frames):
        where = f"{path}: frame {index}"
        name = str(need(frame, "file_path", where))
        name = name.removeprefix("./")
        where = f"{where} ({name})"
        name = name if Path(name).suffix else name + ".png"
        merged = {**top, **frame}
        height, width = _frame_size(merged, path.parent / name, size, where)
        poses.append(check_pose(need(frame, "transform_matrix", where), where) @ FLIP_YZ)
        matrices.append(_frame_intrinsics(merged, height, width, where))
        lenses.append(_frame_lens(merged, where))
        sizes.append((height, width))
        files.append(name)
        masks.append(frame.get("mask_path"))
        depths.append(frame.get("depth_file_path"))
    applied = top.get("applied_transform")
    table = FrameTable(
        files=tuple(files),
        cameras=stack_cameras(poses, matrices, sizes, lenses),
        mask_files=tuple(masks) if any(masks) else (),
        depth_files=tuple(depths) if any(depths) else (),
        world_from_source=None if applied is None else check_pose(applied, f"{path}: applied_transform"),
        point_file=top.get("ply_file_path"),
    )
    if require_files:
        table.require_files(path.parent)
    return table


def write_transforms(path: str | os.PathLike[str], table: FrameTable) -> None:
    """Write a nerfstudio transforms.json (atomically); intrinsics shared by all frames go to the top.

    `path` is the file, or an existing folder to hold `transforms.json`. Numbers are written in full, so that
    reading them back gives equal float32 cameras. Splits go to their own file, see `write_split`.
    """
    cameras = table.cameras
    rows = [_intrinsics_record(cameras, index) for index in range(len(table))]
    shared = {key: value for key, value in rows[0].items() if all(row[key] == value for row in rows)}
    poses = cameras.world_from_cam.double().cpu().numpy() @ FLIP_YZ
    top: dict[str, Any] = {"camera_model": "PINHOLE" if cameras.distortion is None else "OPENCV", **shared}
    if table.world_from_source is not None:
        top["applied_transform"] = table.world_from_source[:3].tolist()
    if table.point_file is not None:
        top["ply_file_path"] = table.point_file
    frames = []
    for index, name in enumerate(table.files):
        frame: dict[str, Any] = {"file_path": name}
        for key, names in (("mask_path", table.mask_files), ("depth_file_path", table.depth_files)):
            if names and names[index] is not None:
                frame[key] = names[index]
        frame.update((key, value) for key, value in rows[index].items() if key not in shared)
        # Adding 0.0 turns the flip's negative zeros into plain ones.
        frame["transform_matrix"] = (poses[index] + 0.0).tolist()
        frames.append(frame)
    path = Path(path)
    path = path / "transforms.json" if path.is_dir() else path
    write_text_atomic(path, json.dumps({**top, "frames": frames}, indent=1, allow_nan=False) + "\n")


def write_blender_transforms(path: str | os.PathLike[str], table: FrameTable) -> None:
    """Write the Blender NeRF variant (atomically): `camera_angle_x` and names without extension.

    Raises `InputError` where the cameras do not fit it: one square-pixel lens for all, centred, undistorted,
    and png images.
    """
    cameras = table.cameras
    if cameras.distortion is not None:
        raise InputError("cameras.distortion", "is set", "the Blender variant has none: undistort first")
    reference = _intrinsics_record(cameras, 0)
    for index in range(len(table)):
        record = _intrinsics_record(cameras, index)
        centered = (record["w"] / 2, record["h"] / 2)
        if (
            record != reference
            or not math.isclose(record["fl_x"], record["fl_y"], rel_tol=1e-6)
            or not np.allclose((record["cx"], record["cy"]), centered, atol=1e-3)
        ):
            raise InputError(
                f"cameras[{index}]", record, "expected one centred lens with square pixels for all frames"
            )
        if Path(table.files[index]).suffix != ".png":
            raise InputError(f"files[{index}]", table.files[index], "the Blender variant takes .png")
    poses = cameras.world_from_cam.double().cpu().numpy() @ FLIP_YZ
    frames = [
        {"file_path": f"./{Path(name).with_suffix('').as_posix()}", "transform_matrix": (pose + 0.0).tolist()}
        for name, pose in zip(table.files, poses, strict=True)
    ]
    angle = 2 * math.atan(reference["w"] / (2 * reference["fl_x"]))
    top = {"camera_angle_x": angle, "w": reference["w"], "h": reference["h"], "frames": frames}
    write_text_atomic(path, json.dumps(top, indent=1, allow_nan=False) + "\n")


def source_cameras(table: FrameTable) -> Cameras:
    """The cameras in the world they had before `applied_transform` (COLMAP's, say)."""
    if table.world_from_source is None:
        return table.cameras
    back = invert_pose(table.world_from_source)
    poses = back @ table.cameras.world_from_cam.double().cpu().numpy()
    like = table.cameras.world_from_cam
    return Cameras(
        world_from_cam=like.new_tensor(poses),
        K=table.cameras.K,
        sizes=table.cameras.sizes,
        distortion=table.cameras.distortion,
    )


def split_path(folder: str | os.PathLike[str], num_train: int) -> Path:
    """`train_test_split_<num_train>.json` in a scene folder."""
    return Path(folder) / f"train_test_split_{num_train}.json"


def read_split(path: str | os.PathLike[str], num_frames: int | None = None) -> Split:
    """The split in a train_test_split_<n>.json; ids are checked against `num_frames` where given."""
    path = Path(path)
    record = _read_json(path)
    parts = []
    for key in ("train_ids", "test_ids"):
        ids = need(record, key, str(path))
        parts.append(_check_ids(ids, num_frames, f"{path}: {key}"))
    return Split(parts[0], parts[1])


def write_split(path: str | os.PathLike[str], train_ids: Sequence[int], test_ids: Sequence[int]) -> None:
    """Write a train_test_split_<n>.json (atomically)."""
    record = {
        "train_ids": list(_check_ids(list(train_ids), None, "train_ids")),
        "test_ids": list(_check_ids(list(test_ids), None, "test_ids")),
    }
    write_text_atomic(path, json.dumps(record) + "\n")


def _check_ids(ids: object, num_frames: int | None, where: str) -> tuple[int, ...]:
    limit = math.inf if num_frames is None else num_frames
    if not isinstance(ids, list):
        raise InputError(where, repr(ids), "expected a list of frame indices")
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
            raise InputError(where, repr(value), f"expected frame indices from 0 to below {limit}")
    if len(set(ids)) != len(ids):
        raise InputError(where, repr(ids), "expected each frame once")
    return tuple(ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(str(path), "no such file", "expected a json file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"not json ({error})", "expected a json object") from None
    if not isinstance(record, dict):
        raise InputError(str(path), type(record).__name__, "expected a json object")
    return record


def _frame_size(
    record: Mapping[str, Any], image: Path, size: tuple[int, int] | None, where: str
) -> tuple[int, int]:
    if "w" in record or "h" in record:
        height, width = need_number(record, "h", where), need_number(record, "w", where)
        if height < 1 or width < 1 or height != int(height) or width != int(width):
            raise InputError(where, f"size {height} x {width}", "expected whole numbers of pixels")
        return int(height), int(width)
    return image_size(image) if size is None else size


def _frame_intrinsics(record: Mapping[str, Any], height: int, width: int, where: str) -> Any:
    if "fl_x" in record:
        fx = need_number(record, "fl_x", where)
    elif "camera_angle_x" in record:
        fx = 0.5 * width / math.tan(0.5 * need_number(record, "camera_angle_x", where))
    else:
        raise InputError(where, "has no focal length", "expected 'fl_x' or 'camera_angle_x'")
    if "fl_y" in record:
        fy = need_number(record, "fl_y", where)
    elif "camera_angle_y" in record:
        fy = 0.5 * height / math.tan(0.5 * need_number(record, "camera_angle_y", where))
    else:
        fy = fx
    cx = need_number(record, "cx", where) if "cx" in record else width / 2
    cy = need_number(record, "cy", where) if "cy" in record else height / 2
    return camera_matrix(fx, fy, cx, cy, where)


def _frame_lens(record: Mapping[str, Any], where: str) -> list[float]:
    model = record.get("camera_model", "OPENCV")
    if model not in CAMERA_MODELS:
        raise InputError(where, f"camera_model {model!r}", f"expected one of {', '.join(CAMERA_MODELS)}")
    return [need_number(record, key, where) if key in record else 0.0 for key in _LENS_KEYS]


def _intrinsics_record(cameras: Cameras, index: int) -> dict[str, Any]:
    K = cameras.K[index].tolist()
    height, width = cameras.sizes[index].tolist()
    record = {
        "w": width,
        "h": height,
        "fl_x": K[0][0],
        "fl_y": K[1][1],
        "cx": K[0][2],
        "cy": K[1][2],
    }
    if K[0][1] != 0:
        raise InputError(f"cameras.K[{index}]", f"skew {K[0][1]}", "transforms.json has no skew")
    if cameras.distortion is not None:
        record.update(zip(_LENS_KEYS, cameras.distortion[index].tolist(), strict=True))
    return record
