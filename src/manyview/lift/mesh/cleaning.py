"""Fewer parts and fewer triangles. Both come before texture coordinates, and drop those and colours."""

from __future__ import annotations

import fast_simplification
import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from manyview.errors import InputError


def largest_component(mesh: trimesh.Trimesh, *, min_share: float = 1.0) -> trimesh.Trimesh:
    """The connected part of the largest area; with `min_share` below 1 also parts of at least that share of
    it.

    Parts are connected where they share vertices by number, so texture seams cut. Geometry only. Raises
    `InputError` for a mesh without faces.
    """
    faces = np.asarray(mesh.faces)
    if len(faces) == 0:
        raise InputError("mesh", "no faces", "expected triangles")
    if not 0 < min_share <= 1:
        raise InputError("min_share", min_share, "expected a share in (0, 1]")
    count = len(mesh.vertices)
    starts, ends = faces[:, :2].T.reshape(-1), faces[:, 1:].T.reshape(-1)
    graph = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    area = np.bincount(part[faces[:, 0]], mesh.area_faces)
    keep = np.zeros(len(area), dtype=bool)
    keep[area.argmax()] = True
    if min_share < 1:
        keep |= area >= min_share * area.max()
    return _compact(np.asarray(mesh.vertices), faces[keep[part[faces[:, 0]]]])


def simplify_mesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """At most about `num_faces` triangles, by collapsing the edges that change the surface least.

    Quadric error metrics (Garland and Heckbert 1997), the package fast-simplification. A mesh that has no
    more already comes back as it is. Geometry only. Raises `InputError` for fewer than 4 faces asked for.
    """
    if num_faces < 4:
        raise InputError("num_faces", num_faces, "expected at least 4")
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    if len(faces) <= num_faces:
        return _compact(vertices, faces)
    # Its thresholds are absolute, so it gets a mesh of side 1 about the origin.
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-300)
    unit = ((vertices - middle) / side).astype(np.float64)
    points, triangles = fast_simplification.simplify(unit, faces, target_count=num_faces)[:2]
    points = np.asarray(points, dtype=np.float64) * side + middle
    triangles = np.asarray(triangles, dtype=np.int64)
    corners = points[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return _compact(points, triangles[(cross != 0).any(axis=1)])


def _compact(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """Without the vertices that no face uses."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices[used], renumbered.reshape(-1, 3), process=False)
