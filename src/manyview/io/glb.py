"""Meshes as binary glTF, which has +Y up where the package has +Z: (x, y, z) becomes (x, z, -y) in the
file.

Colours in memory are sRGB, as on a screen. So are glTF's textures; its vertex colours are linear light, and
are converted both ways (in the 8 bits that trimesh writes, which is coarse in the dark: prefer a texture).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic

if TYPE_CHECKING:
    import trimesh

GLTF_FROM_WORLD = np.array(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def write_glb(path: str | os.PathLike[str], mesh: trimesh.Trimesh, *, argument: str = "--out") -> None:
    """Write a mesh in world coordinates (+Z up) as .glb, with its texture or vertex colours. Atomic."""
    turned = mesh.copy()
    turned.apply_transform(GLTF_FROM_WORLD)
    visual: Any = turned.visual
    if visual.kind in ("vertex", "face"):
        visual.vertex_colors = _converted(visual.vertex_colors, _linear_from_srgb)
    data = turned.export(file_type="glb")
    assert isinstance(data, bytes), "trimesh gives a binary glTF as bytes"
    write_bytes_atomic(path, data, argument=argument)


def read_glb(path: str | os.PathLike[str], *, argument: str = "INPUT") -> trimesh.Trimesh:
    """The mesh of a .glb in world coordinates (+Z up); several parts become one. Raises `InputError` for
    none."""
    import trimesh

    if not Path(path).is_file():
        raise InputError(argument, os.fspath(path), "does not exist, expected a .glb file")
    try:
        mesh = trimesh.load_mesh(path, file_type="glb", process=False)
    except Exception as error:
        # trimesh raises whatever its parser stumbles over.
        raise InputError(argument, os.fspath(path), f"broken glb ({type(error).__name__})") from error
    if isinstance(mesh, trimesh.Scene):
        mesh = mesh.to_mesh()
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise InputError(argument, os.fspath(path), "holds no triangles")
    mesh.apply_transform(np.linalg.inv(GLTF_FROM_WORLD))
    visual: Any = mesh.visual
    if visual.kind == "vertex":
        visual.vertex_colors = _converted(visual.vertex_colors, _srgb_from_linear)
    return mesh


def _converted(rgba: np.ndarray, transfer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[N, 4] bytes with the colour, not the alpha, sent through `transfer`."""
    converted = np.array(rgba, dtype=np.uint8)
    converted[:, :3] = np.round(transfer(converted[:, :3] / 255.0) * 255)
    return converted


def _linear_from_srgb(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb_from_linear(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
