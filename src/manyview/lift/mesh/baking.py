"""A texture painted from posed views: each texel takes the views that see it best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from manyview.data.render.occlusion import RayCaster
from manyview.errors import InputError
from manyview.lift.mesh.sight import Sight
from manyview.lift.mesh.unwrapping import unwrap_mesh
from manyview.progress import Progress, silent
from manyview.types import Views

Fallback = Callable[[Tensor, Tensor], Tensor]
"""(points [N, 3] in the world, unit normals [N, 3]) to sRGB [N, 3] in [0, 1]."""

_TEXELS_AT_ONCE = 1 << 19
_SURE = 0.2
_NUM_NEIGHBOURS = 8
_MAX_SOURCES = 200_000


@dataclass(frozen=True)
class _Texels:
    """The T texels that lie on the surface."""

    where: np.ndarray
    """[T] flat index into the texture, rows from the top."""
    points: np.ndarray
    """[T, 3] float64, in the world."""
    normals: np.ndarray
    """[T, 3] unit, smooth across edges."""
    face_normals: np.ndarray
    """[T, 3] unit, of the triangle."""

    def __getitem__(self, part: slice) -> _Texels:
        return _Texels(*(values[part] for values in vars(self).values()))


def bake_texture(
    mesh: trimesh.Trimesh,
    views: Views,
    *,
    weights: Tensor | None = None,
    fallback: Fallback | None = None,
    size: int = 1024,
    sharpness: float = 4.0,
    border_px: float = 2.0,
    progress: Progress = silent,
) -> trimesh.Trimesh:
    """The mesh with a base colour texture (`size` x `size`, sRGB, glTF's PBR material) taken from `views`.

    A texel's colour is the mean over the views that see it, each weighted by

        weights[v] * cos(normal, direction to the camera) ** sharpness * border * mask,

    where a view sees a texel if it lies inside the image and the ray from the camera reaches it first,
    `border` rises from nearly 0 to 1 over the `border_px` pixels next to outlines and jumps in depth (there a
    pixel may show what is in front or behind), and `mask` is the view's, where it has masks. Higher
    `sharpness` trusts the most frontal view more, 0 averages; since all factors fade out, there are no seams
    between views. Light is not taken out of the pictures.

    mesh: in the world of the cameras; without texture coordinates it is unwrapped (`unwrap_mesh`).
    weights: [V], default 1 for observed views and 0 for the others. Lens distortion is followed.
    fallback: colours for what no view sees well, blended in where the best of the views' factors is
    below 0.2; default: where nothing is seen at all, the colours nearest in space.
    Texels outside all charts repeat the nearest one on a chart. Raises `InputError` for views without
    cameras, bad weights, and where no view sees the mesh and there is no fallback.
    """
    weight_of = _checked_weights(mesh, views, weights, size)
    if getattr(mesh.visual, "uv", None) is None:
        mesh = unwrap_mesh(mesh, size)
    texels = _surface_texels(mesh, size)
    chosen = [index for index, weight in enumerate(weight_of) if weight > 0]
    scale = float(np.ptp(np.asarray(mesh.vertices), axis=0).max())
    caster = RayCaster(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    count = len(texels.where)
    summed, total, best = np.zeros((count, 3)), np.zeros(count), np.zeros(count)
    progress.start(len(chosen), "views")
    try:
        for index in chosen:
            sight = Sight(caster, views[index], scale, border_px)
            for start in range(0, count, _TEXELS_AT_ONCE):
                part = slice(start, start + _TEXELS_AT_ONCE)
                here = texels[part]
                color, cosine, clear = sight.look(here.points, here.normals, here.face_normals)
                weight = weight_of[index] * cosine**sharpness * clear
                summed[part] += weight[:, None] * color
                total[part] += weight
                best[part] = np.maximum(best[part], cosine * clear)
            progress.advance()
    finally:
        progress.finish()
    seen = total > 1e-12
    colors = np.where(seen[:, None], summed / np.maximum(total, 1e-12)[:, None], 0)
    colors = _filled(texels, colors, seen, best, fallback)
    return _textured(mesh, _padded(colors, texels.where, size))


def _checked_weights(mesh: trimesh.Trimesh, views: Views, weights: Tensor | None, size: int) -> np.ndarray:
    if len(mesh.faces) == 0:
        raise InputError("mesh", "no faces", "expected triangles")
    if views.cameras is None:
        raise InputError("views.cameras", "None", "expected views with cameras")
    if size < 16:
        raise InputError("size", size, "expected a texture of at least 16 texels a side")
    given = views.observed.double() if weights is None else weights.detach().double().cpu()
    if given.shape != (len(views),) or not bool(torch.isfinite(given).all()) or bool((given < 0).any()):
        raise InputError("weights", given.tolist(), f"expected {len(views)} numbers of at least 0")
    return given.cpu().numpy()


def _surface_texels(mesh: trimesh.Trimesh, size: int) -> _Texels:
    """What lies under each texel's centre: the chart is a flat mesh, looked at from above."""
    visual: Any = mesh.visual
    uv, faces = np.asarray(visual.uv, dtype=np.float64), np.asarray(mesh.faces)
    flat = np.column_stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.zeros(len(uv))])
    caster = RayCaster(flat, faces)
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    origins = np.stack([column, row, np.ones_like(row)], axis=-1).reshape(-1, 3)
    hits = caster.first_hits(origins, np.broadcast_to([0.0, 0.0, -1.0], origins.shape))
    where = np.flatnonzero(hits["face"] >= 0)
    if len(where) == 0:
        raise InputError(
            "size", size, "no texel lies on the mesh, expected a larger texture or larger charts"
        )
    face, u, v = hits["face"][where], hits["u"][where, None], hits["v"][where, None]
    corners = faces[face]

    def mixed(values: np.ndarray) -> np.ndarray:
        a, b, c = (values[corners[:, k]] for k in range(3))
        return (1 - u - v) * a + u * b + v * c

    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    return _Texels(
        where,
        mixed(vertices),
        _unit(mixed(_smooth_normals(vertices, faces))),
        _face_normals(vertices, faces)[face],
    )


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    return _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))


def _smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[N, 3] mean normals by area, the same on both sides of a seam."""
    places, place = np.unique(vertices, axis=0, return_inverse=True)
    place = place.reshape(-1)
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    at = place[faces].reshape(-1)
    sums = [np.bincount(at, np.repeat(cross[:, axis], 3), len(places)) for axis in range(3)]
    return _unit(np.stack(sums, axis=1))[place]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def _filled(
    texels: _Texels, colors: np.ndarray, seen: np.ndarray, best: np.ndarray, fallback: Fallback | None
) -> np.ndarray:
    if fallback is None:
        if not seen.any():
            raise InputError("views", "none sees the mesh", "expected cameras that look at it, or a fallback")
        if not seen.all():
            # What was seen well knows better than what was seen at an outline.
            sure = best >= _SURE
            colors[~seen] = _nearest_colors(texels.points, colors, seen, sure if sure.any() else seen)
        return colors
    trust = np.clip(best / _SURE, 0, 1)
    trust = trust * trust * (3 - 2 * trust)
    doubtful = np.flatnonzero(trust < 1)
    for start in range(0, len(doubtful), _TEXELS_AT_ONCE):
        part = doubtful[start : start + _TEXELS_AT_ONCE]
        points, normals = (torch.from_numpy(v[part]).float() for v in (texels.points, texels.normals))
        with torch.no_grad():
            other = fallback(points, normals)
        if tuple(other.shape) != (len(part), 3):
            raise InputError("fallback", tuple(other.shape), f"expected colours [{len(part)}, 3]")
        mixture = trust[part, None]
        colors[part] = mixture * colors[part] + (1 - mixture) * other.double().cpu().numpy()
    return colors


def _nearest_colors(
    points: np.ndarray, colors: np.ndarray, seen: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """[U, 3] for the unseen: mean over the nearest of the texels `source`, by inverse squared distance."""
    sources = np.flatnonzero(source)
    sources = sources[:: -(-len(sources) // _MAX_SOURCES)]
    count = min(_NUM_NEIGHBOURS, len(sources))
    distance, nearest = KDTree(points[sources]).query(points[~seen], k=count)
    # One neighbour comes without an axis for it.
    distance, nearest = np.reshape(distance, (-1, count)), np.reshape(nearest, (-1, count))
    weight = 1 / np.maximum(distance, 1e-12) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    return np.einsum("uk,ukc->uc", weight, colors[sources[nearest]])


def _padded(colors: np.ndarray, where: np.ndarray, size: int) -> np.ndarray:
    """[size, size, 3] bytes; texels off the charts repeat the nearest on one, for filters and mip maps."""
    picture = np.zeros((size * size, 3))
    empty = np.ones(size * size, dtype=bool)
    picture[where], empty[where] = colors, False
    picture, empty = picture.reshape(size, size, 3), empty.reshape(size, size)
    nearest: Any = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    rows, columns = nearest
    return np.round(picture[rows, columns].clip(0, 1) * 255).astype(np.uint8)


def _textured(mesh: trimesh.Trimesh, picture: np.ndarray) -> trimesh.Trimesh:
    material = PBRMaterial(
        name="baked", baseColorTexture=Image.fromarray(picture), metallicFactor=0.0, roughnessFactor=1.0
    )
    visual: Any = mesh.visual
    return trimesh.Trimesh(
        np.array(mesh.vertices),
        np.array(mesh.faces),
        visual=TextureVisuals(uv=np.array(visual.uv), material=material),
        process=False,
    )
