"""Rays through voxels with gradients: compiled on a CPU, torch elsewhere; rules in kernel_marching.py.

Both functions give [N, NUM_OUTPUTS]: colour and other features (8), opacity, distance (times opacity), normal
(times opacity), all in grid coordinates. The gradient reaches the voxels; with the compiled form rays are
constants.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manyview.errors import InputError
from manyview.lift.field import kernel_marching as kernels
from manyview.lift.field.lookup import blend_grid, blend_rows, blend_slope

Backend = Literal["auto", "cpu", "torch"]
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class GridRays:
    """N rays in grid coordinates."""

    origins: Tensor
    """[N, 3]"""
    directions: Tensor
    """[N, 3] unit."""
    jitter: Tensor
    """[N] in [0, 1): the first sample's place within its step."""
    near: Tensor
    """[N] no sample comes before this distance (in voxels)."""

    def arrays(self) -> tuple[np.ndarray, ...]:
        """As the compiled code takes them."""
        return tuple(_array(x) for x in (self.origins, self.directions, self.jitter, self.near))


@dataclass(frozen=True, kw_only=True, eq=False)
class Voxels:
    """What a ray marches through."""

    geometry: Tensor
    """[X, Y, Z] raw density (before the softplus) or distance in voxels (outside positive)."""
    index: Tensor
    """int32 [X, Y, Z] the row of each node, -1 = none."""
    features: Tensor
    """[M, 8] colour logits (3) and free features (5)."""


def march_density(
    rays: GridRays, voxels: Voxels, skip: Tensor, *, gain: float, step: float, backend: Backend = "auto"
) -> Tensor:
    """[N, NUM_OUTPUTS] rays through raw density.

    Opacity of a step is 1 - exp(-gain softplus(raw)); steps are `step` voxels long. `skip` uint8 [X-1, Y-1,
    Z-1] is 0 in cells to look into, else a number k: all cells less than k away (in the largest coordinate)
    are to be skipped too.
    """
    if _compiled(backend, voxels):
        marched = _DensityMarch.apply(voxels.geometry, voxels.features, voxels.index, rays, skip, gain, step)
        assert isinstance(marched, Tensor), "autograd functions of one output give a tensor"
        return marched
    enter, leave = _clip(rays, voxels.geometry.shape)
    count = int(((leave - enter).clamp_min(0).max() / step).ceil()) + 1 if len(enter) else 1
    at = torch.arange(count, device=enter.device, dtype=enter.dtype)
    t = enter[:, None] + (at + rays.jitter[:, None]) * step
    points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    limits = torch.tensor(skip.shape, device=points.device) - 1
    cells = torch.minimum(points.long().clamp_min(0), limits)
    used = (t < leave[:, None]) & (skip[cells[..., 0], cells[..., 1], cells[..., 2]] == 0)
    where = points[used]
    raw = blend_grid(voxels.geometry, where)
    alpha = _spread(used, 1 - torch.exp(-functional.softplus(raw) * gain))
    return _composite(rays, voxels, alpha, t, used, normals=False)


def march_distance(
    rays: GridRays,
    voxels: Voxels,
    sharpness: Tensor,
    *,
    anneal: float = 1.0,
    step: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """[N, NUM_OUTPUTS] rays through distances, as NeuS (Wang et al. 2021).

    `sharpness` [] is their s, in 1 / voxel; it gets a gradient. `anneal` is 0 to 1: their cosine annealing.
    Steps are `step` voxels near the surface and longer away from it. Normals carry no gradient.
    """
    if _compiled(backend, voxels):
        marched = _DistanceMarch.apply(
            voxels.geometry, voxels.features, sharpness, voxels.index, rays, anneal, step
        )
        assert isinstance(marched, Tensor), "autograd functions of one output give a tensor"
        return marched
    t, length, used = _sections(rays, voxels.geometry, float(sharpness.detach()), step)
    o, d = rays.origins[:, None], rays.directions[:, None]
    ends = torch.stack((t, t + length), dim=-1)[used]
    places = (o + t[..., None] * d)[used], (o + (t + length)[..., None] * d)[used]
    before, after = blend_grid(voxels.geometry, places[0]), blend_grid(voxels.geometry, places[1])
    extent = ends[:, 1] - ends[:, 0]
    cosine = (after - before) / extent
    slope = -((0.5 - 0.5 * cosine).relu() * (1 - anneal) + (-cosine).relu() * anneal)
    middle, reach = (before + after) / 2, slope * extent / 2
    logs = [functional.logsigmoid(sharpness * (middle + side * reach)) for side in (1, -1)]
    alpha = _spread(used, (1 - torch.exp(logs[0] - logs[1])).clamp_min(0))
    return _composite(rays, voxels, alpha, t + length / 2, used, normals=True)


class _DensityMarch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry, features, index, rays, skip, gain, step):
        o, d, jitter, near = rays.arrays()
        given = (_array(geometry), _array(index), _array(features), _array(skip))
        settings = (np.float32(gain), np.float32(step), near)
        out, num = _outputs(len(o))
        run_blocks(
            len(o), lambda a, b: kernels.march_density(a, b, o, d, jitter, *given, *settings, out, num)
        )
        ctx.kept = (o, d, jitter, *given, *settings, out)
        ctx.num = num
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        first, total = _offsets(ctx.num)
        places, slopes = np.zeros((total, 3), np.float32), np.zeros(total, np.float32)
        feature_slopes = np.zeros((total, kernels.NUM_FEATURES), np.float32)
        kept, g_array = ctx.kept, _array(g)
        run_blocks(
            len(ctx.num),
            lambda a, b: kernels.record_density(a, b, *kept, g_array, first, places, slopes, feature_slopes),
        )
        grid, index, features = kept[3:6]
        return (*_scattered(grid, index, features, (places, slopes), (places, feature_slopes)), *[None] * 5)


class _DistanceMarch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry, features, sharpness, index, rays, anneal, step):
        o, d, jitter, near = rays.arrays()
        given = (_array(geometry), _array(index), _array(features))
        settings = (np.float32(float(sharpness.detach())), np.float32(anneal), np.float32(step), near)
        out, num = _outputs(len(o))
        run_blocks(
            len(o), lambda a, b: kernels.march_distance(a, b, o, d, jitter, *given, *settings, out, num)
        )
        ctx.kept = (o, d, jitter, *given, *settings, out)
        ctx.num = num
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        first, total = _offsets(ctx.num)
        places, slopes = np.zeros((2 * total, 3), np.float32), np.zeros(2 * total, np.float32)
        feature_places = np.zeros((total, 3), np.float32)
        feature_slopes = np.zeros((total, kernels.NUM_FEATURES), np.float32)
        sharper = np.zeros(len(ctx.num), np.float32)
        kept, g_array = ctx.kept, _array(g)
        run_blocks(
            len(ctx.num),
            lambda a, b: kernels.record_distance(
                a, b, *kept, g_array, first, places, slopes, feature_places, feature_slopes, sharper
            ),
        )
        grid, index, features = kept[3:6]
        found = _scattered(grid, index, features, (places, slopes), (feature_places, feature_slopes))
        return (*found, torch.tensor(float(sharper.sum(dtype=np.float64))), *[None] * 4)


def num_workers() -> int:
    """Threads to use: torch's setting, at most the cores there are."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


def run_blocks(count: int, work: Callable[[int, int], None], block: int = _BLOCK) -> None:
    """`work(start, stop)` over blocks of `count` items, on as many threads as torch uses.

    The work has to release Python's lock and to write to its own items only.
    """
    starts = range(0, count, block)
    workers = min(num_workers(), len(starts))
    if workers <= 1:
        if count > 0:
            work(0, count)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda start: work(start, min(start + block, count)), starts))


def run_workers(work: Callable[[int, int], None]) -> None:
    """`work(worker, workers)` once for each thread."""
    workers = num_workers()
    if workers == 1:
        work(0, 1)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda worker: work(worker, workers), range(workers)))


def _scattered(
    grid: np.ndarray,
    index: np.ndarray,
    features: np.ndarray,
    geometry_records: tuple[np.ndarray, np.ndarray],
    feature_records: tuple[np.ndarray, np.ndarray],
) -> tuple[Tensor, Tensor]:
    d_grid, d_features = np.zeros_like(grid), np.zeros_like(features)

    def add(worker: int, workers: int) -> None:
        kernels.scatter_geometry(worker, workers, *geometry_records, d_grid)
        kernels.scatter_features(worker, workers, *feature_records, index, d_features)

    run_workers(add)
    return torch.from_numpy(d_grid), torch.from_numpy(d_features)


def _composite(
    rays: GridRays, voxels: Voxels, alpha: Tensor, t: Tensor, used: Tensor, *, normals: bool
) -> Tensor:
    """Sums over [N, S] samples at distances t; `used` says which of them have been looked at."""
    alpha = torch.where(
        alpha > kernels.MIN_ALPHA, alpha.clamp_max(kernels.MAX_ALPHA), torch.zeros_like(alpha)
    )
    left = torch.cumprod(torch.cat((torch.ones_like(alpha[:, :1]), 1 - alpha), dim=1), dim=1)[:, :-1]
    weights = torch.where(left > kernels.MIN_TRANSMITTANCE, left * alpha, torch.zeros_like(alpha))
    used = used & (weights > 0)
    points = (rays.origins[:, None] + t[..., None] * rays.directions[:, None])[used]
    raw = blend_rows(voxels.index, voxels.features, points)
    values = torch.cat((raw[:, : kernels.NUM_COLORS].sigmoid(), raw[:, kernels.NUM_COLORS :]), dim=1)
    slopes = torch.zeros_like(points)
    if normals:
        slopes = functional.normalize(blend_slope(voxels.geometry, points), dim=1, eps=1e-6)
    columns = torch.cat((values, torch.ones_like(values[:, :1]), t[used][:, None], slopes), dim=1)
    ray = used.nonzero()[:, 0]
    total = columns.new_zeros(len(alpha), kernels.NUM_OUTPUTS)
    return total.index_add(0, ray, columns * weights[used][:, None])


def _sections(rays: GridRays, grid: Tensor, sharpness: float, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """Start and length [N, S] of the sections that march_distance walks, and which of them exist."""
    enter, leave = _clip(rays, grid.shape)
    band = max(2.0, kernels.SHARP_BAND / sharpness)
    t = enter + rays.jitter * step
    starts, lengths, exist = [], [], []
    with torch.no_grad():
        while bool((t < leave).any()):
            points = rays.origins + t[:, None] * rays.directions
            length = ((blend_grid(grid, points) - band) * kernels.LEAP).clamp_min(step)
            starts.append(t)
            lengths.append(length)
            exist.append(t < leave)
            t = t + length
    if not starts:
        empty = t[:, None][:, :0]
        return empty, empty, empty.bool()
    return torch.stack(starts, 1), torch.stack(lengths, 1), torch.stack(exist, 1)


def _clip(rays: GridRays, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """[N], [N] distances at which rays enter and leave the nodes' box; leave < enter where they miss."""
    o, d = rays.origins, rays.directions
    high = torch.tensor([size - 1 for size in shape], dtype=o.dtype, device=o.device)
    parallel = d.abs() < 1e-9
    inverse = 1 / torch.where(parallel, torch.ones_like(d), d)
    a, b = -o * inverse, (high - o) * inverse
    infinite = torch.full_like(a, float("inf"))
    low, top = torch.minimum(a, b), torch.maximum(a, b)
    low, top = torch.where(parallel, -infinite, low), torch.where(parallel, infinite, top)
    top = torch.where(parallel & ((o < 0) | (o > high)), -infinite, top)
    return torch.maximum(low.amax(dim=1), rays.near), top.amin(dim=1)


def _spread(used: Tensor, values: Tensor) -> Tensor:
    """[N, S] zeros with `values` where `used`."""
    return torch.zeros(used.shape, dtype=values.dtype, device=values.device).masked_scatter(used, values)


def _compiled(backend: Backend, voxels: Voxels) -> bool:
    if backend not in ("auto", "cpu", "torch"):
        raise InputError("backend", backend, "expected auto, cpu or torch")
    fits = voxels.geometry.device.type == "cpu" and voxels.geometry.dtype == torch.float32
    if backend == "cpu" and not fits:
        raise InputError("backend", backend, "expected float32 voxels on the CPU; use auto or torch")
    return fits and backend != "torch"


def _outputs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, kernels.NUM_OUTPUTS), np.float32), np.zeros(count, np.int64)


def _offsets(num: np.ndarray) -> tuple[np.ndarray, int]:
    first = np.zeros(len(num) + 1, np.int64)
    np.cumsum(num, out=first[1:])
    return first, int(first[-1])


def _array(value: Tensor) -> np.ndarray:
    return value.detach().contiguous().numpy()
