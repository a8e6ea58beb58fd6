"""A drag baseline: a code is optimised until points of its image have moved where a turn would bring them.

Motion supervision and point tracking in a generator's features (DragGAN; Pan et al. 2023, arXiv 2305.10973,
sections 3.2 and 3.3), with targets from a depth and a motion instead of a user's hand.
Shapes: P points in pixels of the image (u, v), centres at +0.5; L rows of a code, D numbers a row; R x R
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import sample_images
from manyview.methods.refiner.generator import CodeGenerator, require_codes
from manyview.methods.refiner.reprojection import back_project, project_points


@dataclass(frozen=True, kw_only=True)
class DragOptions:
    """How points are dragged. Radii and tolerances are in pixels of the image."""

    feature_resolution: int = 32
    """Which of the generator's features are compared."""
    layers: int = 6
    """Rows of the code that may change: the first ones, which hold the shape."""
    learning_rate: float = 2e-3
    steps: int = 100
    """At most; fewer where all points arrive."""
    supervision_radius: float = 2.0
    """Around a point, what is pulled along with it."""
    tracking_radius: float = 5.0
    """Around its last place, where a point is looked for."""
    tolerance: float = 1.0
    """Points nearer than this to their targets have arrived."""
    stride: float = 1.0
    """How far ahead a point's features are asked to be in one step."""
    mask_weight: float = 0.0
    """Of keeping what lies outside the mask, where one is given."""
    num_points: int = 12


@dataclass(frozen=True)
class DragResult:
    """Where a drag ended."""

    codes: Tensor
    """[1, L, D]"""
    handles: Tensor
    """[P, 2] where the points were last seen"""
    distances: Tensor
    """[P] pixels from there to their targets"""
    steps: int
    """Steps taken"""


def choose_points(mask: Tensor, count: int, *, seed: int) -> Tensor:
    """[count, 2] pixels of a mask [1, H, W], far from each other: each next one is the farthest from those
    before. Raises `InputError` for a mask that is smaller than that."""
    rows, columns = (mask[0] > 0.5).nonzero(as_tuple=True)
    pixels = torch.stack([columns, rows], dim=1) + 0.5
    if len(pixels) < count or count < 1:
        raise InputError("count", count, f"expected 1 to {len(pixels)}, the pixels of the mask")
    start = int(torch.randint(len(pixels), (1,), generator=torch.Generator().manual_seed(seed)))
    chosen = [start]
    gaps = torch.full((len(pixels),), torch.inf, device=pixels.device)
    for _ in range(count - 1):
        gaps = torch.minimum(gaps, torch.linalg.vector_norm(pixels - pixels[chosen[-1]], dim=1))
        chosen.append(int(gaps.argmax()))
    return pixels[chosen]


def moved_points(points: Tensor, depth: Tensor, K: Tensor, source_from_target: Tensor) -> Tensor:
    """[P, 2] where the surface seen at `points` [P, 2] of a view of `depth` [1, H, W] appears after a motion
    [4, 4], for K [3, 3]. A point that comes to lie behind the camera stays where it is."""
    surface = back_project(depth[None], K)
    pixels, there = project_points(surface, K, source_from_target[None])
    held = torch.cat([pixels[0].permute(2, 0, 1), there], dim=0)[None]
    found = sample_images(held, points[None].to(held), mode="nearest")[0]
    return torch.where((found[2] > 1e-3)[:, None], found[:2].T, points.to(held))


def drag(
    generator: CodeGenerator,
    codes: Tensor,
    handles: Tensor,
    targets: Tensor,
    options: DragOptions | None = None,
    *,
    mask: Tensor | None = None,
) -> DragResult:
    """Change one code [1, L, D] until the points `handles` [P, 2] of its image lie at `targets` [P, 2].

    Each step pulls the features around every point a little towards its target, then looks for the points
    again by the features they had at first. `mask` [1, H, W] says what may move. Raises `InputError` for
    codes that are not the generator's and for points that do not pair up.
    """
    options = DragOptions() if options is None else options
    if len(require_codes(codes, generator)) != 1 or handles.shape != targets.shape or handles.shape[-1] != 2:
        shapes = f"{tuple(codes.shape)}, {tuple(handles.shape)}, {tuple(targets.shape)}"
        raise InputError("codes, handles, targets", shapes, "expected one code and as many targets as points")
    start = codes.detach()
    handles, targets = handles.to(start), targets.to(start)
    moving = start[:, : options.layers].clone().requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=options.learning_rate)
    with torch.no_grad():
        first = _features(generator, start, options)
        wanted = sample_images(first, handles[None])[0]  # [C, P]
    near, far = (_disc(radius).to(start) for radius in (options.supervision_radius, options.tracking_radius))
    steps = 0
    while steps < options.steps:
        gaps = targets - handles
        distances = torch.linalg.vector_norm(gaps, dim=1)
        going = distances > options.tolerance
        if not bool(going.any()):
            break
        current = torch.cat([moving, start[:, options.layers :]], dim=1)
        features = _features(generator, current, options)
        ahead = gaps / distances.clamp_min(1e-6)[:, None] * distances.clamp_max(options.stride)[:, None]
        here = handles[going, None] + near
        held = sample_images(features, here[None]).detach()
        pulled = sample_images(features, (here + ahead[going, None])[None])
        loss = (pulled - held).abs().mean()
        if mask is not None and options.mask_weight > 0:
            still = 1 - F.interpolate(mask[None].to(features), features.shape[-2:], mode="area")
            loss = loss + options.mask_weight * ((features - first).abs() * still).mean()
        # Of the code alone: the generator's own weights are to keep no gradients.
        (moving.grad,) = torch.autograd.grad(loss, moving)
        optimiser.step()
        steps += 1
        with torch.no_grad():
            current = torch.cat([moving, start[:, options.layers :]], dim=1)
            handles = _track(
                _features(generator, current, options), wanted, handles, far, generator.resolution
            )
    final = torch.cat([moving.detach(), start[:, options.layers :]], dim=1)
    return DragResult(final, handles, torch.linalg.vector_norm(targets - handles, dim=1), steps)


def drag_to_pose(
    generator: CodeGenerator,
    codes: Tensor,
    depth: Tensor,
    K: Tensor,
    source_from_target: Tensor,
    mask: Tensor,
    options: DragOptions | None = None,
    seed: int = 0,
) -> DragResult:
    """Drag one code [1, L, D] to where a motion [1, 4, 4] of its object would bring it.

    depth, mask [1, 1, H, W] are those of its image, K [3, 3]. Points are taken from the mask, and those that
    would leave the image are left out. Raises `InputError` where none stays inside.
    """
    options = DragOptions() if options is None else options
    points = choose_points(mask[0], options.num_points, seed=seed).to(depth)
    targets = moved_points(points, depth[0], K, source_from_target[0])
    side = generator.resolution
    inside = ((targets > 0) & (targets < side)).all(dim=1)
    if not bool(inside.any()):
        raise InputError("source_from_target", "moves every point out of the image", "expected a smaller one")
    return drag(generator, codes, points[inside], targets[inside], options, mask=mask[0])


def _features(generator: CodeGenerator, codes: Tensor, options: DragOptions) -> Tensor:
    """[1, C, R, R] the features at the size of the image, so that points are in its pixels."""
    _, found = generator.features(codes, options.feature_resolution)
    side = generator.resolution
    return F.interpolate(found, (side, side), mode="bilinear", align_corners=False)


def _disc(radius: float) -> Tensor:
    """[N, 2] whole offsets no longer than a radius."""
    steps = torch.arange(-int(radius), int(radius) + 1, dtype=torch.float32)
    grid = torch.cartesian_prod(steps, steps)
    return grid[torch.linalg.vector_norm(grid, dim=1) <= radius]


def _track(features: Tensor, wanted: Tensor, handles: Tensor, offsets: Tensor, side: int) -> Tensor:
    """[P, 2] the places around `handles` whose features are nearest to `wanted` [C, P]."""
    places = (handles[:, None] + offsets).clamp(0.5, side - 0.5)
    found = sample_images(features, places[None])[0]  # [C, P, N]
    best = (found - wanted[..., None]).abs().sum(dim=0).argmin(dim=1)
    return places[torch.arange(len(places), device=places.device), best]
