"""A first guess at depth and yaw from outlines alone, with which self-teaching starts.

Depth and pose that learn from each other's mistakes alone may start off turned inside out: a hollow object
turning the other way moves nearly as a solid one does. A depth that is round within the outline, and the yaw
under which it fits best, settle that. Both are crude, and training forgets them (train_depth.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.methods.refiner.photometric import colour_mask, reprojection_error
from manyview.methods.refiner.reprojection import back_project, project_points, sampling_grid

CANDIDATES_DEG = tuple(range(-56, 57, 8))
_ENOUGH = 32
"""Pixels a side on which yaws are compared."""
_STRETCH = 0.5
_MISSED = 0.6
"""Error of a pixel of the object that looks outside the other picture."""


class TurningCamera(Protocol):
    """What is asked of `pose.PoseEstimator`."""

    @property
    def pivot(self) -> float:
        """Depth of the point about which objects turn."""
        ...

    def turn(self, yaw_deg: Tensor) -> Tensor:
        """[B, 6] pure turns by yaws."""
        ...

    def transform(self, vector: Tensor) -> Tensor:
        """[B, 4, 4] `source_from_target`."""
        ...

    def K(self, height: int, width: int) -> Tensor:
        """[3, 3] pixels."""
        ...


def round_depth(mask: Tensor, pivot: float, focal: Tensor | float) -> Tensor:
    """[B, 1, H, W] depths as though every outline were inflated: round across, deepest in at the pivot.

    mask [B, 1, H, W], 1 on the object; `focal` in pixels. A pixel at distance d from the outline bulges by
    sqrt(d (2 R - d)), R the largest such distance in its picture: a disc becomes a ball. The pivot's depth
    off the object.
    """
    distance = outline_distance(mask)
    largest = distance.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    bulge = (distance * (2 * largest - distance)).clamp_min(0).sqrt()
    for _ in range(2):
        bulge = F.avg_pool2d(bulge, 3, stride=1, padding=1, count_include_pad=False)
    return pivot - bulge * (pivot / focal) * mask


def inner_mask(mask: Tensor, size: int | None = None) -> Tensor:
    """[B, 1, H, W] a mask without the rim that turning hides: a pixel for every 32 of the picture's side.

    What lies at an outline turns out of sight, and its pixels are mixed with the background; both make every
    turn look wrong, and a larger one more so, so that errors over the whole object are least for turns that
    are too small. On the rest they are least at the true one. An object that has nothing else keeps its rim.
    """
    inside = (mask > 0.5).to(mask.dtype)
    for _ in range(max(1, (size or mask.shape[-1]) // 32)):
        inside = 1 - F.max_pool2d(1 - inside, 3, stride=1, padding=1)
    empty = inside.sum(dim=(1, 2, 3), keepdim=True) == 0
    return torch.where(empty, mask, inside)


def outline_distance(mask: Tensor) -> Tensor:
    """[B, 1, H, W] about how many pixels to the nearest pixel off the object, 0 off it. What reaches the
    picture's side goes on beyond it."""
    inside = (mask > 0.5).to(mask.dtype)
    total = torch.zeros_like(inside)
    cross = inside.new_tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    for number in range(max(mask.shape[-2:])):
        if not bool(inside.any()):
            break
        total = total + inside
        outside = F.pad(1 - inside, (1, 1, 1, 1))
        # Squares and crosses in turn: balls are then octagons.
        grown = F.max_pool2d(outside, 3, stride=1) if number % 2 else F.conv2d(outside, cross).clamp_max(1)
        inside = 1 - grown
    return total


@torch.no_grad()
def coarse_yaw(
    target: Tensor,
    source: Tensor,
    camera: TurningCamera,
    *,
    candidates_deg: Sequence[float] = CANDIDATES_DEG,
) -> Tensor:
    """[B] degrees of yaw between pictures [B, 3, H, W] over white, under which their round depths fit best.

    Each picture is looked up in the other. Of all candidates, evenly spaced, the best, then the best of finer
    steps about it, moved to the bottom of the parabola through it and its neighbours.
    """
    yaws = torch.as_tensor(list(candidates_deg), dtype=torch.float32, device=target.device)
    while min(target.shape[-2:]) >= 2 * _ENOUGH:  # a crude guess needs few pixels
        target, source = F.avg_pool2d(target, 2), F.avg_pool2d(source, 2)
    shapes = [_shape(picture, camera) for picture in (target, source)]

    def errors(yaw: Tensor) -> Tensor:
        """[C, B] of yaws [C, B]."""
        there = _errors(target, source, shapes[0], camera, yaw)
        return there + _errors(source, target, shapes[1], camera, -yaw)

    tried = yaws[:, None].expand(-1, len(target))
    first = tried.gather(0, errors(tried).argmin(dim=0, keepdim=True))
    step = float(yaws[1] - yaws[0]) / 4
    offsets = step * torch.arange(-4, 5, device=yaws.device, dtype=yaws.dtype)
    fine = errors(first + offsets[:, None])
    inner = fine.argmin(dim=0).clamp(1, len(offsets) - 2)
    column = torch.arange(fine.shape[1], device=fine.device)
    low, middle, high = (fine[inner + side, column] for side in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = torch.where(bend > 1e-9, 0.5 * (low - high) / bend.clamp_min(1e-9), 0.0).clamp(-1, 1)
    return first[0] + offsets[inner] + shift * step


def _shape(picture: Tensor, camera: TurningCamera) -> tuple[Tensor, Tensor, Tensor]:
    """A picture's object without its rim [B, 1, H, W], the camera points [B, H, W, 3] of its round depth,
    K."""
    K = camera.K(*picture.shape[-2:]).detach().float()
    mask = colour_mask(picture)
    depth = round_depth(mask, camera.pivot, float(K[0, 0]))
    return inner_mask(mask), back_project(depth, K), K


def _errors(
    target: Tensor,
    source: Tensor,
    shape: tuple[Tensor, Tensor, Tensor],
    camera: TurningCamera,
    yaws: Tensor,
) -> Tensor:
    """[C, B] mean error on the target's object of looking it up in the source, for yaws [C, B].

    Where neighbouring pixels look closer together than `_STRETCH` of a pixel the surface turns out of sight,
    and says nothing.
    """
    mask, points, K = shape
    height, width = target.shape[-2:]
    found = []
    for yaw in yaws:
        pixels, depth = project_points(points, K, camera.transform(camera.turn(yaw)))
        across = (pixels[..., 2:, 0] - pixels[..., :-2, 0]) / 2
        shown = F.pad((across > _STRETCH).to(mask.dtype), (1, 1))[:, None] * mask
        inside = ((pixels >= 0) & (pixels <= pixels.new_tensor([width, height]))).all(dim=-1) & (depth > 0)
        grid = sampling_grid(pixels, height, width)
        looked_up = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
        error = torch.where(inside[:, None], reprojection_error(looked_up, target), _MISSED)
        found.append((error * shown).sum(dim=(1, 2, 3)) / shown.sum(dim=(1, 2, 3)).clamp_min(1))
    return torch.stack(found)
