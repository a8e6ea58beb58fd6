"""The zero level of a signed distance as triangles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from manyview.errors import InputError
from manyview.progress import Progress, silent

_BLOCK = 8
_SLACK_CELLS = 1e-3


def extract_mesh(
    distances: Callable[[Tensor], Tensor],
    bounds: Tensor | np.ndarray,
    resolution: int = 256,
    *,
    lipschitz: float | None = None,
    points_at_once: int = 1 << 18,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> trimesh.Trimesh:
    """The surface where `distances` is 0, by marching cubes (Lewiner et al. 2003, scikit-image's).

    distances: takes points [N, 3] float32 on `device`, gives [N], negative inside; called without gradients
    on at most `points_at_once` points. For a density, pass `lambda points: threshold - density(points)`.
    bounds: [2, 3] lowest and highest corner. resolution: cells along the longest side; cells are cubes.
    lipschitz: where given, how fast the distance may change at most (1 for an exact one; a trained field
    wants slack, say 2): blocks of 8 cubed points that cannot hold a surface by that are judged by their
    middle alone, which saves most evaluations of a fine grid.

    Closed even where the inside reaches the bounds: it is capped there, a cell beyond. Faces look outward
    (anticlockwise from outside). Raises `InputError` for bad bounds, NaN, and where nothing is inside or
    everything is.
    """
    low, cell, shape = _grid(bounds, resolution)

    def evaluate(points: np.ndarray) -> np.ndarray:
        values = distances(torch.from_numpy(points.astype(np.float32)).to(device))
        if values.shape != (len(points),):
            raise InputError("distances", tuple(values.shape), f"expected one value a point, [{len(points)}]")
        found = values.detach().float().cpu().numpy()
        if not np.isfinite(found).all():
            raise InputError("distances", "holds NaN or infinity", "expected finite numbers")
        return found

    with torch.no_grad():
        if lipschitz is None:
            volume = _evaluate_all(evaluate, low, cell, shape, points_at_once, progress)
        else:
            volume = _evaluate_near(evaluate, low, cell, shape, lipschitz, points_at_once, progress)
    if not (volume < 0).any() or not (volume > 0).any():
        word = "positive" if (volume >= 0).all() else "negative"
        raise InputError("distances", f"nowhere but {word} within the bounds", "found no surface")
    # One more layer outside, so that what reaches the bounds is capped.
    padded = np.pad(volume, 1, constant_values=cell)
    vertices, faces, _, _ = marching_cubes(
        padded, 0.0, spacing=(cell,) * 3, gradient_direction="descent", allow_degenerate=False
    )
    return trimesh.Trimesh(vertices + (low - cell), faces.astype(np.int64), process=False)


def _grid(bounds: Tensor | np.ndarray, resolution: int) -> tuple[np.ndarray, float, tuple[int, int, int]]:
    corners = np.asarray(bounds, dtype=np.float64)
    if corners.shape != (2, 3) or not np.isfinite(corners).all() or not (corners[1] > corners[0]).all():
        raise InputError("bounds", corners.tolist(), "expected the lowest and the highest corner, [2, 3]")
    if resolution < 2:
        raise InputError("resolution", resolution, "expected at least 2 cells along the longest side")
    extent = corners[1] - corners[0]
    cell = float(extent.max()) / resolution
    x, y, z = (np.ceil(extent / cell - _SLACK_CELLS).astype(int) + 1).tolist()
    return corners[0], cell, (x, y, z)


def _evaluate_all(
    evaluate: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    cell: float,
    shape: tuple[int, int, int],
    points_at_once: int,
    progress: Progress,
) -> np.ndarray:
    volume = np.empty(int(np.prod(shape)), dtype=np.float32)
    progress.start(len(volume), "points")
    try:
        for start in range(0, len(volume), points_at_once):
            flat = np.arange(start, min(start + points_at_once, len(volume)))
            indices = np.stack(np.unravel_index(flat, shape), axis=1)
            volume[flat] = evaluate(low + cell * indices)
            progress.advance(len(flat))
    finally:
        progress.finish()
    return volume.reshape(shape)


def _evaluate_near(
    evaluate: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    cell: float,
    shape: tuple[int, int, int],
    lipschitz: float,
    points_at_once: int,
    progress: Progress,
) -> np.ndarray:
    """As `_evaluate_all`, but a block far from the surface holds the value of its middle throughout."""
    if not lipschitz > 0:
        raise InputError("lipschitz", lipschitz, "expected a positive number")
    num_blocks = tuple(-(-size // _BLOCK) for size in shape)
    blocks = np.stack(np.meshgrid(*map(np.arange, num_blocks), indexing="ij"), axis=-1).reshape(-1, 3)
    middles = low + cell * (_BLOCK * blocks + (_BLOCK - 1) / 2)
    chunks = range(0, len(blocks), points_at_once)
    coarse = np.concatenate([evaluate(middles[start : start + points_at_once]) for start in chunks])
    volume = coarse.reshape(num_blocks)
    for axis in range(3):
        volume = volume.repeat(_BLOCK, axis=axis)
    volume = np.ascontiguousarray(volume[: shape[0], : shape[1], : shape[2]])
    # Half the diagonal of a block, and a cell more to reach the neighbour's points.
    reach = lipschitz * cell * np.sqrt(3) * ((_BLOCK - 1) / 2 + 1)
    near = blocks[np.abs(coarse) <= reach]
    inside = np.stack(np.meshgrid(*[np.arange(_BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    step = max(1, points_at_once // len(inside))
    progress.start(len(near), "blocks")
    try:
        for start in range(0, len(near), step):
            indices = (_BLOCK * near[start : start + step, None] + inside).reshape(-1, 3)
            indices = indices[(indices < shape).all(axis=1)]
            volume[tuple(indices.T)] = evaluate(low + cell * indices)
            progress.advance(len(near[start : start + step]))
    finally:
        progress.finish()
    return volume
