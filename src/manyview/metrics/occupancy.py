"""Which points of a grid lie inside a mesh, also where the mesh is not closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

_CANDIDATES_AT_ONCE = 1 << 21
# Off the centres by a little, a different little along each axis, so that no line through the grid runs along
# the edges of a mesh that was itself extracted on such a grid.
_NUDGE_CELLS = np.array([3.1e-5, 4.7e-5, 5.9e-5])


def grid_occupancy(mesh: trimesh.Trimesh, low: np.ndarray, side: float, resolution: int) -> np.ndarray:
    """bool [R, R, R], whether the centre of each cell of the cube from `low` [3] of `side` lies inside.

    The rule, for meshes with holes, overlapping parts and doubled walls alike: walk from the point along each
    of the six axis directions, count surfaces left minus surfaces entered (a closed surface gives its winding
    number), clip each count to [0, 1], and call the point inside where the six average more than one half.
    For a closed mesh this is exact; where a hole hides the answer in some directions, the others
    outvote them. A mesh whose signed volume is negative is taken as inside out and turned round. Faces have
    to be oriented consistently otherwise.
    """
    points, faces = _merged(mesh)
    cell = side / resolution
    # In cells, with the first centre at 0.
    points = (points - low) / cell - 0.5 - _NUDGE_CELLS
    corners = points[faces] - points.mean(axis=0)
    volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    outward = 1 if volume >= 0 else -1
    votes = np.zeros((resolution,) * 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        crossings = _crossings(points[:, [first, second, axis]], faces, resolution) * outward
        before = np.cumsum(crossings, axis=2)[:, :, :-1]
        after = crossings.sum(axis=2, keepdims=True) - before
        vote = np.clip(after, 0, 1) + np.clip(-before, 0, 1)
        # From (first, second, axis) back to (x, y, z).
        votes += np.moveaxis(vote, (0, 1, 2), (first, second, axis))
    return votes > 3


def _crossings(points: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    """int [R, R, R + 1] signed crossings of the lines (i, j, *) between levels k - 1 and k.

    +1 for a face that looks along +z (left when walking up), -1 for one that looks along -z.
    """
    total = np.zeros(resolution * resolution * (resolution + 1), dtype=np.int64)
    flat = points[:, :2][faces]
    low = np.ceil(flat.min(axis=1)).clip(0, resolution).astype(np.int64)
    high = np.floor(flat.max(axis=1)).clip(-1, resolution - 1).astype(np.int64)
    extent = np.maximum(high - low + 1, 0)
    num_lines = extent.prod(axis=1)
    order = np.flatnonzero(num_lines)
    ends = np.cumsum(num_lines[order])
    start = 0
    while start < len(order):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CANDIDATES_AT_ONCE, side="right")))
        chosen = order[start:stop]
        _add_crossings(total, points, faces[chosen], low[chosen], extent[chosen], resolution)
        start = stop
    return total.reshape(resolution, resolution, resolution + 1)


def _add_crossings(
    total: np.ndarray,
    points: np.ndarray,
    faces: np.ndarray,
    low: np.ndarray,
    extent: np.ndarray,
    resolution: int,
) -> None:
    count = extent.prod(axis=1)
    face = np.repeat(np.arange(len(faces)), count)
    within = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    i = low[face, 0] + within // extent[face, 1]
    j = low[face, 1] + within % extent[face, 1]
    # Twice the signed areas that the point spans with the edges opposite to each corner.
    areas = np.stack([_side(points, faces[face][:, [(k + 1) % 3, (k + 2) % 3]], i, j) for k in range(3)])
    positive = areas > 0
    hit = (positive.all(axis=0) | ~positive.any(axis=0)) & (areas.sum(axis=0) != 0)
    areas, i, j, face = areas[:, hit], i[hit], j[hit], face[hit]
    heights = points[faces[face], 2].T
    level = np.ceil((areas * heights).sum(axis=0) / areas.sum(axis=0)).clip(0, resolution).astype(np.int64)
    sign = np.where(areas.sum(axis=0) > 0, 1, -1)
    np.add.at(total, (i * resolution + j) * (resolution + 1) + level, sign)


def _side(points: np.ndarray, edge: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which side of `edge` [M, 2] the point (i, j) lies on: exactly opposite for the edge run backwards.

    Computed from the lower vertex number to the higher, so that the two faces at an edge get one number and
    no line slips through between them or meets both.
    """
    swapped = edge[:, 0] > edge[:, 1]
    a, b = points[edge.min(axis=1), :2], points[edge.max(axis=1), :2]
    value = (b[:, 0] - a[:, 0]) * (j - a[:, 1]) - (b[:, 1] - a[:, 1]) * (i - a[:, 0])
    value = np.where(value == 0, np.finfo(np.float64).tiny, value)
    return np.where(swapped, -value, value)


def _merged(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices without the copies that texture seams need, float64, and faces."""
    points, place = np.unique(np.asarray(mesh.vertices, dtype=np.float64), axis=0, return_inverse=True)
    return points, place.reshape(-1)[np.asarray(mesh.faces)]
