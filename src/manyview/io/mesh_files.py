"""Meshes in the formats other programs open, in and out of the package's frame (+Z up).

| file | up in the file | colours |
|---|---|---|
| `.glb` | +Y (glTF) | base colour texture, or vertex colours |
| `.obj` + `.mtl` + `.png` | +Y (Blender's and most others' reading) | texture, or vertex colours |
| `.ply` | +Z (Blender's reading) | vertex colours; a texture is looked up at the vertices |
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.io.glb import GLTF_FROM_WORLD, read_glb, write_glb

MESH_SUFFIXES = (".glb", ".obj", ".ply")


def write_mesh(path: str | os.PathLike[str], mesh: trimesh.Trimesh, *, argument: str = "--out") -> None:
    """Write a mesh in world coordinates (+Z up) as `.glb`, `.obj` or `.ply`, by the suffix. Atomic.

    Raises `InputError` for another suffix, a mesh without faces, and a place that cannot be written.
    """
    suffix = _known_suffix(path, argument)
    if len(mesh.faces) == 0:
        raise InputError("mesh", "no faces", "expected triangles")
    if suffix == ".glb":
        write_glb(path, mesh, argument=argument)
    elif suffix == ".obj":
        _write_obj(Path(path), mesh, argument)
    else:
        data = _with_vertex_colors(mesh).export(file_type="ply")
        assert isinstance(data, bytes), "trimesh gives a binary ply as bytes"
        write_bytes_atomic(path, data, argument=argument)


def write_points(
    path: str | os.PathLike[str], points: np.ndarray, colors: np.ndarray, *, argument: str = "--out"
) -> None:
    """Write coloured points [N, 3] (world) with colours [N, 3] uint8 as a `.ply`. Atomic."""
    if Path(path).suffix.lower() != ".ply":
        raise InputError(argument, os.fspath(path), "expected a file name that ends in .ply")
    data = trimesh.PointCloud(points, colors=colors).export(file_type="ply")
    assert isinstance(data, bytes), "trimesh gives a binary ply as bytes"
    write_bytes_atomic(path, data, argument=argument)


def read_mesh(path: str | os.PathLike[str], *, argument: str = "INPUT") -> trimesh.Trimesh:
    """The mesh of a `.glb`, `.obj` or `.ply` in world coordinates (+Z up); several parts become one.

    Raises `InputError` for another suffix, a missing or broken file, and one without triangles.
    """
    suffix = _known_suffix(path, argument)
    if suffix == ".glb":
        return read_glb(path, argument=argument)
    if not Path(path).is_file():
        raise InputError(argument, os.fspath(path), f"does not exist, expected a {suffix} file")
    try:
        mesh = trimesh.load_mesh(path, file_type=suffix[1:], process=False)
    except Exception as error:
        # trimesh raises whatever its parsers stumble over.
        reason = f"broken {suffix[1:]} ({type(error).__name__})"
        raise InputError(argument, os.fspath(path), reason) from error
    if isinstance(mesh, trimesh.Scene):
        mesh = mesh.to_mesh()
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise InputError(argument, os.fspath(path), "holds no triangles")
    if suffix == ".obj":
        mesh.apply_transform(np.linalg.inv(GLTF_FROM_WORLD))
    return mesh


def _write_obj(path: Path, mesh: trimesh.Trimesh, argument: str) -> None:
    turned = mesh.copy()
    turned.apply_transform(GLTF_FROM_WORLD)
    visual: Any = turned.visual
    if isinstance(visual, TextureVisuals):
        # Names that cannot meet those of another mesh in the folder.
        material: Any = visual.material
        simple = material.to_simple() if hasattr(material, "to_simple") else material.copy()
        simple.name = path.stem.replace(" ", "_")
        if simple.image is not None:
            # What the picture is multiplied with; black by trimesh's default. Matt, since it holds its light.
            simple.ambient = simple.diffuse = np.array([255, 255, 255, 255], dtype=np.uint8)
            simple.specular = np.array([0, 0, 0, 255], dtype=np.uint8)
        turned.visual = TextureVisuals(uv=visual.uv, material=simple)
    library = path.with_suffix(".mtl").name
    text, others = export_obj(
        turned,
        include_normals=False,
        return_texture=True,
        mtl_name=library.replace(" ", "_"),
        header=path.stem,
    )
    # The mesh last: whoever finds it finds its picture.
    for name, data in others.items():
        write_bytes_atomic(path.with_name(name), data, argument=argument)
    write_bytes_atomic(path, text.encode("utf-8"), argument=argument)


def _with_vertex_colors(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    visual: Any = mesh.visual
    if not isinstance(visual, TextureVisuals):
        return mesh
    copy = mesh.copy()
    copy.visual = visual.to_color()
    return copy


def _known_suffix(path: str | os.PathLike[str], argument: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise InputError(argument, os.fspath(path), "expected a file of type " + ", ".join(MESH_SUFFIXES))
    return suffix
