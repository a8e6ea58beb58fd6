"""Meshes seen by cameras, in any scale, with the ray caster that also renders data sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from manyview.data.render.fast import FastOptions, render_fast
from manyview.data.render.meshes import Material, RenderMesh
from manyview.data.render.texture import linear_from_byte
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views


def render_mesh(mesh: trimesh.Trimesh, cameras: Cameras, *, lit: bool = False, samples: int = 2) -> Views:
    """Views of a mesh in world coordinates (+Z up): straight colour, coverage as mask, depth.

    By default the base colour as it is, which suits a texture baked from pictures, since it holds their
    light already; with `lit` under the uniform light of the data sets (see `render_fast`). `samples` rays
    along each side of a pixel. Colours in memory are sRGB. Raises `InputError` for a mesh without faces and
    for cameras with distortion or of different sizes.
    """
    if len(mesh.faces) == 0:
        raise InputError("mesh", "no faces", "expected triangles")
    low, high = mesh.bounds
    side = max(float((high - low).max()), 1e-12)
    # The renderer's tolerances are for an object of side 1 about the origin.
    middle = torch.from_numpy((low + high) / 2)
    to_unit = Similarity(1 / side, torch.eye(3, dtype=torch.float64), -middle / side)
    surface = _render_mesh(mesh, to_unit, lit)
    # A metal without gloss under light 1 sends back just its colour.
    options = FastOptions(samples=samples) if lit else FastOptions(samples=samples, light=1.0, occlusion=0)
    moved = to_unit.apply_to_cameras(cameras.to(torch.float64)).to(cameras.K.dtype)
    views = render_fast(surface, moved, options)
    return replace(views, cameras=cameras, depths=None if views.depths is None else views.depths * side)


def render_turntable(
    mesh: trimesh.Trimesh,
    num_frames: int = 48,
    *,
    size: int = 512,
    elevation_deg: float = 20.0,
    background: float = 1.0,
    progress: Progress = silent,
) -> Tensor:
    """[N, 3, size, size] frames of one full turn round the mesh, for `io.video.write_mp4`.

    The orbit is about the middle of the bounding box, at 1.5 of its longest sides.
    """
    if num_frames < 1:
        raise InputError("num_frames", num_frames, "expected at least 1")
    low, high = mesh.bounds
    side = float((high - low).max())
    cameras = orbit(num_frames, elevation_deg, 1.5 * side, size=size).to(torch.float64)
    centre = torch.from_numpy((low + high) / 2)
    placed = Similarity(1.0, torch.eye(3, dtype=torch.float64), centre).apply_to_cameras(cameras)
    frames = []
    progress.start(num_frames, "frames")
    try:
        for index in range(num_frames):
            frames.append(render_mesh(mesh, placed[index]).over(background)[0].float())
            progress.advance()
    finally:
        progress.finish()
    return torch.stack(frames)


def _render_mesh(mesh: trimesh.Trimesh, to_unit: Similarity, lit: bool) -> RenderMesh:
    vertices = np.array(mesh.vertices, dtype=np.float64)
    faces = np.asarray(mesh.faces)
    uv, colors = np.zeros((len(vertices), 2)), np.ones((len(vertices), 3))
    material = Material(factor=(0.6, 0.6, 0.6))
    visual: Any = mesh.visual
    if visual.kind == "texture" and visual.uv is not None:
        material = _material(visual.material) or material
        uv = np.asarray(visual.uv, dtype=np.float64)
    elif visual.kind in ("vertex", "face"):
        material = Material()
        if visual.kind == "face":
            shades = np.repeat(visual.face_colors[:, :3], 3, axis=0)
            vertices, uv = vertices[faces.reshape(-1)], np.zeros((faces.size, 2))
            faces = np.arange(faces.size).reshape(-1, 3)
        else:
            shades = visual.vertex_colors[:, :3]
        colors = linear_from_byte(np.asarray(shades, dtype=np.uint8))
    if not lit:
        material = replace(material, metallic=1.0)
    return RenderMesh(
        vertices=to_unit.apply_to_points(torch.from_numpy(vertices)).numpy().astype(np.float32),
        faces=faces.astype(np.int32),
        uv=uv.astype(np.float32),
        colors=colors.astype(np.float32),
        face_material=np.zeros(len(faces), np.int32),
        materials=(material,),
        unit_from_file=np.eye(4),
    )


def _material(material: object) -> Material | None:
    """A trimesh material's base colour picture, roughness and metal; None where it has no picture."""
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None:
        return None
    roughness, metallic = (getattr(material, f"{name}Factor", None) for name in ("roughness", "metallic"))
    plain = Material(texture=np.asarray(image.convert("RGB")))
    return replace(
        plain,
        roughness=plain.roughness if roughness is None else float(roughness),
        metallic=plain.metallic if metallic is None else float(metallic),
    )
