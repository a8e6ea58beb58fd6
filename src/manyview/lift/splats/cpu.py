"""The fast renderer for processors: the compiled kernels as one autograd function. float32."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyview.lift.splats import kernel_projection as projecting
from manyview.lift.splats import kernel_raster as blending
from manyview.lift.splats import kernel_tiles as tiling
from manyview.lift.splats.model import Splats
from manyview.lift.splats.projection import Camera, cut_off

# Some of Numba's threading layers stop the process when two threads enter them.
_ONE_AT_A_TIME = threading.Lock()


@dataclass
class _Kept:
    """What the backward pass needs of the forward pass, as arrays."""

    screen: np.ndarray
    seen: np.ndarray
    tile_starts: np.ndarray
    members: np.ndarray
    starts: np.ndarray
    places: np.ndarray
    order: np.ndarray
    parameters: tuple[np.ndarray, ...]
    """means, scales, quaternions, sh, camera"""
    image: np.ndarray


def render_view(
    splats: Splats, camera: Camera, screen_offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One view: [5, H, W] and bool [N] which Gaussians the camera sees. As in reference.py.

    Threads: as many as torch uses. Results do not depend on their number.
    """
    return _Render.apply(
        camera,
        *(splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits, splats.sh),
        *(camera.rows, camera.center, screen_offsets),
    )


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        camera: Camera,
        means: Tensor,
        log_scales: Tensor,
        quaternions: Tensor,
        opacity_logits: Tensor,
        sh: Tensor,
        rows: Tensor,
        center: Tensor,
        screen_offsets: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        opacities = torch.sigmoid(opacity_logits.float())
        offsets = means.new_zeros(0, 2) if screen_offsets is None else screen_offsets
        packed = _pack_camera(camera, rows, center)
        parameters = (
            _array(means),
            _array(log_scales.float().exp()),
            _array(quaternions),
            _array(sh),
            packed,
        )
        cutoffs = _array(cut_off(opacities))
        with _ONE_AT_A_TIME:
            kept = _draw(parameters, (_array(opacities), cutoffs, _array(offsets)), camera.size)
        ctx.kept = kept
        ctx.dtypes = [t.dtype for t in (means, log_scales, quaternions, opacity_logits, sh, rows, center)]
        ctx.shared = screen_offsets is not None
        visible = torch.from_numpy(kept.seen)
        ctx.mark_non_differentiable(visible)
        return torch.from_numpy(kept.image).to(means.dtype), visible

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        d_image = grad_outputs[0]
        with _ONE_AT_A_TIME:
            gradients, d_screen, d_camera = _trace(ctx.kept, _array(d_image))
        d_rows, d_center = d_camera[:12].reshape(3, 4), d_camera[12:]
        values = [torch.from_numpy(value) for value in (*gradients, d_rows, d_center)]
        cast = [value.to(dtype) for value, dtype in zip(values, ctx.dtypes, strict=True)]
        return (None, *cast, torch.from_numpy(d_screen) if ctx.shared else None)


def _draw(parameters: tuple[np.ndarray, ...], rest: tuple[np.ndarray, ...], size: tuple[int, int]) -> _Kept:
    means, scales, quaternions, sh, camera = parameters
    opacities, cutoffs, offsets = rest
    workers = _set_threads()
    screen = np.empty((len(means), projecting.NUM_COLUMNS), np.float32)
    seen = np.zeros(len(means), np.bool_)
    projecting.project_all(
        *(workers, _counter(), means, scales, quaternions, opacities, cutoffs),
        *(sh, offsets, camera, screen, seen),
    )
    height, width = size
    tile_starts, members, starts, places = tiling.list_tiles(screen, seen, width, height)
    # Threads take the long tiles first, so that none is left for last.
    order = np.argsort(tile_starts[:-1] - tile_starts[1:], kind="stable")
    image = np.empty((blending.NUM_CHANNELS, height, width), np.float32)
    blending.draw_all(workers, _counter(), order, tile_starts, members, screen, image)
    return _Kept(screen, seen, tile_starts, members, starts, places, order, parameters, image)


def _trace(kept: _Kept, d_image: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Gradients of the five tensors, of the screen positions [N, 2], and of the camera [15]."""
    workers = _set_threads()
    d_pairs = np.empty((len(kept.members), blending.NUM_PAIR_GRADIENTS), np.float32)
    lists = (kept.tile_starts, kept.members)
    blending.trace_all(workers, _counter(), kept.order, lists, kept.screen, kept.image, d_image, d_pairs)
    means, scales, quaternions, sh, _ = kept.parameters
    count = len(means)
    gradients = (
        *(np.zeros_like(means), np.zeros_like(scales), np.zeros_like(quaternions)),
        *(np.zeros(count, np.float32), np.zeros_like(sh)),
    )
    d_screen = np.zeros((count, 2), np.float32)
    num_blocks = -(-count // projecting.BLOCK)
    d_camera = np.zeros((num_blocks, projecting.NUM_CAMERA_GRADIENT), np.float32)
    tables = (kept.seen, kept.starts, kept.places)
    projecting.unproject_all(
        *(workers, _counter(), tables, d_pairs, kept.screen, kept.parameters, gradients),
        *(d_screen, d_camera),
    )
    return gradients, d_screen, d_camera.sum(axis=0, dtype=np.float64).astype(np.float32)


def _set_threads() -> int:
    wanted = torch.get_num_threads()
    most = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    workers = max(1, min(wanted, most))
    numba.set_num_threads(workers)
    # The first call starts Numba's threads, which sets the number of those of torch where both use the same
    # OpenMP library.
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return workers


def _counter() -> np.ndarray:
    return np.zeros(1, np.int64)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def _pack_camera(camera: Camera, rows: Tensor, center: Tensor) -> np.ndarray:
    height, width = camera.size
    numbers = (*camera.focal, *camera.principal, *camera.slopes, camera.near, width, height)
    return np.concatenate((_array(rows).reshape(-1), _array(center), np.array(numbers, np.float32)))
