"""Where cameras stand: on spheres, orbits and yaw sweeps, all in the frame of world up +Z.

Azimuth 0 is on +X and grows counter-clockwise seen from +Z; elevation is the angle above the XY plane:
    position = distance (cos e cos a, cos e sin a, sin e).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.rotations import matrix_from_quaternion, quaternion_from_matrix, slerp
from manyview.types import Cameras


def spherical_position(
    azimuth_deg: Tensor | float, elevation_deg: Tensor | float, distance: Tensor | float
) -> Tensor:
    """[..., 3] positions on spheres about the origin; the arguments broadcast."""
    azimuth, elevation, radius = _as_tensors(azimuth_deg, elevation_deg, distance)
    azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    planar = radius * elevation.cos()
    return torch.stack((planar * azimuth.cos(), planar * azimuth.sin(), radius * elevation.sin()), dim=-1)


def spherical_angles(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuth in [0, 360) and elevation in [-90, 90], in degrees, and distance, of positions [..., 3]."""
    x, y, z = positions.unbind(-1)
    azimuth = torch.rad2deg(torch.atan2(y, x)) % 360
    elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    return azimuth, elevation, torch.linalg.vector_norm(positions, dim=-1)


def spherical_transforms(
    azimuth_deg: Tensor | float, elevation_deg: Tensor | float, distance: Tensor | float
) -> Tensor:
    """[..., 4, 4] `world_from_cam` of cameras on spheres that look at the origin, upright.

    Written in the angles, so it is smooth and keeps the azimuth at elevations of +-90 degrees too.
    """
    azimuth, elevation, radius = _as_tensors(azimuth_deg, elevation_deg, distance)
    position = spherical_position(azimuth, elevation, radius)
    azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    zero = torch.zeros_like(azimuth)
    right = torch.stack((-azimuth.sin(), azimuth.cos(), zero), dim=-1)
    outward = torch.stack(
        (elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()), dim=-1
    )
    down = torch.linalg.cross(-outward, right, dim=-1)
    return _assemble(right, down, -outward, position)


def look_at(positions: Tensor, targets: Tensor | None = None) -> Tensor:
    """[..., 4, 4] `world_from_cam` at `positions` [..., 3] looking at `targets` [..., 3] (default: origin).

    The image's up is world +Z. Looking straight down or up, where that says nothing, the image's right is
    world +Y, as for a camera of azimuth 0 on a sphere.
    Raises `InputError` where position and target coincide.
    """
    targets = torch.zeros_like(positions) if targets is None else targets
    offset = targets.to(positions) - positions
    length = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError("targets", "equals positions", "expected a target away from the camera")
    forward = offset / length
    up = torch.tensor([0.0, 0.0, 1.0], dtype=forward.dtype, device=forward.device).expand_as(forward)
    side = torch.linalg.cross(forward, up, dim=-1)
    width = torch.linalg.vector_norm(side, dim=-1, keepdim=True)
    is_vertical = width < 8 * torch.finfo(forward.dtype).eps
    east = torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype, device=forward.device).expand_as(forward)
    right = torch.where(is_vertical, east, side / torch.where(is_vertical, torch.ones_like(width), width))
    down = torch.linalg.cross(forward, right, dim=-1)
    return _assemble(right, down, forward, positions)


def lens_intrinsics(
    size: int | tuple[int, int], *, focal_mm: float = 35.0, sensor_mm: float = 32.0, num_views: int = 1
) -> tuple[Tensor, Tensor]:
    """K [V, 3, 3] and sizes [V, 2] of a lens, principal point in the middle of the image.

    The sensor's `sensor_mm` covers the longer side (Blender's automatic fit). The defaults give 280 pixels
    of focal length for 256 of width, a field of view of 49.1 degrees.
    """
    height, width = (size, size) if isinstance(size, int) else size
    focal = max(height, width) * focal_mm / sensor_mm
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    sizes = torch.tensor([[height, width]], dtype=torch.int64)
    return K.expand(num_views, 3, 3).clone(), sizes.expand(num_views, 2).clone()


def sphere_cameras(
    azimuth_deg: Sequence[float] | Tensor,
    elevation_deg: Sequence[float] | Tensor | float,
    distance: Sequence[float] | Tensor | float = 1.5,
    *,
    size: int | tuple[int, int] = 256,
    focal_mm: float = 35.0,
    sensor_mm: float = 32.0,
) -> Cameras:
    """Cameras at the given angles looking at the origin; elevation and distance may be one for all."""
    angles = [torch.as_tensor(value, dtype=torch.float64) for value in (azimuth_deg, elevation_deg, distance)]
    azimuth, elevation, radius = torch.broadcast_tensors(torch.atleast_1d(angles[0]), *angles[1:])
    if bool((radius <= 0).any()):
        raise InputError("distance", radius.tolist(), "expected positive distances")
    K, sizes = lens_intrinsics(size, focal_mm=focal_mm, sensor_mm=sensor_mm, num_views=len(azimuth))
    transforms = spherical_transforms(azimuth, elevation, radius).float()
    return Cameras(world_from_cam=transforms, K=K, sizes=sizes)


def orbit(
    num_views: int = 16,
    elevation_deg: float = 30.0,
    distance: float = 1.5,
    *,
    start_azimuth_deg: float = 0.0,
    size: int | tuple[int, int] = 256,
    focal_mm: float = 35.0,
    sensor_mm: float = 32.0,
) -> Cameras:
    """Cameras evenly spaced on a full circle, counter-clockwise, looking at the origin.

    The defaults are the `orbit16` setting: view k at azimuth 22.5 k degrees.
    """
    if num_views < 1:
        raise InputError("num_views", num_views, "expected at least 1")
    azimuth = start_azimuth_deg + 360.0 * torch.arange(num_views, dtype=torch.float64) / num_views
    return sphere_cameras(azimuth, elevation_deg, distance, size=size, focal_mm=focal_mm, sensor_mm=sensor_mm)


def yaw_sweep(
    start_deg: float,
    stop_deg: float,
    num_views: int,
    *,
    center_azimuth_deg: float = 0.0,
    elevation_deg: float = 0.0,
    distance: float = 1.5,
    size: int | tuple[int, int] = 256,
    focal_mm: float = 35.0,
    sensor_mm: float = 32.0,
) -> Cameras:
    """Cameras from yaw `start_deg` to `stop_deg`, both included, about `center_azimuth_deg`.

    Positive yaw moves the camera counter-clockwise seen from +Z, that is to its own right.
    """
    if num_views < 1:
        raise InputError("num_views", num_views, "expected at least 1")
    azimuth = center_azimuth_deg + torch.linspace(start_deg, stop_deg, num_views, dtype=torch.float64)
    return sphere_cameras(azimuth, elevation_deg, distance, size=size, focal_mm=focal_mm, sensor_mm=sensor_mm)


def interpolate_cameras(first: Cameras, last: Cameras, fractions: Tensor) -> Cameras:
    """Cameras at `fractions` [N] of the way between two single cameras: slerp of rotations, lerp of the rest.

    Sizes and distortion are the first camera's.
    """
    if len(first) != 1 or len(last) != 1:
        raise InputError("first, last", (len(first), len(last)), "expected one camera each")
    part = fractions.to(first.K)
    ends = [quaternion_from_matrix(camera.world_from_cam[:, :3, :3]) for camera in (first, last)]
    rotation = matrix_from_quaternion(slerp(ends[0], ends[1], part))
    centers = torch.lerp(first.centers, last.centers, part[:, None])
    right, down, forward = rotation.unbind(-1)
    count = len(part)
    return Cameras(
        world_from_cam=_assemble(right, down, forward, centers),
        K=torch.lerp(first.K, last.K, part[:, None, None]),
        sizes=first.sizes.expand(count, 2).clone(),
        distortion=None if first.distortion is None else first.distortion.expand(count, 6).clone(),
    )


def _as_tensors(*values: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    tensors = [value for value in values if isinstance(value, Tensor)]
    like = tensors[0] if tensors else torch.zeros(())
    first, second, third = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values)
    broadcast = torch.broadcast_tensors(first, second, third)
    return broadcast[0], broadcast[1], broadcast[2]


def _assemble(right: Tensor, down: Tensor, forward: Tensor, position: Tensor) -> Tensor:
    top = torch.stack(torch.broadcast_tensors(right, down, forward, position), dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
    return torch.cat((top, bottom.expand(*top.shape[:-2], 1, 4)), dim=-2)
