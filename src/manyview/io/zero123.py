"""zero123 / Objaverse renderings: a folder of `000.png` (RGBA) with `000.npy`, a 3x4 `cam_from_world`.

zero123's render script writes Blender's own camera axes (OpenGL: x right, y up, z back), so that is the
default. EscherNet's loader uses the same files without turning the axes, which is harmless there because only
relative poses enter; sets whose script flips to OpenCV axes need `axes="opencv"`.
World up is +Z. The lens is 35 mm on a 32 mm sensor: 560 pixels of focal length at 512 pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.io.frames import (
    FLIP_YZ,
    FrameTable,
    camera_matrix,
    check_pose,
    image_size,
    invert_pose,
    stack_cameras,
)

Axes = Literal["opengl", "opencv"]
_FOCAL_PER_SIZE = 35.0 / 32.0


def read_zero123(
    folder: str | os.PathLike[str],
    *,
    axes: Axes = "opengl",
    size: tuple[int, int] | None = None,
    focal: float | None = None,
) -> FrameTable:
    """Frames of one object, in the order of their numbers. The masks are the images' alpha.

    `size` (height, width) saves reading the image headers; `focal` is in pixels, by default 35/32 of the
    longer side. Raises `InputError` for an npy file without its png and for arrays that are no pose.
    """
    _check_axes(axes)
    root = Path(folder)
    names = sorted(path.stem for path in root.glob("*.npy"))
    if not names:
        raise InputError(str(root), "no .npy files", "expected 000.npy beside 000.png and so on")
    poses, matrices, sizes = [], [], []
    for name in names:
        where = str(root / f"{name}.npy")
        if not (root / f"{name}.png").is_file():
            raise InputError(where, "has no image", f"expected {name}.png beside it")
        try:
            given = np.load(where, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise InputError(where, "not an array", "expected a 3x4 npy file") from None
        world_from_cam = invert_pose(check_pose(given, where))
        poses.append(world_from_cam @ FLIP_YZ if axes == "opengl" else world_from_cam)
        height, width = image_size(root / f"{name}.png") if size is None else size
        focal_px = max(height, width) * _FOCAL_PER_SIZE if focal is None else focal
        matrices.append(camera_matrix(focal_px, focal_px, width / 2, height / 2, where))
        sizes.append((height, width))
    return FrameTable(
        files=tuple(f"{name}.png" for name in names), cameras=stack_cameras(poses, matrices, sizes)
    )


def write_zero123(folder: str | os.PathLike[str], table: FrameTable, *, axes: Axes = "opengl") -> None:
    """Write one 3x4 `cam_from_world` npy (float64) beside each image name; the images are the caller's.

    Intrinsics are not part of the format.
    """
    import io

    _check_axes(axes)
    poses = table.cameras.world_from_cam.double().cpu().numpy()
    cam_from_world = invert_pose(poses @ FLIP_YZ if axes == "opengl" else poses)
    for name, matrix in zip(table.files, cam_from_world, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, matrix[:3])
        write_bytes_atomic((Path(folder) / name).with_suffix(".npy"), buffer.getvalue())


def _check_axes(axes: str) -> None:
    if axes not in ("opengl", "opencv"):
        raise InputError("axes", axes, "expected 'opengl' or 'opencv'")
