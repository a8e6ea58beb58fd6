"""Cameras made from the cameras of a rig: between them, and round what they look at."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.geometry.rotations import axis_angle_from_matrix, matrix_from_axis_angle
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.types import Cameras

WIDEST_GAP_DEG = 60.0
"""Cameras further apart than this, seen from the point they look at, are no neighbours."""
_CLOSING = 1.5


def neighbours(cameras: Cameras) -> list[tuple[int, int]]:
    """Pairs of cameras next to each other, as a walk through the rig meets them, each camera in at most two.

    The nearest pairs (by the angle at the point all cameras look at) are joined first, never to a loop, until
    every camera is on one path; the path is closed where its ends are about as near as its widest step, as
    on an orbit. Pairs more than WIDEST_GAP_DEG apart are left out, and of cameras in one place all but the
    first. Raises `InputError` where no point is looked at by all.
    """
    point = focus_point(cameras)
    rays = (cameras.centers - point).double()
    rays = rays / torch.linalg.vector_norm(rays, dim=1, keepdim=True).clamp_min(1e-12)
    chosen: list[int] = []
    for index in range(len(cameras)):
        if all(_angle(rays[index], rays[other]) > 1e-3 for other in chosen):
            chosen.append(index)
    pairs = sorted((_angle(rays[a], rays[b]), a, b) for a, b in itertools.combinations(chosen, 2))
    path = {index: [index] for index in chosen}
    widest = 0.0
    for angle, a, b in pairs:
        first, second = path[a], path[b]
        ends = a in (first[0], first[-1]) and b in (second[0], second[-1])
        if first is second or not ends or angle > WIDEST_GAP_DEG:
            continue
        joined = (first if first[-1] == a else first[::-1]) + (second if second[0] == b else second[::-1])
        path |= dict.fromkeys(joined, joined)
        widest = max(widest, angle)
    walks = list({id(walk): walk for walk in path.values()}.values())
    found = [pair for walk in walks for pair in itertools.pairwise(walk)]
    if len(walks) == 1 and len(chosen) > 2:
        first, last = walks[0][0], walks[0][-1]
        if _angle(rays[first], rays[last]) <= min(_CLOSING * widest, WIDEST_GAP_DEG):
            found.append((last, first))
    return found


def cameras_between(cameras: Cameras, count: int) -> Cameras:
    """`count` cameras on the ways between neighbouring cameras, as evenly shared among the gaps as it goes.

    A gap with m new cameras is cut into m + 1 equal turns about the point all cameras look at, so cameras
    between those of an orbit stand on the orbit. Sizes are the first camera's; distortion is dropped. Raises
    `InputError` for a negative count, cameras of several sizes, and where there are no neighbours.
    """
    if count < 1:
        raise InputError("count", count, "expected at least 1")
    pairs = neighbours(cameras)
    if not pairs:
        raise InputError(
            "--interpolate", count, f"no two cameras are within {WIDEST_GAP_DEG:g} degrees of each other"
        )
    if bool((cameras.sizes != cameras.sizes[0]).any()):
        raise InputError("cameras.sizes", cameras.sizes.tolist(), "expected one size for all")
    point = focus_point(cameras).to(cameras.K)
    poses, lenses = [], []
    for place, (a, b) in enumerate(pairs):
        num = (place + 1) * count // len(pairs) - place * count // len(pairs)
        for step in range(1, num + 1):
            part = step / (num + 1)
            poses.append(_turned(cameras[a], cameras[b], part, point))
            lenses.append(torch.lerp(cameras.K[a], cameras.K[b], part))
    return replace(
        cameras[[0] * count], world_from_cam=torch.stack(poses), K=torch.stack(lenses), distortion=None
    )


def turntable_cameras(cameras: Cameras, center: Tensor, num_frames: int = 48) -> Cameras:
    """A full circle about `center` [3] and world +Z, at the mean distance and elevation of `cameras`.

    Starts at the azimuth of the first camera, with its lens and size. Raises `InputError` for fewer than one
    frame.
    """
    offsets = cameras.centers.double() - center.double()
    azimuth, elevation, distance = spherical_angles(offsets)
    mean_elevation = float(elevation.mean().clamp(-80, 80))
    circle = orbit(
        num_frames, mean_elevation, max(float(distance.mean()), 1e-9), start_azimuth_deg=float(azimuth[0])
    )
    count = len(circle)
    moved = circle.world_from_cam.double()
    moved[:, :3, 3] += center.double()
    return Cameras(
        world_from_cam=moved.to(cameras.world_from_cam),
        K=cameras.K[:1].expand(count, 3, 3).clone(),
        sizes=cameras.sizes[:1].expand(count, 2).clone(),
    )


def _angle(first: Tensor, second: Tensor) -> float:
    """Degrees between unit vectors [3]; by the chord, which is accurate for small angles."""
    half = torch.linalg.vector_norm(first - second) / 2
    return float(torch.rad2deg(2 * torch.asin(half.clamp(max=1))))


def _turned(first: Cameras, last: Cameras, part: float, point: Tensor) -> Tensor:
    """[4, 4] `world_from_cam` at `part` of the turn about `point` that takes `first` to `last`."""
    start, end = (camera.world_from_cam[0].double() for camera in (first, last))
    middle = point.double()
    turn = axis_angle_from_matrix(end[:3, :3] @ start[:3, :3].mT)
    forth, back = matrix_from_axis_angle(part * turn), matrix_from_axis_angle((part - 1) * turn)
    # Where the turn does not take one centre to the other exactly, the two answers are blended.
    centre = torch.lerp(forth @ (start[:3, 3] - middle), back @ (end[:3, 3] - middle), part) + middle
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = forth @ start[:3, :3], centre
    return pose.to(first.world_from_cam)
