"""SyncDreamer's cameras: sixteen fixed views, and the `meta.pkl` of its renderings.

World up +Z, position = distance (cos e cos a, cos e sin a, sin e), cameras look at the origin; poses in the
file are 3x4 `cam_from_world` with OpenCV axes, angles in radians, K for 256 pixels (280 of focal length).
The pickle is read without running any code it may name: only numpy arrays, numbers and lists are built.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyview.errors import InputError
from manyview.io.frames import camera_matrix, check_pose, invert_pose, stack_cameras
from manyview.types import Cameras

NUM_VIEWS = 16


@dataclass(frozen=True)
class SyncDreamerMeta:
    """What `meta.pkl` holds: cameras and the angles they were made from."""

    cameras: Cameras
    azimuths_deg: NDArray[np.float64]
    """[V]"""
    elevations_deg: NDArray[np.float64]
    """[V]"""
    distances: NDArray[np.float64]
    """[V]"""


def syncdreamer_cameras(size: int = 256, *, elevation_deg: float = 30.0, distance: float = 1.5) -> Cameras:
    """The sixteen target views: azimuth 22.5 k, elevation 30, distance 1.5, K 280 at 256 pixels."""
    elevation = math.radians(elevation_deg)
    poses = []
    for index in range(NUM_VIEWS):
        azimuth = 2 * math.pi * index / NUM_VIEWS
        outward = np.array(
            [
                math.cos(elevation) * math.cos(azimuth),
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
            ]
        )
        right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        pose = np.eye(4)
        pose[:3] = np.stack((right, np.cross(-outward, right), -outward, distance * outward), axis=1)
        poses.append(pose)
    focal = size * 35 / 32
    K = camera_matrix(focal, focal, size / 2, size / 2, "size")
    return stack_cameras(poses, [K] * NUM_VIEWS, [(size, size)] * NUM_VIEWS)


def read_syncdreamer_meta(
    path: str | os.PathLike[str], *, size: tuple[int, int] = (256, 256)
) -> SyncDreamerMeta:
    """Cameras of a `meta.pkl` = [K, azimuths, elevations, distances, poses].

    `size` (height, width) is that of the images K is for; resize the cameras where the images differ.
    Raises `InputError` for a file that names anything but numpy arrays, or does not hold these five.
    """
    path = Path(path)
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError:
        raise InputError(str(path), "no such file", "expected meta.pkl") from None
    except pickle.UnpicklingError as error:
        raise InputError(str(path), str(error), "expected numpy arrays, numbers and lists only") from None
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(str(path), f"broken pickle ({error})", "expected meta.pkl") from None
    if not isinstance(content, list | tuple) or len(content) != 5:
        raise InputError(
            str(path), type(content).__name__, "expected [K, azimuths, elevations, distances, poses]"
        )
    try:
        K, azimuths, elevations, distances, poses = (np.asarray(part, dtype=np.float64) for part in content)
    except (TypeError, ValueError):
        raise InputError(str(path), "parts that are no numbers", "expected five arrays") from None
    count = len(azimuths) if azimuths.ndim == 1 else -1
    shapes = (K.shape, azimuths.shape, elevations.shape, distances.shape, poses.shape)
    if shapes != ((3, 3), (count,), (count,), (count,), (count, 3, 4)):
        raise InputError(str(path), f"shapes {shapes}", "expected (3, 3), (V,), (V,), (V,), (V, 3, 4)")
    world_from_cam = [
        invert_pose(check_pose(pose, f"{path}: view {index}")) for index, pose in enumerate(poses)
    ]
    matrix = camera_matrix(K[0, 0], K[1, 1], K[0, 2], K[1, 2], f"{path}: K")
    return SyncDreamerMeta(
        cameras=stack_cameras(world_from_cam, [matrix] * count, [size] * count),
        azimuths_deg=np.rad2deg(azimuths),
        elevations_deg=np.rad2deg(elevations),
        distances=distances,
    )


def _encode_latin1(text: str, encoding: str) -> bytes:
    # What Python 3 writes for bytes in protocol 2; the real codecs.encode would take any codec.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"names encoding {encoding}")
    return text.encode("latin-1")


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    # numpy 1 and 2 write the same functions under different module names.
    array = np.arange(1)
    rebuild = array.__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    from_buffer = array.__reduce_ex__(5)[0]
    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = rebuild  # pyright: ignore[reportArgumentType]
        table[f"{core}.multiarray", "scalar"] = scalar  # pyright: ignore[reportArgumentType]
        table[f"{core}.numeric", "_frombuffer"] = from_buffer  # pyright: ignore[reportArgumentType]
    return table


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can only build numpy arrays, numpy scalars, and Python's plain containers."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _allowed().get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"names {module_name}.{global_name}")
        return found
