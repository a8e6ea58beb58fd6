"""Mesh files as the two render engines take them: one triangle soup in the unit box, world up +Z.

What is read: base colour (factor, texture, vertex or face colours), roughness and metallic factors.
What is not: normal maps, metallic-roughness textures, emission, transparency. Both engines see the same.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from manyview.data.render.texture import linear_from_byte
from manyview.errors import InputError

UpAxis = Literal["y", "z"]
MESH_SUFFIXES: dict[str, UpAxis] = {
    ".glb": "y",
    ".gltf": "y",
    ".obj": "y",
    ".ply": "z",
    ".stl": "z",
    ".off": "z",
}
"""The files `load_mesh` reads and the up axis it takes for granted when none is given."""

_PLAIN_GREY = (0.6, 0.6, 0.6)
_Z_UP_FROM_Y_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Material:
    """A surface: base colour = texture x factor, in linear RGB."""

    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: np.ndarray | None = None
    """[H, W, 3] uint8 sRGB, first row on top, or None."""
    roughness: float = 0.8
    metallic: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RenderMesh:
    """Triangles centred on the origin with a longest bounding box side of 1, world up +Z."""

    vertices: np.ndarray
    """[N, 3] float32."""
    faces: np.ndarray
    """[F, 3] int32, anticlockwise seen from outside."""
    uv: np.ndarray
    """[N, 2] float32, (0, 0) = lower left of the image; zeros where unused."""
    colors: np.ndarray
    """[N, 3] float32 linear vertex colour, multiplied with the material; ones where unused."""
    face_material: np.ndarray
    """[F] int32 index into `materials`."""
    materials: tuple[Material, ...]
    unit_from_file: np.ndarray
    """[4, 4] the similarity that took the file's coordinates to these."""


def default_up(path: Path) -> UpAxis:
    """The up axis taken for a file's format: y for glb, gltf and obj; z for ply, stl and off.

    Raises `InputError` for other formats.
    """
    up = MESH_SUFFIXES.get(path.suffix.lower())
    if up is None:
        raise InputError("mesh", str(path), "expected a file of type " + ", ".join(MESH_SUFFIXES))
    return up


def load_mesh(path: Path | str, up: UpAxis | None = None) -> RenderMesh:
    """Read a mesh file, flatten its scene graph and normalise it.

    A y-up file is turned by (x, y, z) -> (x, -z, y). The result is centred on the middle of the bounding
    box and scaled to a longest side of 1 (the normalisation of the SyncDreamer renders). Raises
    `InputError` for a missing, unreadable, empty or degenerate file.
    """
    path = Path(path)
    expected_up = default_up(path)
    if up not in (None, "y", "z"):
        raise InputError("up", up, "expected y or z")
    scene = _read_scene(path)
    parts = _placed_parts(scene)
    if not parts:
        raise InputError("mesh", str(path), "holds no triangles")
    turned = _Z_UP_FROM_Y_UP if (up or expected_up) == "y" else np.eye(4)
    colors_are_linear = path.suffix.lower() in (".glb", ".gltf")
    return _joined(path, parts, turned, colors_are_linear)


def unit_glb_bytes(path: Path | str, mesh: RenderMesh) -> bytes:
    """The file's scene as glb, moved to the unit box of `mesh` and to glTF's axes (+Y up)."""
    scene = _read_scene(Path(path))
    scene.apply_transform(np.linalg.inv(_Z_UP_FROM_Y_UP) @ mesh.unit_from_file)
    exported: Any = scene.export(file_type="glb")
    return bytes(exported)


def _read_scene(path: Path) -> trimesh.Scene:
    if not path.is_file():
        raise InputError("mesh", str(path), "no such file")
    try:
        loaded = trimesh.load_scene(path, process=False)
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError("mesh", str(path), f"could not be read ({reason})") from error
    return loaded


def _placed_parts(scene: trimesh.Scene) -> list[tuple[trimesh.Trimesh, np.ndarray]]:
    parts = []
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append((geometry, np.asarray(transform, dtype=np.float64)))
    return parts


def _joined(
    path: Path, parts: list[tuple[trimesh.Trimesh, np.ndarray]], turned: np.ndarray, colors_are_linear: bool
) -> RenderMesh:
    vertices, faces, uvs, colors, face_material = [], [], [], [], []
    materials: list[Material] = []
    start = 0
    for index, (geometry, transform) in enumerate(parts):
        surface = _surface(geometry, colors_are_linear)
        to_world = turned @ transform
        points = np.asarray(geometry.vertices, dtype=np.float64)[surface.order]
        vertices.append(points @ to_world[:3, :3].T + to_world[:3, 3])
        triangles = surface.faces[:, ::-1] if np.linalg.det(to_world[:3, :3]) < 0 else surface.faces
        faces.append(triangles + start)
        uvs.append(surface.uv)
        colors.append(surface.colors)
        materials.append(surface.material)
        face_material.append(np.full(len(triangles), index))
        start += len(points)
    points, triangles = np.concatenate(vertices), np.concatenate(faces)
    used = points[np.unique(triangles)]
    low, high = used.min(axis=0), used.max(axis=0)
    longest = float((high - low).max())
    if not np.isfinite(longest) or longest <= 0:
        raise InputError("mesh", str(path), "has no extent or holds NaN or infinity")
    unit = np.eye(4)
    unit[:3] = np.column_stack([np.eye(3) / longest, -(low + high) / 2 / longest])
    return RenderMesh(
        vertices=((points - (low + high) / 2) / longest).astype(np.float32),
        faces=triangles.astype(np.int32),
        uv=np.concatenate(uvs).astype(np.float32),
        colors=np.concatenate(colors).astype(np.float32),
        face_material=np.concatenate(face_material).astype(np.int32),
        materials=tuple(materials),
        unit_from_file=unit @ turned,
    )


@dataclass(frozen=True)
class _Surface:
    order: np.ndarray
    """[N] the file's vertex of each of ours: vertices are split where faces carry colours."""
    faces: np.ndarray
    uv: np.ndarray
    colors: np.ndarray
    material: Material


def _surface(geometry: trimesh.Trimesh, colors_are_linear: bool) -> _Surface:
    faces = np.asarray(geometry.faces, dtype=np.int64)
    order = np.arange(len(geometry.vertices))
    uv = np.zeros((len(order), 2))
    colors = np.ones((len(order), 3))
    material = Material(factor=_PLAIN_GREY)
    visual: Any = geometry.visual
    if visual.kind == "texture":
        material = _material(visual.material)
        if visual.uv is not None and len(visual.uv) == len(order):
            uv = np.nan_to_num(np.asarray(visual.uv, dtype=np.float64))
        elif material.texture is not None:
            mean = linear_from_byte(material.texture).mean(axis=(0, 1)) * material.factor
            material = Material(
                factor=_triple(mean), roughness=material.roughness, metallic=material.metallic
            )
    elif visual.kind == "vertex":
        material = Material()
        colors = _linear_colors(visual.vertex_colors, colors_are_linear)
    elif visual.kind == "face":
        material = Material()
        order = faces.reshape(-1)
        colors = np.repeat(_linear_colors(visual.face_colors, colors_are_linear), 3, axis=0)
        uv = np.zeros((len(order), 2))
        faces = np.arange(len(order)).reshape(-1, 3)
    return _Surface(order, faces, uv, colors, material)


def _linear_colors(rgba: np.ndarray, already_linear: bool) -> np.ndarray:
    # glTF defines vertex colours as linear; ply and obj files hold what a screen should show.
    rgb = np.asarray(rgba)[:, :3].astype(np.uint8)
    return rgb / 255 if already_linear else linear_from_byte(rgb)


def _material(material: Any) -> Material:
    if isinstance(material, PBRMaterial):
        factor = material.baseColorFactor
        return Material(
            factor=(1.0, 1.0, 1.0) if factor is None else _triple(np.asarray(factor)[:3] / 255),
            texture=_bytes(material.baseColorTexture),
            roughness=1.0 if material.roughnessFactor is None else float(material.roughnessFactor),
            metallic=1.0 if material.metallicFactor is None else float(material.metallicFactor),
        )
    image = getattr(material, "image", None)
    if image is not None:
        return Material(texture=_bytes(image))
    # Without an image the diffuse colour of a material file counts, as linear light (Blender's reading).
    diffuse = getattr(material, "diffuse", None)
    return Material(factor=_PLAIN_GREY if diffuse is None else _triple(np.asarray(diffuse)[:3] / 255))


def _bytes(image: Image.Image | None) -> np.ndarray | None:
    return None if image is None else np.asarray(image.convert("RGB"))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def png_bytes(texture: np.ndarray) -> bytes:
    """A [H, W, 3] uint8 texture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(texture).save(buffer, format="PNG")
    return buffer.getvalue()
