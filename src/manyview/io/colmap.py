"""COLMAP sparse models: cameras, images and points3D, text and binary.

COLMAP's cameras are OpenCV's (x right, y down, z forward), its pixel frame has centres at +0.5 as ours, its
quaternions are (w, x, y, z) and its poses `cam_from_world`. Its world has no preferred up axis and no scale.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.io.frames import FrameTable, camera_matrix, check_pose, invert_pose, stack_cameras

# Model: (COLMAP's id, number of parameters).
_MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
}
_NAMES = {model_id: name for name, (model_id, _) in _MODELS.items()}


@dataclass(frozen=True)
class PointCloud:
    """Sparse points of a reconstruction."""

    positions: NDArray[np.float64]
    """[N, 3] in the world."""
    colors: NDArray[np.uint8]
    """[N, 3] RGB."""
    errors: NDArray[np.float64]
    """[N] mean reprojection error in pixels."""


@dataclass(frozen=True)
class Reconstruction:
    """A sparse model: registered images in the order of their names, and points."""

    table: FrameTable
    points: PointCloud


@dataclass(frozen=True)
class _Lens:
    K: NDArray[np.float64]
    size: tuple[int, int]
    distortion: tuple[float, ...]


def find_sparse(folder: str | os.PathLike[str]) -> Path:
    """The folder with cameras and images: `folder`, `folder/sparse/0` or `folder/sparse`, the first found.

    Further models (`sparse/1` ...) are COLMAP's disconnected parts and never mixed in.
    """
    root = Path(folder)
    for candidate in (root, root / "sparse" / "0", root / "sparse"):
        if _suffix(candidate) is not None:
            return candidate
    raise InputError(str(root), "no COLMAP model", "expected cameras and images (.bin or .txt), or sparse/0")


def read_colmap(folder: str | os.PathLike[str]) -> Reconstruction:
    """The model in `folder` (see `find_sparse`), binary where both kinds are there.

    Raises `InputError` for camera models other than SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL and
    OPENCV, truncated files, and images whose camera is missing. points3D may be missing.
    """
    root = find_sparse(folder)
    suffix = _suffix(root)
    is_binary = suffix == ".bin"
    try:
        lenses = dict((_binary_cameras if is_binary else _text_cameras)(root / f"cameras{suffix}"))
        images = list((_binary_images if is_binary else _text_images)(root / f"images{suffix}"))
        points = (_binary_points if is_binary else _text_points)(root / f"points3D{suffix}")
    except (struct.error, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            str(root), f"broken model ({error})", "expected COLMAP's cameras and images"
        ) from None
    if not images:
        raise InputError(str(root), "no registered images", "expected at least one")
    images.sort(key=lambda image: image[0])
    poses = []
    for name, quaternion, translation, camera_id in images:
        where = f"{root}: image {name}"
        if camera_id not in lenses:
            raise InputError(where, f"camera {camera_id}", f"expected one of {sorted(lenses)}")
        if not np.isfinite(quaternion).all() or np.linalg.norm(quaternion) < 1e-6:
            raise InputError(where, f"quaternion {quaternion.tolist()}", "expected a rotation")
        cam_from_world = np.eye(4)
        cam_from_world[:3, :3] = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
        cam_from_world[:3, 3] = translation
        poses.append(invert_pose(check_pose(cam_from_world, where)))
    chosen = [lenses[image[3]] for image in images]
    cameras = stack_cameras(
        poses,
        [lens.K for lens in chosen],
        [lens.size for lens in chosen],
        [lens.distortion for lens in chosen],
    )
    return Reconstruction(FrameTable(files=tuple(image[0] for image in images), cameras=cameras), points)


def write_colmap(
    folder: str | os.PathLike[str],
    table: FrameTable,
    points: PointCloud | None = None,
    *,
    format: Literal["bin", "txt"] = "bin",
) -> None:
    """Write cameras, images and points3D into `folder` (each file atomically).

    Frames with the same intrinsics share a camera; its model is PINHOLE, or OPENCV with distortion. Points
    carry no tracks. Raises `InputError` for k3 or k4, which COLMAP's models here do not have, and in text for
    names with spaces.
    """
    if points is None:
        points = PointCloud(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8), np.zeros(0))
    keys = [_lens_record(table, index) for index in range(len(table))]
    camera_ids = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    cam_from_world = invert_pose(table.cameras.world_from_cam.double().cpu().numpy())
    quaternions = Rotation.from_matrix(cam_from_world[:, :3, :3]).as_quat(canonical=True, scalar_first=True)
    records = [
        (index + 1, quaternions[index], cam_from_world[index, :3, 3], camera_ids[key], table.files[index])
        for index, key in enumerate(keys)
    ]
    root = Path(folder)
    if format == "txt":
        for name in table.files:
            if name != "".join(name.split()):
                raise InputError("files", name, "COLMAP's text format takes no spaces in names")
        contents = _text_model(camera_ids, records, points)
    elif format == "bin":
        contents = _binary_model(camera_ids, records, points)
    else:
        raise InputError("format", format, "expected 'bin' or 'txt'")
    for name, data in contents.items():
        write_bytes_atomic(root / f"{name}.{format}", data)


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            return suffix
    return None


def _lens(model: str, width: int, height: int, params: list[float], where: str) -> _Lens:
    if model not in _MODELS:
        raise InputError(where, f"camera model {model}", f"expected one of {', '.join(_MODELS)}")
    if len(params) != _MODELS[model][1]:
        raise InputError(where, f"{len(params)} parameters", f"{model} has {_MODELS[model][1]}")
    if model in ("PINHOLE", "OPENCV"):
        fx, fy, cx, cy, *lens = params
    else:
        fx, cx, cy, *lens = params
        fy = fx
    k1, k2, p1, p2 = (*lens, 0.0, 0.0, 0.0, 0.0)[:4]
    return _Lens(camera_matrix(fx, fy, cx, cy, where), (height, width), (k1, k2, 0.0, 0.0, p1, p2))


_ImageRecord = tuple[str, NDArray[np.float64], NDArray[np.float64], int]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> Iterator[tuple[int, _Lens]]:
    for line in _lines(path):
        if fields := line.split():
            camera_id, model, width, height = int(fields[0]), fields[1], int(fields[2]), int(fields[3])
            params = [float(value) for value in fields[4:]]
            yield camera_id, _lens(model, width, height, params, f"{path}: camera {camera_id}")


def _text_images(path: Path) -> Iterator[_ImageRecord]:
    # Two lines an image; the second (its keypoints) may be empty, so empty lines count after the first.
    lines = _lines(path)
    index = 0
    while index < len(lines):
        fields = lines[index].split(maxsplit=9)
        if not fields:
            index += 1
            continue
        numbers = np.array([float(value) for value in fields[1:8]])
        yield fields[9].strip(), numbers[:4], numbers[4:], int(fields[8])
        index += 2


def _text_points(path: Path) -> PointCloud:
    rows = [line.split()[1:8] for line in _lines(path) if line.strip()] if path.is_file() else []
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return PointCloud(table[:, :3], table[:, 3:6].astype(np.uint8), table[:, 6])


class _Reader:
    """Little-endian records out of a file held in memory."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.at = 0

    def take(self, layout: str) -> tuple[int | float, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def integer(self, layout: str) -> int:
        return int(self.take(layout)[0])

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        value = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return value

    def skip(self, count: int) -> None:
        if count < 0 or self.at + count > len(self.data):
            raise ValueError("file ends early")
        self.at += count


def _binary_cameras(path: Path) -> Iterator[tuple[int, _Lens]]:
    reader = _Reader(path)
    for _ in range(reader.integer("Q")):
        camera_id, model_id, width, height = (int(value) for value in reader.take("iiQQ"))
        where = f"{path}: camera {camera_id}"
        if model_id not in _NAMES:
            raise InputError(
                where, f"camera model number {model_id}", f"expected one of {', '.join(_MODELS)}"
            )
        model = _NAMES[model_id]
        params = [float(value) for value in reader.take(f"{_MODELS[model][1]}d")]
        yield camera_id, _lens(model, width, height, params, where)


def _binary_images(path: Path) -> Iterator[_ImageRecord]:
    reader = _Reader(path)
    for _ in range(reader.integer("Q")):
        reader.integer("i")
        numbers = np.array(reader.take("7d"))
        camera_id = reader.integer("i")
        name = reader.text()
        reader.skip(24 * reader.integer("Q"))  # keypoints: two doubles and the point's id
        yield name, numbers[:4], numbers[4:], camera_id


def _binary_points(path: Path) -> PointCloud:
    if not path.is_file():
        return PointCloud(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8), np.zeros(0))
    reader = _Reader(path)
    rows = []
    for _ in range(reader.integer("Q")):
        _, x, y, z, red, green, blue, error = reader.take("Q3d3Bd")
        rows.append((x, y, z, red, green, blue, error))
        reader.skip(8 * reader.integer("Q"))  # track: image id and keypoint index
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return PointCloud(table[:, :3], table[:, 3:6].astype(np.uint8), table[:, 6])


_LensKey = tuple[str, int, int, tuple[float, ...]]


def _lens_record(table: FrameTable, index: int) -> _LensKey:
    cameras = table.cameras
    K = cameras.K[index].tolist()
    height, width = cameras.sizes[index].tolist()
    pinhole = (K[0][0], K[1][1], K[0][2], K[1][2])
    if K[0][1] != 0:
        raise InputError(f"cameras.K[{index}]", f"skew {K[0][1]}", "COLMAP's models have no skew")
    if cameras.distortion is None:
        return "PINHOLE", width, height, pinhole
    k1, k2, k3, k4, p1, p2 = cameras.distortion[index].tolist()
    if k3 != 0 or k4 != 0:
        raise InputError(
            f"cameras.distortion[{index}]", f"k3, k4 = {k3}, {k4}", "COLMAP's OPENCV model has k1 k2 p1 p2"
        )
    return "OPENCV", width, height, (*pinhole, k1, k2, p1, p2)


_WriteRecord = tuple[int, NDArray[np.float64], NDArray[np.float64], int, str]


def _text_model(
    camera_ids: dict[_LensKey, int], images: list[_WriteRecord], points: PointCloud
) -> dict[str, bytes]:
    cameras = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for (model, width, height, params), camera_id in camera_ids.items():
        cameras.append(" ".join(map(str, (camera_id, model, width, height, *params))))
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then a line of POINTS2D[]"]
    for image_id, quaternion, translation, camera_id, name in images:
        numbers = [repr(float(value)) for value in (*quaternion, *translation)]
        lines += [" ".join((str(image_id), *numbers, str(camera_id), name)), ""]
    cloud = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]"]
    for index, position in enumerate(points.positions):
        color = [str(int(value)) for value in points.colors[index]]
        numbers = [repr(float(value)) for value in position]
        cloud.append(" ".join((str(index + 1), *numbers, *color, repr(float(points.errors[index])))))
    named = {"cameras": cameras, "images": lines, "points3D": cloud}
    return {name: ("\n".join(rows) + "\n").encode() for name, rows in named.items()}


def _binary_model(
    camera_ids: dict[_LensKey, int], images: list[_WriteRecord], points: PointCloud
) -> dict[str, bytes]:
    cameras = [struct.pack("<Q", len(camera_ids))]
    for (model, width, height, params), camera_id in camera_ids.items():
        cameras.append(struct.pack("<iiQQ", camera_id, _MODELS[model][0], width, height))
        cameras.append(struct.pack(f"<{len(params)}d", *params))
    records = [struct.pack("<Q", len(images))]
    for image_id, quaternion, translation, camera_id, name in images:
        records.append(struct.pack("<i7di", image_id, *quaternion, *translation, camera_id))
        records.append(name.encode() + b"\0" + struct.pack("<Q", 0))
    cloud = [struct.pack("<Q", len(points.positions))]
    for index, position in enumerate(points.positions):
        color = (int(value) for value in points.colors[index])
        cloud.append(struct.pack("<Q3d3BdQ", index + 1, *position, *color, float(points.errors[index]), 0))
    return {"cameras": b"".join(cameras), "images": b"".join(records), "points3D": b"".join(cloud)}
