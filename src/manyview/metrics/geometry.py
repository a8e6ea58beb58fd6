"""Mesh against mesh. Everything in the units of the meshes, which have to stand in one frame.

Scores of papers are for objects whose longest side is 1. Distances are not squared. A metric that samples
points draws them by area from `seed`, so it is the same number every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import KDTree

from manyview.errors import InputError
from manyview.geometry.pixels import common_size
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import orbit
from manyview.metrics.occupancy import grid_occupancy
from manyview.types import Cameras

if TYPE_CHECKING:
    import trimesh

_NUM_POINTS = 100_000


def chamfer(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, *, num_points: int = _NUM_POINTS, seed: int = 0
) -> float:
    """Plain Chamfer distance: the mean of two means of nearest distances, points over the whole surfaces.

    `num_points` are drawn on each mesh by area; distances are from point to point, neither squared nor
    summed. Two samplings of one surface of area A are about sqrt(A / num_points) / 2 apart, which is the
    floor of this number (0.004 for a unit cube with 100,000). Hidden inner walls count. Raises `InputError`
    for a mesh without area.
    """
    (points, _), (others, _) = _sampled_pair(mesh, target, num_points, seed)
    return _two_way(points, others)


def chamfer_visible(
    mesh: trimesh.Trimesh,
    target: trimesh.Trimesh,
    *,
    cameras: Cameras | None = None,
    voxel: float = 0.01,
) -> float:
    """Chamfer distance as SyncDreamer's evaluation defines it: only what 16 cameras see, on both meshes.

    The points are where the rays through the centres of all pixels first meet the mesh, thinned to one
    (their mean) for each cube of side `voxel`, with the grid half a cube below the lowest point; the result
    is the mean of the two means of distances to the nearest, not squared. `cameras` defaults to theirs: 16
    on an orbit at elevation 30 degrees and distance 1.5, 256 x 256 pixels, for an object of longest side 1.
    Differences: they take the target's points from depth rendered with 16 bits, and turn some meshes by a
    table.
    Raises `InputError` for a mesh that no camera sees.
    """
    if voxel <= 0:
        raise InputError("voxel", voxel, "expected a positive length")
    _require_area("mesh", mesh)
    _require_area("target", target)
    seen = cameras if cameras is not None else orbit(16, 30.0)
    points = _thinned(visible_points(mesh, seen, "mesh"), voxel)
    others = _thinned(visible_points(target, seen, "target"), voxel)
    return _two_way(points, others)


def f_score(
    mesh: trimesh.Trimesh,
    target: trimesh.Trimesh,
    *,
    threshold: float = 0.01,
    num_points: int = _NUM_POINTS,
    seed: int = 0,
) -> float:
    """F-score in [0, 1]: the harmonic mean of precision and recall at a distance (Knapitsch et al. 2017).

    Precision is the share of points on `mesh` that lie within `threshold` of a point on `target`; recall the
    reverse. 0 where both are. Raises `InputError` for a mesh without area and a threshold of 0 or less.
    """
    if threshold <= 0:
        raise InputError("threshold", threshold, "expected a positive length")
    (points, _), (others, _) = _sampled_pair(mesh, target, num_points, seed)
    precision = float((_nearest(points, others)[0] <= threshold).mean())
    recall = float((_nearest(others, points)[0] <= threshold).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def normal_consistency(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, *, num_points: int = _NUM_POINTS, seed: int = 0
) -> float:
    """Mean |cosine| between a point's normal and that of the nearest point on the other mesh, both ways.

    In [0, 1]; as Mescheder et al. 2019 (Occupancy Networks): the sign is dropped, so orientation does not
    matter; normals are those of the faces. Raises `InputError` for a mesh without area.
    """
    (points, normals), (others, other_normals) = _sampled_pair(mesh, target, num_points, seed)
    there = np.abs((normals * other_normals[_nearest(points, others)[1]]).sum(axis=1)).mean()
    back = np.abs((other_normals * normals[_nearest(others, points)[1]]).sum(axis=1)).mean()
    return float(there + back) / 2


def volume_iou(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, *, resolution: int = 64, box: float = 2.0
) -> float:
    """Volume of the intersection over that of the union, on `resolution` cubed cells.

    The grid is a cube about the middle of `target`'s bounding box, `box` times as wide as its longest side;
    with 64 and 2 it is that of SyncDreamer's evaluation (64 cubed over [-1, 1], so 32 cells across an object
    of side 1). What counts as inside a mesh that is not closed: see `grid_occupancy`; for closed meshes
    without overlaps it is the same as their parity of crossings. Samples are cell centres (theirs are the
    lower corners). 1 where both are empty. Raises `InputError` for a mesh without area.
    """
    if resolution < 1:
        raise InputError("resolution", resolution, "expected at least 1 cell a side")
    if box < 1:
        raise InputError("box", box, "expected at least 1: the target has to fit in")
    _require_area("mesh", mesh)
    _require_area("target", target)
    low, high = target.bounds
    side = box * float((high - low).max())
    corner = (low + high) / 2 - side / 2
    first = grid_occupancy(mesh, corner, side, resolution)
    second = grid_occupancy(target, corner, side, resolution)
    union = int((first | second).sum())
    return 1.0 if union == 0 else int((first & second).sum()) / union


def geometry_scores(
    mesh: trimesh.Trimesh,
    target: trimesh.Trimesh,
    *,
    cameras: Cameras | None = None,
    num_points: int = _NUM_POINTS,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """The metrics of this module, all or those of `names`, which hold the definition; the arguments are
    theirs."""
    drawn: dict[str, int] = {"num_points": num_points, "seed": seed}
    metrics: dict[str, Callable[[], float]] = {
        "chamfer_mean": lambda: chamfer(mesh, target, **drawn),
        "chamfer_visible_mean": lambda: chamfer_visible(mesh, target, cameras=cameras),
        "f_score_0.01": lambda: f_score(mesh, target, **drawn),
        "normal_consistency": lambda: normal_consistency(mesh, target, **drawn),
        "volume_iou_64": lambda: volume_iou(mesh, target),
    }
    return {name: metrics[name]() for name in (metrics if names is None else names)}


def visible_points(mesh: trimesh.Trimesh, cameras: Cameras, argument: str = "mesh") -> np.ndarray:
    """[N, 3] the first points of the mesh on the rays through all pixel centres of all cameras.

    Raises `InputError` naming `argument` where no ray meets it.
    """
    _require_area(argument, mesh)
    triangles = np.asarray(mesh.triangles, dtype=np.float64)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    found = []
    for index in range(len(cameras)):
        camera = cameras[index].to(torch.float64)
        origins, directions = (
            rays.reshape(-1, 3).numpy() for rays in camera_rays(camera, *common_size(camera))
        )
        face = mesh.ray.intersects_first(origins, directions)
        origins, directions, face = origins[face >= 0], directions[face >= 0], face[face >= 0]
        # The caster says which triangle; where exactly is computed here, in double precision.
        slope = (directions * normals[face]).sum(axis=1)
        height = ((triangles[face, 0] - origins) * normals[face]).sum(axis=1)
        distance = height / np.where(slope == 0, 1, slope)
        usable = (slope != 0) & (distance > 0)
        found.append((origins + distance[:, None] * directions)[usable])
    points = np.concatenate(found)
    if len(points) == 0:
        raise InputError(argument, "is seen by none of the cameras", "expected a mesh near the origin")
    return points


def _thinned(points: np.ndarray, voxel: float) -> np.ndarray:
    cells = np.floor((points - (points.min(axis=0) - voxel / 2)) / voxel).astype(np.int64)
    _, where, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    sums = np.stack([np.bincount(where, points[:, axis], len(count)) for axis in range(3)], axis=1)
    return sums / count[:, None]


def _sampled_pair(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, num_points: int, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    if num_points < 1:
        raise InputError("num_points", num_points, "expected at least 1")
    _require_area("mesh", mesh)
    _require_area("target", target)
    # Two streams: with one, equal meshes would get equal points and a distance of exactly 0.
    return _sampled("mesh", mesh, num_points, [seed, 0]), _sampled("target", target, num_points, [seed, 1])


def _sampled(
    argument: str, mesh: trimesh.Trimesh, num_points: int, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """[N, 3] points drawn by area and [N, 3] unit normals of their faces."""
    area = _require_area(argument, mesh)
    triangles = np.asarray(mesh.triangles, dtype=np.float64)
    generator = np.random.default_rng(seed)
    cumulative = np.cumsum(area)
    face = np.searchsorted(cumulative, generator.uniform(0, cumulative[-1], num_points), side="right")
    face = face.clip(0, len(area) - 1)
    u, v = generator.uniform(size=(2, num_points, 1))
    # A point of the unit square beyond its diagonal is mirrored back into the triangle.
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = triangles[face].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    return a + u * (b - a) + v * (c - a), normals


def _require_area(argument: str, mesh: trimesh.Trimesh) -> np.ndarray:
    """[F] areas of the faces. Raises `InputError` unless they are finite and sum to more than 0."""
    triangles = np.asarray(mesh.triangles, dtype=np.float64).reshape(-1, 3, 3)
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(cross, axis=1) / 2
    if not np.isfinite(area).all() or not area.sum() > 0:
        raise InputError(argument, f"{len(area)} faces without area", "expected a mesh of finite triangles")
    return area


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = KDTree(others).query(points)
    return np.asarray(distances), np.asarray(indices)


def _two_way(points: np.ndarray, others: np.ndarray) -> float:
    there, back = _nearest(points, others)[0], _nearest(others, points)[0]
    return float(there.mean() + back.mean()) / 2
