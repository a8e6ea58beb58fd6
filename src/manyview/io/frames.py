"""What every pose format is read into: file names with cameras in the package's one convention."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyview.errors import InputError
from manyview.types import Cameras

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
"""Turns OpenGL camera axes (x right, y up, z back) into OpenCV's, and back: multiply from the right of a
`world_from_cam`."""

_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """Posed frames of one scene. Paths are as the file gives them, relative to its folder, with `/`."""

    files: tuple[str, ...]
    """One image path a frame."""
    cameras: Cameras
    """As many, OpenCV axes, half-pixel centres."""
    mask_files: tuple[str | None, ...] = ()
    """One mask path a frame (black = ignore), or empty."""
    depth_files: tuple[str | None, ...] = ()
    """One depth path a frame, or empty."""
    splits: tuple[str | None, ...] = ()
    """One split name a frame ("train", "test", ...) where the format has it, or empty."""
    world_from_source: NDArray[np.float64] | None = None
    """[4, 4] what was applied to the source's world to get this one (nerfstudio's `applied_transform`)."""
    point_file: str | None = None
    """Path of a point cloud in the same world (nerfstudio's `ply_file_path`)."""

    def __post_init__(self) -> None:
        count = len(self.files)
        if len(self.cameras) != count:
            raise InputError("cameras", len(self.cameras), f"expected {count}, one a file")
        for name in ("mask_files", "depth_files", "splits"):
            if len(getattr(self, name)) not in (0, count):
                raise InputError(name, len(getattr(self, name)), f"expected {count} or none")

    def __len__(self) -> int:
        return len(self.files)

    def select(self, indices: Sequence[int]) -> FrameTable:
        """The chosen frames in the given order."""

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in indices) if values else ()

        return FrameTable(
            files=pick(self.files),
            cameras=self.cameras[list(indices)],
            mask_files=pick(self.mask_files),
            depth_files=pick(self.depth_files),
            splits=pick(self.splits),
            world_from_source=self.world_from_source,
            point_file=self.point_file,
        )

    def require_files(self, folder: str | os.PathLike[str]) -> None:
        """Raises `InputError` naming the first image, mask or depth file that is not in `folder`."""
        for kind in ("files", "mask_files", "depth_files"):
            for index, name in enumerate(getattr(self, kind)):
                if name is not None and not (Path(folder) / name).is_file():
                    raise InputError(f"{folder}: frame {index}", name, f"expected an existing file ({kind})")


def check_pose(matrix: object, where: str) -> NDArray[np.float64]:
    """[4, 4] a rigid transform from nested lists or an array of 4x4 or 3x4.

    Raises `InputError` naming `where` (file and frame) for other shapes, NaN, scale, shear and mirroring.
    """
    try:
        given = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(where, "matrix is not made of numbers", "expected 4x4 or 3x4 numbers") from None
    if given.shape not in ((4, 4), (3, 4)):
        raise InputError(where, f"matrix of shape {given.shape}", "expected 4x4 or 3x4")
    if not np.isfinite(given).all():
        raise InputError(where, "matrix holds NaN or infinity", "expected finite numbers")
    full = np.eye(4)
    full[: given.shape[0]] = given
    if np.abs(full[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError(where, f"last row {full[3].tolist()}", "expected [0, 0, 0, 1]")
    rotation = full[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _TOLERANCE:
        raise InputError(where, "rotation is not orthonormal", "expected no scale and no shear")
    if np.linalg.det(rotation) < 0:
        raise InputError(where, "rotation is mirrored (determinant -1)", "expected determinant +1")
    return full


def invert_pose(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 4, 4] inverse of rigid transforms."""
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse = np.zeros_like(matrix)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ matrix[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def camera_matrix(fx: float, fy: float, cx: float, cy: float, where: str) -> NDArray[np.float64]:
    """[3, 3] K in pixels. Raises `InputError` naming `where` for NaN or focal lengths <= 0."""
    if not np.isfinite([fx, fy, cx, cy]).all() or min(fx, fy) <= 0:
        raise InputError(where, f"intrinsics {(fx, fy, cx, cy)}", "expected finite numbers and focal > 0")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def stack_cameras(
    world_from_cam: Sequence[NDArray[np.float64]],
    K: Sequence[NDArray[np.float64]],
    sizes: Sequence[tuple[int, int]],
    distortion: Sequence[Sequence[float]] | None = None,
) -> Cameras:
    """float32 `Cameras` of arrays computed in float64; distortion of zeros only becomes None."""
    lens = None
    if distortion is not None and np.any(np.asarray(distortion)):
        lens = torch.tensor(np.asarray(distortion), dtype=torch.float32)
    return Cameras(
        world_from_cam=torch.tensor(np.stack(world_from_cam), dtype=torch.float32),
        K=torch.tensor(np.stack(K), dtype=torch.float32),
        sizes=torch.tensor(sizes, dtype=torch.int64),
        distortion=lens,
    )


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header. Raises `InputError` where there is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(str(path), "no such image", "expected an image, its size is needed") from None
    except (UnidentifiedImageError, OSError):
        raise InputError(str(path), "not an image", "expected png, jpg or webp") from None


def need(record: Mapping[str, Any], key: str, where: str) -> Any:
    """`record[key]`, or `InputError` naming `where` and the key."""
    if not isinstance(record, Mapping) or record.get(key) is None:
        raise InputError(where, f"has no {key!r}", "expected this key")
    return record[key]


def need_number(record: Mapping[str, Any], key: str, where: str) -> float:
    """`record[key]` as a finite float, or `InputError` naming `where` and the key."""
    value = need(record, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(where, f"{key} = {value!r}", "expected a finite number")
    return float(value)
