"""Ray casting against one mesh (Embree), and how much of the sky each vertex sees.

Under light that is equal from all directions, a matt surface is as bright as the cosine-weighted part of its
hemisphere that is free. That part depends on the place alone, so it is computed once a mesh and serves all
views, without noise that differs between views.
"""

from __future__ import annotations

import numpy as np
import trimesh

from manyview.data.render.meshes import RenderMesh

_SURFACE_OFFSET = 1e-4
_RAYS_AT_ONCE = 1 << 20


class RayCaster:
    """An Embree scene of one mesh; every query runs in the calling thread."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, dtype=np.float32), faces.astype(np.int32))

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """The nearest triangle along each of [N, 3] rays.

        Keys: `face` [N] int32, -1 for a miss; `distance` [N] in lengths of the direction; `u`, `v` [N]
        weights of the triangle's second and third corner; `normal` [N, 3] of the triangle, not normalised.
        """
        answer = self._scene.run(_rays(origins), _rays(directions), output=True)
        return {
            "face": answer["primID"],
            "distance": answer["tfar"],
            "u": answer["u"],
            "v": answer["v"],
            "normal": answer["Ng"],
        }

    def any_hits(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """[N] bool, whether each of [N, 3] rays meets the mesh at all."""
        return self._scene.run(_rays(origins), _rays(directions), query="OCCLUDED") != -1


def _rays(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def cosine_directions(count: int) -> np.ndarray:
    """[count, 3] unit vectors around +Z with density proportional to the cosine, on a Fibonacci spiral.

    A uniform point of the unit disc, lifted to the hemisphere, is cosine distributed (Malley's method).
    """
    index = np.arange(count) + 0.5
    radius = np.sqrt(index / count)
    angle = index * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - index / count)], axis=1)


def vertex_openness(caster: RayCaster, mesh: RenderMesh, num_rays: int, side: int = 1) -> np.ndarray:
    """[N] float32 free part of the hemisphere at each vertex, 1 = nothing in the way.

    `side` 1 looks out of the front of the faces, -1 out of their back. Measured with `num_rays` rays at
    each face's centre, along its own normal so that sharp convex edges stay bright, then averaged by area
    over the faces around each position.
    """
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    normal = side * cross / np.maximum(length, 1e-30)[:, None]
    start = corners.mean(axis=1) + normal * _SURFACE_OFFSET
    free = _free_part(caster, start, normal, cosine_directions(num_rays))
    place = _shared_places(mesh.vertices)
    weight = np.repeat(length, 3)
    at = place[mesh.faces.reshape(-1)]
    total = np.bincount(at, weight, minlength=place.max() + 1)
    summed = np.bincount(at, weight * np.repeat(free, 3), minlength=place.max() + 1)
    mean = np.where(total > 0, summed / np.maximum(total, 1e-30), 1.0)
    return mean[place].astype(np.float32)


def _free_part(
    caster: RayCaster, start: np.ndarray, normal: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    # Any two axes across the normal will do (Duff et al. 2017 without the branch on the sign of zero).
    sign = np.where(normal[:, 2] >= 0, 1.0, -1.0)
    a = -1 / (sign + normal[:, 2])
    b = normal[:, 0] * normal[:, 1] * a
    first = np.stack([1 + sign * normal[:, 0] ** 2 * a, sign * b, -sign * normal[:, 0]], axis=1)
    second = np.stack([b, sign + normal[:, 1] ** 2 * a, -normal[:, 1]], axis=1)
    free = np.empty(len(start))
    step = max(1, _RAYS_AT_ONCE // len(directions))
    for low in range(0, len(start), step):
        part = slice(low, low + step)
        axes = np.stack([first[part], second[part], normal[part]], axis=1)
        world = np.einsum("kd,ndx->nkx", directions, axes)
        origins = np.broadcast_to(start[part, None], world.shape)
        hit = caster.any_hits(origins.reshape(-1, 3), world.reshape(-1, 3))
        free[part] = 1 - hit.reshape(-1, len(directions)).mean(axis=1)
    return free


def _shared_places(vertices: np.ndarray) -> np.ndarray:
    # Texture seams duplicate vertices; the light at a place is one number.
    _, inverse = trimesh.grouping.unique_rows(vertices, digits=6)
    return np.asarray(inverse)


def subdivided(mesh: RenderMesh, max_edge: float, max_faces: int) -> RenderMesh:
    """The same surface with every triangle cut in four until edges are at most `max_edge` long.

    All triangles are cut together, so no cracks open; stops before exceeding `max_faces`.
    """
    while len(mesh.faces) * 4 <= max_faces:
        corners = mesh.vertices[mesh.faces]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
        if edges.max() <= max_edge:
            break
        mesh = _cut_in_four(mesh)
    return mesh


def _cut_in_four(mesh: RenderMesh) -> RenderMesh:
    faces = mesh.faces
    pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=2).reshape(-1, 2)
    edges, inverse = np.unique(pairs, axis=0, return_inverse=True)
    middle = (inverse.reshape(-1, 3) + len(mesh.vertices)).astype(np.int32)
    a, b, c = faces.T
    ab, bc, ca = middle.T
    cut = np.stack(
        [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))], axis=1
    )
    return RenderMesh(
        vertices=_with_middles(mesh.vertices, edges),
        faces=cut.reshape(-1, 3).astype(np.int32),
        uv=_with_middles(mesh.uv, edges),
        colors=_with_middles(mesh.colors, edges),
        face_material=np.repeat(mesh.face_material, 4),
        materials=mesh.materials,
        unit_from_file=mesh.unit_from_file,
    )


def _with_middles(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values[edges].mean(axis=1)]).astype(np.float32)
