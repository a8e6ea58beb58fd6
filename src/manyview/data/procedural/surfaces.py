"""Closed surfaces as triangle meshes: one generalised lathe makes cups, boxes, limbs and extrusions.

A lathe moves a closed section (a star-shaped polygon in the xy plane) along a profile of (radius,
height) that starts and ends on the axis, so the surface is closed whatever section and profile are.
Every function returns counter-clockwise faces seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Surface:
    """A closed triangle mesh with texture coordinates per face corner."""

    vertices: Array
    """[N, 3]"""
    faces: NDArray[np.int64]
    """[F, 3]"""
    corner_uv: Array
    """[F, 3, 2], (0, 0) is the texture's bottom left; values outside [0, 1] repeat."""

    def moved(
        self, linear: Array | None = None, offset: Array | tuple[float, float, float] = (0, 0, 0)
    ) -> Surface:
        """The surface under x -> linear @ x + offset; a mirroring map turns the faces round."""
        vertices = self.vertices if linear is None else self.vertices @ linear.T
        faces, uv = self.faces, self.corner_uv
        if linear is not None and np.linalg.det(linear) < 0:
            faces, uv = faces[:, ::-1].copy(), uv[:, ::-1].copy()
        return Surface(vertices + np.asarray(offset), faces, uv)


def lathe(profile: Array, section: Array, uv_repeat: tuple[float, float] = (1.0, 1.0)) -> Surface:
    """Sweep a section round a profile.

    profile: [P, 2] radius and height, radius 0 at both ends, running from bottom to top on the
    outside (an inner wall may follow the outer one, as in a cup). section: [S, 2] polygon around the
    origin, counter-clockwise. u runs along the section's arc, v along the profile's arc.
    """
    ring = np.concatenate([section, section[:1]])
    u = _arc(ring) * uv_repeat[0]
    v = _arc(profile) * uv_repeat[1]
    num_rows, num_columns = len(profile), len(ring)
    grid = np.concatenate(
        [
            profile[:, None, :1] * ring[None],
            np.broadcast_to(profile[:, None, 1:], (num_rows, num_columns, 1)),
        ],
        axis=2,
    )
    uv = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    faces = _grid_faces(num_rows, num_columns)
    vertices = grid.reshape(-1, 3)
    corners = vertices[faces]
    size = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    faces = faces[size > 1e-12]
    return Surface(vertices, faces, uv[faces])


def sweep(path: Array, radii: Array, section: Array, uv_repeat: tuple[float, float] = (1.0, 1.0)) -> Surface:
    """A tube of varying radius along a curve, closed by a flat cap at either end.

    path: [P, 3]; radii: [P]; section: [S, 2]. Frames are carried along without twist.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    normals = np.empty_like(path)
    start = np.eye(3)[np.argmin(np.abs(tangent[0]))]
    previous = np.cross(tangent[0], start)
    for index, direction in enumerate(tangent):
        previous = previous - direction * (previous @ direction)
        previous /= np.linalg.norm(previous) + 1e-12
        normals[index] = previous
    binormals = np.cross(tangent, normals)
    wall = np.stack([np.ones(len(path)), np.linspace(0, 1, len(path))], axis=1)
    unit = lathe(np.concatenate([[[0, 0]], wall, [[0, 1]]]), section, (uv_repeat[0], 1.0))
    # The arc of this profile is 3 long, of which the wall is the middle third: it gets the whole texture.
    unit.corner_uv[..., 1] = np.clip(3 * unit.corner_uv[..., 1] - 1, 0, 1) * uv_repeat[1]
    ring = np.concatenate([section, section[:1]])
    points = path[:, None] + radii[:, None, None] * (
        ring[None, :, :1] * normals[:, None] + ring[None, :, 1:] * binormals[:, None]
    )
    caps = (np.broadcast_to(path[end], (1, len(ring), 3)) for end in (0, -1))
    points = np.concatenate([next(caps), points, next(caps)])
    return Surface(points.reshape(-1, 3), unit.faces, unit.corner_uv)


def from_triangles(vertices: Array, faces: NDArray[np.int64], uv_scale: float) -> Surface:
    """A surface with box-projected texture coordinates (each face uses its dominant axis)."""
    return Surface(vertices, faces, box_uv(vertices, faces, uv_scale))


def box_uv(vertices: Array, faces: NDArray[np.int64], scale: float) -> Array:
    """[F, 3, 2] texture coordinates by projecting every face along its dominant axis.

    Upright on the four sides; the texture spans 1 / `scale` units.
    """
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.abs(normal).argmax(axis=1)
    sign = np.sign(np.take_along_axis(normal, axis[:, None], axis=1))[:, 0]
    sign[sign == 0] = 1
    # For every axis, the horizontal coordinate is mirrored on one of the two sides so that text
    # reads the right way round from outside.
    horizontal = np.choose(
        axis[:, None],
        [corners[..., 1] * sign[:, None], -corners[..., 0] * sign[:, None], corners[..., 0]],
    )
    vertical = np.choose(axis[:, None], [corners[..., 2], corners[..., 2], corners[..., 1] * sign[:, None]])
    return np.stack([horizontal, vertical], axis=-1) * scale + 0.5


def superellipse(num_points: int, exponent: float, aspect: float = 1.0) -> Array:
    """[S, 2] section |x|^e + |y / aspect|^e = 1: 2 is a circle, large values a box."""
    angle = np.arange(num_points) * 2 * np.pi / num_points + np.pi / num_points
    c, s = np.cos(angle), np.sin(angle)
    radius = (np.abs(c) ** exponent + np.abs(s) ** exponent) ** (-1 / exponent)
    return np.stack([radius * c, radius * s * aspect], axis=1)


def _arc(points: Array) -> Array:
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return total / max(total[-1], 1e-12)


def _grid_faces(num_rows: int, num_columns: int) -> NDArray[np.int64]:
    row, column = np.meshgrid(np.arange(num_rows - 1), np.arange(num_columns - 1), indexing="ij")
    a = (row * num_columns + column).ravel()
    b, c, d = a + 1, a + num_columns + 1, a + num_columns
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int64)
