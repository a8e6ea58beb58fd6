"""Where distillation looks from: a belt of cameras about the object, made from the given cameras alone.

Scored cameras have no part in it: SparseFusion's script distils at the very poses that it scores.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.trajectories import look_at
from manyview.methods.sparsefusion.teacher import object_center
from manyview.sampling.noise import item_generator
from manyview.types import Cameras

JITTER = 0.17
"""Radians that a camera may stand above or below the given ones: SparseFusion's."""
_STREAM = 21
_STEEPEST = math.radians(80)
_LEVEL = 0.15
"""Cameras whose image rows are horizontal up to this sine stand upright in a world of up +Z."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def distillation_cameras(
    given: Cameras,
    count: int,
    *,
    seed: int = 0,
    jitter: float = JITTER,
    size: int | None = None,
) -> Cameras:
    """`count` cameras all round the object that look at its middle, at the given cameras' mean distance.

    Azimuths are evenly spaced from a random start about the up axis (`up_axis`). Elevations run evenly, in an
    order that makes neighbours differ, over the given cameras' range widened by `jitter` radians at both
    ends: one camera gives a circle at its elevation with that jitter, two or more the belt they span. The
    lens shows the object as large as the given cameras do on average, in the middle of a square image of
    `size` pixels (by default the first camera's height). A function of the given cameras and the seed alone.
    Raises `InputError` for a count below 1, a negative jitter, and cameras in the object's middle.
    """
    if count < 1:
        raise InputError("targets", count, "expected at least 1 distillation camera")
    if not 0 <= jitter <= math.pi / 2:
        raise InputError("jitter", jitter, "expected 0 to pi / 2 radians")
    center, up = object_center(given).double(), up_axis(given)
    offsets = given.centers.double() - center
    distances = torch.linalg.vector_norm(offsets, dim=1)
    if float(distances.min()) <= 0:
        raise InputError("cameras", "in the object's middle", "expected cameras around the object")
    heights = torch.asin((offsets @ up / distances).clamp(-1, 1))
    low = max(float(heights.min()) - jitter, -_STEEPEST)
    high = min(float(heights.max()) + jitter, _STEEPEST)
    start = float(torch.rand((), generator=item_generator(seed, count, _STREAM), dtype=torch.float64))
    order = torch.arange(count, dtype=torch.float64)
    azimuth = 2 * math.pi * (order + start) / count
    # Multiples of the golden ratio, ranked: every stretch of the circle has high and low cameras.
    ranks = ((order + start) * _GOLDEN % 1).argsort().argsort().double()
    elevation = low + (high - low) * (ranks + 0.5) / count if high > low else torch.full_like(azimuth, low)
    ahead, aside = _level_axes(offsets, up)
    around = azimuth.cos()[:, None] * ahead + azimuth.sin()[:, None] * aside
    direction = elevation.cos()[:, None] * around + elevation.sin()[:, None] * up
    distance = float(distances.mean())
    transforms = _look_upright(center + distance * direction, center, up)
    side = int(given.sizes[0, 0]) if size is None else size
    return Cameras(
        world_from_cam=transforms.to(given.world_from_cam),
        K=_mean_lens(given, distances, side).to(given.K).expand(count, 3, 3).clone(),
        sizes=torch.tensor([[side, side]]).expand(count, 2).clone(),
    )


def up_axis(cameras: Cameras) -> Tensor:
    """[3] float64 unit, the world's up for these cameras.

    +Z, as everywhere in this package, if the cameras' image rows say so; of cameras that stand tilted in
    their world, the direction most nearly orthogonal to all image rows (a camera on a tripod has level
    rows), or the mean of the image's up where the rows are too much alike to tell.
    """
    axes = cameras.world_from_cam[:, :3, :3].double()
    rows, upward = axes[:, :, 0], -axes[:, :, 1]
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if float((rows @ up).abs().max()) < _LEVEL and float(upward.mean(dim=0)[2]) > 0:
        return up
    spread, directions = torch.linalg.eigh(rows.mT @ rows / len(rows))
    mean_up = F.normalize(upward.mean(dim=0), dim=0)
    # Rows that span a plane have two spreads that count; of one camera, or of a straight track, only one.
    if float(spread[1]) < 0.05:
        return mean_up
    found = directions[:, 0]
    return found if float(found @ mean_up) >= 0 else -found


def _level_axes(offsets: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors across `up`, the first towards the first camera (or anywhere, if it stands above)."""
    for candidate in (*offsets, torch.eye(3, dtype=torch.float64)[0], torch.eye(3, dtype=torch.float64)[1]):
        level = candidate - (candidate @ up) * up
        if float(torch.linalg.vector_norm(level)) > 1e-3 * float(torch.linalg.vector_norm(candidate)):
            ahead = F.normalize(level, dim=0)
            return ahead, torch.linalg.cross(up, ahead)
    raise AssertionError("two different axes cannot both be the up axis")


def _look_upright(positions: Tensor, center: Tensor, up: Tensor) -> Tensor:
    """[N, 4, 4] `world_from_cam` at `positions` looking at `center`, image up towards `up`."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    turn = _rotation_between(up, z)
    turned = look_at((positions - center) @ turn.mT)
    made = turned.clone()
    made[:, :3, :3] = turn.mT @ turned[:, :3, :3]
    made[:, :3, 3] = positions
    return made


def _rotation_between(start: Tensor, end: Tensor) -> Tensor:
    """[3, 3] a rotation that takes unit `start` to unit `end`."""
    cosine = float(start @ end)
    if cosine < -1 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=start.dtype))
    x, y, z = torch.linalg.cross(start, end).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=start.dtype)
    return torch.eye(3, dtype=start.dtype) + cross + cross @ cross / (1 + cosine)


def _mean_lens(given: Cameras, distances: Tensor, side: int) -> Tensor:
    """[3, 3] the square image's lens that shows things at the mean distance as large as the given cameras."""
    lengths = given.sizes.double()
    share = torch.stack(
        [given.K[:, 0, 0].double() / lengths[:, 1], given.K[:, 1, 1].double() / lengths[:, 0]]
    )
    focal = float((share.mean(dim=0) / distances).mean()) * float(distances.mean()) * side
    return torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]], dtype=torch.float64)
