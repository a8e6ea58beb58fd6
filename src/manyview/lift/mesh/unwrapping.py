"""Texture coordinates."""

from __future__ import annotations

import numpy as np
import trimesh
import xatlas
from trimesh.visual import TextureVisuals

from manyview.errors import InputError

_PADDING_TEXELS = 4


def unwrap_mesh(mesh: trimesh.Trimesh, size: int = 1024) -> trimesh.Trimesh:
    """The mesh with one texture coordinate a vertex in [0, 1], (0, 0) lower left, no two faces on one place.

    Vertices are doubled at the seams between charts; faces keep their order. `size` is the side of the
    texture in texels that the charts are spaced for, 4 apart, so that padding fits between them. By xatlas.
    Any former coordinates and colours are dropped. Raises `InputError` for a mesh without faces or with NaN.
    """
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    if len(faces) == 0 or not np.isfinite(vertices).all():
        raise InputError("mesh", f"{len(faces)} faces", "expected triangles with finite corners")
    if size < 16:
        raise InputError("size", size, "expected a texture of at least 16 texels a side")
    # Seams of an earlier unwrapping would cut the charts again.
    places, place = np.unique(vertices, axis=0, return_inverse=True)
    merged = place.reshape(-1)[faces]
    extent = max(float(np.ptp(places, axis=0).max()), 1e-300)
    unit = (places - places.mean(axis=0)) / extent

    atlas = xatlas.Atlas()
    atlas.add_mesh(unit.astype(np.float32), merged.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, _PADDING_TEXELS, True
    atlas.generate(xatlas.ChartOptions(), packing)
    origin, triangles, uv = atlas[0]
    uv = np.asarray(uv, dtype=np.float64)
    if not np.isfinite(uv).all():
        raise InputError("mesh", "could not be unwrapped", "expected triangles with an area")
    # Renderers repeat textures, so a chart at one border would take colour from the opposite one.
    margin = _PADDING_TEXELS / 2 / size
    return trimesh.Trimesh(
        places[np.asarray(origin)],
        np.asarray(triangles, dtype=np.int64),
        visual=TextureVisuals(uv=margin + uv.clip(0, 1) * (1 - 2 * margin)),
        process=False,
    )
