"""CO3D (v1 and v2): `<category>/frame_annotations.jgz`, a gzipped json list with PyTorch3D cameras.

PyTorch3D: x_cam = x_world R + T with row vectors, camera axes x left, y up, z forward. In pixels, with the
image spanning [0, W] x [0, H] and s the half size, u = W / 2 - s_x (f_x x / z + p_x) and v likewise:
`ndc_norm_image_bounds` has s = (W / 2, H / 2), `ndc_isotropic` has s = min(W, H) / 2 for both axes.
OpenCV's x and y are the negatives, so in pixels the focal lengths are s f and the principal point is
(W / 2 - s_x p_x, H / 2 - s_y p_y).
The world's up axis differs from sequence to sequence.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.io.frames import FrameTable, camera_matrix, check_pose, invert_pose, need, stack_cameras

IntrinsicsFormat = Literal["ndc_norm_image_bounds", "ndc_isotropic"]
_FORMATS: tuple[str, ...] = ("ndc_norm_image_bounds", "ndc_isotropic")
_FLIP_XY = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Co3dSequence:
    """Frames of one sequence in the order of their numbers. Paths are relative to the data set's root."""

    name: str
    table: FrameTable
    frame_numbers: tuple[int, ...]
    depth_scales: tuple[float, ...]
    """Factor from the stored depth (float16 in 16-bit png) to world units; 1 where not given."""


def read_co3d(
    annotations: str | os.PathLike[str], *, sequences: Collection[str] | None = None
) -> dict[str, Co3dSequence]:
    """Sequences of a `frame_annotations.jgz` (or of the category folder that holds one), by name.

    `sequences` keeps only these. A frame's split is its `meta.frame_type` where present. Raises `InputError`
    naming file, sequence and frame for missing keys, unknown intrinsics formats, broken poses, and names in
    `sequences` that the file has not.
    """
    path = Path(annotations)
    path = path / "frame_annotations.jgz" if path.is_dir() else path
    records = _read_jgz(path)
    if not isinstance(records, list):
        raise InputError(str(path), type(records).__name__, "expected a list of frames")
    grouped: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        name = str(need(record, "sequence_name", str(path)))
        if sequences is None or name in sequences:
            grouped.setdefault(name, []).append(record)
    for name in sequences or ():
        if name not in grouped:
            raise InputError("sequences", name, f"expected a sequence of {path}")
    return {name: _sequence(name, frames, path) for name, frames in grouped.items()}


def write_co3d(
    annotations: str | os.PathLike[str],
    sequences: Collection[Co3dSequence],
    *,
    intrinsics_format: IntrinsicsFormat = "ndc_isotropic",
) -> None:
    """Write the frames of `sequences` as a `frame_annotations.jgz` (atomically): cameras, sizes and paths.

    Raises `InputError` for lens distortion, which the format has not.
    """
    if intrinsics_format not in _FORMATS:
        raise InputError("intrinsics_format", intrinsics_format, f"expected one of {', '.join(_FORMATS)}")
    records = []
    for sequence in sequences:
        cameras = sequence.table.cameras
        if cameras.distortion is not None:
            raise InputError("cameras.distortion", "is set", "CO3D has none: undistort first")
        cam_from_world = invert_pose(cameras.world_from_cam.double().cpu().numpy())
        K = cameras.K.double().cpu().numpy()
        for index, number in enumerate(sequence.frame_numbers):
            height, width = cameras.sizes[index].tolist()
            scale = _ndc_scale(intrinsics_format, height, width)
            middle = np.array([width, height]) / 2
            flipped = _FLIP_XY @ cam_from_world[index, :3, :3]
            record: dict[str, Any] = {
                "sequence_name": sequence.name,
                "frame_number": number,
                "image": {"path": sequence.table.files[index], "size": [height, width]},
                "viewpoint": {
                    "R": flipped.T.tolist(),
                    "T": (_FLIP_XY @ cam_from_world[index, :3, 3]).tolist(),
                    "focal_length": (K[index, [0, 1], [0, 1]] / scale).tolist(),
                    "principal_point": ((middle - K[index, :2, 2]) / scale).tolist(),
                    "intrinsics_format": intrinsics_format,
                },
            }
            masks, depths, splits = (
                getattr(sequence.table, k) for k in ("mask_files", "depth_files", "splits")
            )
            if masks and masks[index] is not None:
                record["mask"] = {"path": masks[index]}
            if depths and depths[index] is not None:
                record["depth"] = {"path": depths[index], "scale_adjustment": sequence.depth_scales[index]}
            if splits and splits[index] is not None:
                record["meta"] = {"frame_type": splits[index]}
            records.append(record)
    data = json.dumps(records, allow_nan=False).encode()
    write_bytes_atomic(annotations, gzip.compress(data, mtime=0))


def read_set_list(path: str | os.PathLike[str]) -> dict[str, tuple[tuple[str, int, str], ...]]:
    """Entries (sequence, frame number, image path) of each subset of a v2 `set_lists/set_lists_*.json`."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            subset: tuple((str(name), int(number), str(file)) for name, number, file in entries)
            for subset, entries in record.items()
        }
    except FileNotFoundError:
        raise InputError(str(path), "no such file", "expected a CO3D set list") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            str(path), f"not a set list ({error})", "expected subset: [[sequence, frame, file]]"
        ) from None


def apply_set_list(
    sequence: Co3dSequence, subsets: dict[str, tuple[tuple[str, int, str], ...]]
) -> Co3dSequence:
    """The sequence with each frame's split set to the subset that lists it (None where none does)."""
    owner = {
        number: subset
        for subset, entries in subsets.items()
        for name, number, _ in entries
        if name == sequence.name
    }
    splits = tuple(owner.get(number) for number in sequence.frame_numbers)
    table = sequence.table
    marked = FrameTable(
        files=table.files,
        cameras=table.cameras,
        mask_files=table.mask_files,
        depth_files=table.depth_files,
        splits=splits,
    )
    return Co3dSequence(sequence.name, marked, sequence.frame_numbers, sequence.depth_scales)


def _sequence(name: str, frames: list[dict[str, Any]], path: Path) -> Co3dSequence:
    frames = sorted(frames, key=lambda frame: int(need(frame, "frame_number", f"{path}: {name}")))
    poses, matrices, sizes, files = [], [], [], []
    masks: list[str | None] = []
    depths: list[str | None] = []
    splits: list[str | None] = []
    scales = []
    for frame in frames:
        where = f"{path}: {name} frame {frame['frame_number']}"
        image = need(frame, "image", where)
        view = need(frame, "viewpoint", where)
        size = [int(value) for value in need(image, "size", where)]
        poses.append(_world_from_cam(view, where))
        matrices.append(_intrinsics(view, size[0], size[1], where))
        sizes.append((size[0], size[1]))
        files.append(str(need(image, "path", where)))
        depth = frame.get("depth") or {}
        masks.append((frame.get("mask") or {}).get("path"))
        depths.append(depth.get("path"))
        scales.append(float(depth.get("scale_adjustment") or 1.0))
        splits.append((frame.get("meta") or {}).get("frame_type"))
    table = FrameTable(
        files=tuple(files),
        cameras=stack_cameras(poses, matrices, sizes),
        mask_files=tuple(masks) if any(masks) else (),
        depth_files=tuple(depths) if any(depths) else (),
        splits=tuple(splits) if any(splits) else (),
    )
    return Co3dSequence(name, table, tuple(int(frame["frame_number"]) for frame in frames), tuple(scales))


def _world_from_cam(view: dict[str, Any], where: str) -> NDArray[np.float64]:
    try:
        R = np.array(need(view, "R", where), dtype=np.float64).reshape(3, 3)
        T = np.array(need(view, "T", where), dtype=np.float64).reshape(3)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(where, "R or T", "expected 3x3 and 3 numbers") from None
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = _FLIP_XY @ R.T
    cam_from_world[:3, 3] = _FLIP_XY @ T
    return invert_pose(check_pose(cam_from_world, where))


def _intrinsics(view: dict[str, Any], height: int, width: int, where: str) -> NDArray[np.float64]:
    scale = _ndc_scale(view.get("intrinsics_format") or "ndc_norm_image_bounds", height, width, where)
    focal = scale * np.array(need(view, "focal_length", where), dtype=np.float64)
    center = np.array([width, height]) / 2 - scale * np.array(need(view, "principal_point", where))
    return camera_matrix(focal[0], focal[1], center[0], center[1], where)


def _ndc_scale(
    intrinsics_format: str, height: int, width: int, where: str = "intrinsics_format"
) -> NDArray[np.float64]:
    half = np.array([width, height], dtype=np.float64) / 2
    if intrinsics_format.lower() == "ndc_norm_image_bounds":
        return half
    if intrinsics_format.lower() == "ndc_isotropic":
        return np.full(2, half.min())
    raise InputError(where, intrinsics_format, f"expected one of {', '.join(_FORMATS)}")


def _read_jgz(path: Path) -> Any:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        raise InputError(str(path), "no such file", "expected frame_annotations.jgz") from None
    except (OSError, EOFError, ValueError) as error:
        raise InputError(str(path), f"not gzipped json ({error})", "expected frame_annotations.jgz") from None
