"""World points to pixels and back.

Shapes: V cameras; `*` any number of dimensions after the camera dimension. A first dimension of 1 broadcasts
against V, so points shared by all cameras are given as `points[None]`.
Depth is the coordinate along the camera's z axis, in world units (not the distance to the centre).
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.distortion import apply_intrinsics, distort, unapply_intrinsics, undistort
from manyview.types import Cameras


def to_homogeneous(points: Tensor) -> Tensor:
    """[..., D+1] with a one appended."""
    return torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)


def from_homogeneous(points: Tensor) -> Tensor:
    """[..., D] divided by the last coordinate of [..., D+1], which is kept away from 0."""
    return points[..., :-1] / _nonzero(points[..., -1:])


def transform_points(new_from_old: Tensor, points: Tensor) -> Tensor:
    """[V, *, 3] the points [V or 1, *, 3] mapped by the affine matrices [V or 1, 4, 4]."""
    flat = points.reshape(points.shape[0], -1, 3)
    moved = flat @ new_from_old[:, :3, :3].mT + new_from_old[:, None, :3, 3]
    return moved.reshape(moved.shape[0], *points.shape[1:])


def project(points_world: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Pixels [V, *, 2] and depth [V, *] of world points [V or 1, *, 3], lens distortion included.

    Points behind a camera have depth <= 0; their pixels are finite but mean nothing.
    """
    _require_last("points_world", points_world, 3)
    points_cam = transform_points(cameras.cam_from_world, points_world)
    shape = points_cam.shape
    depth = points_cam[..., 2]
    ideal = from_homogeneous(points_cam).reshape(shape[0], -1, 2)
    if cameras.distortion is not None:
        ideal = distort(ideal, cameras.distortion[:, None])
    return apply_intrinsics(ideal, cameras.K).reshape(*shape[:-1], 2), depth


def unproject(pixels: Tensor, depth: Tensor, cameras: Cameras) -> Tensor:
    """World points [V, *, 3] seen at `pixels` [V or 1, *, 2] with `depth` [V or 1, *] along z."""
    directions = camera_directions(pixels, cameras)
    return transform_points(cameras.world_from_cam, directions * depth.unsqueeze(-1))


def camera_directions(pixels: Tensor, cameras: Cameras) -> Tensor:
    """[V, *, 3] directions in the camera frame with z = 1, of `pixels` [V or 1, *, 2]."""
    _require_last("pixels", pixels, 2)
    ideal = unapply_intrinsics(pixels.reshape(pixels.shape[0], -1, 2), cameras.K)
    if cameras.distortion is not None:
        ideal = undistort(ideal, cameras.distortion[:, None])
    return to_homogeneous(ideal.reshape(ideal.shape[0], *pixels.shape[1:]))


def projection_matrices(cameras: Cameras) -> Tensor:
    """[V, 3, 4] K [R | t] of pinhole cameras. Raises `InputError` for cameras with distortion."""
    require_pinhole(cameras)
    return cameras.K @ cameras.cam_from_world[:, :3]


def require_pinhole(cameras: Cameras) -> None:
    """Raises `InputError` for cameras whose distortion is not zero."""
    if cameras.distortion is not None and bool((cameras.distortion != 0).any()):
        raise InputError(
            "cameras.distortion", "is not zero", "expected pinhole cameras (see undistort_views)"
        )


def _nonzero(values: Tensor) -> Tensor:
    smallest = torch.finfo(values.dtype).eps
    filled = torch.where(values < 0, -smallest, smallest).to(values.dtype)
    return torch.where(values.abs() < smallest, filled, values)


def _require_last(name: str, value: Tensor, size: int) -> None:
    if value.ndim < 2 or value.shape[-1] != size:
        raise InputError(name, tuple(value.shape), f"expected [V or 1, *, {size}]")
