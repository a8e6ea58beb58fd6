"""Random textured objects by seed: the training set of the compact weights, and ground truth for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from manyview.data.procedural.shapes import FAMILIES, rotation_z
from manyview.data.procedural.surfaces import Array, Surface
from manyview.data.procedural.textures import TEXTURE_SIZE, palette, random_texture

NUM_MATERIALS = 4


@dataclass(frozen=True)
class TexturedMesh:
    """One object: centred on its bounding box, longest side 1, z up, closed parts."""

    vertices: Tensor
    """[N, 3] float32"""
    faces: Tensor
    """[F, 3] int64, counter-clockwise seen from outside"""
    corner_uv: Tensor
    """[F, 3, 2] float32, repeating outside [0, 1], (0, 0) bottom left"""
    corner_gain: Tensor
    """[F, 3, 1] float32 factor on the texture's colour (baked soft shading)"""
    material: Tensor
    """[F] int64"""
    textures: Tensor
    """[M, 3, T, T] float32 in [0, 1], rows from top to bottom"""
    family: str

    def to(self, device: torch.device | str) -> TexturedMesh:
        """The same object on a device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def make_object(seed: int, family: str | None = None) -> TexturedMesh:
    """The object of a seed: the same on every machine, different for every seed.

    `family` fixes the kind of shape (see `shapes.FAMILIES`); by default it is drawn.
    """
    rng = np.random.default_rng([0x6D616E79, seed])
    weights = np.array([weight for _, weight in FAMILIES])
    index = int(rng.choice(len(FAMILIES), p=weights / weights.sum()))
    if family is not None:
        index = [f.__name__ for f, _ in FAMILIES].index(family)
    parts = FAMILIES[index][0](rng)
    linear = _random_orientation(rng)
    surfaces = [surface.moved(linear) for surface, _ in parts]
    slots = [slot % NUM_MATERIALS for _, slot in parts]

    surfaces = fit_unit_box(surfaces)
    colours = palette(rng)
    textures = [random_texture(rng, np.roll(colours, -slot, axis=0)) for slot in range(NUM_MATERIALS)]
    gain = _soft_shading(rng, surfaces)
    return assemble(surfaces, slots, textures, gain, FAMILIES[index][0].__name__)


def fit_unit_box(surfaces: list[Surface]) -> list[Surface]:
    """The surfaces moved so that the box around them all is centred and its longest side is 1."""
    everything = np.concatenate([surface.vertices for surface in surfaces])
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 1 / (high - low).max()
    return [surface.moved(np.eye(3) * scale, -(low + high) / 2 * scale) for surface in surfaces]


def assemble(
    surfaces: list[Surface],
    slots: list[int],
    textures: list[NDArray[np.float32]],
    gain: NDArray[np.float32],
    family: str,
) -> TexturedMesh:
    """One object of surfaces, each with the number of its texture [T, T, 3]; `gain` [N] is the factor on the
    colour at every vertex of them all."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in surfaces])
    faces = np.concatenate([s.faces + o for s, o in zip(surfaces, offsets[:-1], strict=True)])
    vertices = np.concatenate([s.vertices for s in surfaces])
    return TexturedMesh(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(faces),
        corner_uv=torch.from_numpy(np.concatenate([s.corner_uv for s in surfaces]).astype(np.float32)),
        corner_gain=torch.from_numpy(gain[faces][..., None]),
        material=torch.from_numpy(np.repeat(slots, [len(s.faces) for s in surfaces]).astype(np.int64)),
        textures=torch.from_numpy(np.stack(textures)).permute(0, 3, 1, 2).contiguous(),
        family=family,
    )


def to_trimesh(mesh: TexturedMesh) -> trimesh.Trimesh:
    """The object as one textured trimesh (z up, one texture strip, baked shading left out).

    A face whose texture coordinates repeat finds its material's picture as often as it needs in the strip.
    """
    uv = mesh.corner_uv.numpy()
    local = uv - np.floor(uv.min(axis=1, keepdims=True) + 1e-6)
    num_tiles = max(1, int(np.ceil(local.max() - 1e-6)))
    local = np.clip(local, 0, num_tiles) / num_tiles
    # Half a texel in from the sides, so that no filter reads the neighbouring material.
    inset = 0.5 / (TEXTURE_SIZE * num_tiles)
    local = inset + local * (1 - 2 * inset)
    num_materials = mesh.textures.shape[0]
    local[..., 0] = (local[..., 0] + mesh.material.numpy()[:, None]) / num_materials
    strip = mesh.textures.repeat(1, 1, num_tiles, num_tiles).permute(2, 0, 3, 1).flatten(1, 2)
    image = Image.fromarray((strip.numpy() * 255).round().astype(np.uint8))
    material = PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
    return trimesh.Trimesh(
        vertices=mesh.vertices.numpy()[mesh.faces.numpy()].reshape(-1, 3),
        faces=np.arange(mesh.faces.numel()).reshape(-1, 3),
        visual=TextureVisuals(uv=local.reshape(-1, 2), material=material),
        process=False,
    )


def _random_orientation(rng: np.random.Generator) -> Array:
    """Mostly upright; scanned objects sit square to the axes more often than not."""
    if rng.random() < 0.6:
        yaw = float(rng.integers(4)) * np.pi / 2 + rng.normal(scale=0.05)
    else:
        yaw = rng.uniform(0, 2 * np.pi)
    linear = rotation_z(yaw)
    if rng.random() < 0.08:
        linear, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        linear *= np.sign(np.linalg.det(linear))
    if rng.random() < 0.5:
        linear = linear @ np.diag([1.0, -1.0, 1.0])
    return linear


def vertex_normals(surfaces: list[Surface]) -> Array:
    """[N, 3] unit outward normals at the vertices of all surfaces, averaged by area over the faces there."""
    normals = []
    for surface in surfaces:
        corners = surface.vertices[surface.faces]
        face_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros_like(surface.vertices)
        for corner in range(3):
            np.add.at(total, surface.faces[:, corner], face_normal)
        normals.append(total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12))
    return np.concatenate(normals)


def _soft_shading(rng: np.random.Generator, surfaces: list[Surface]) -> NDArray[np.float32]:
    """[N] baked light: darker below and away from a random direction, darker near the centre (as
    occlusion among parts is), so that a surface's colour does not depend on the camera."""
    normal = vertex_normals(surfaces)
    vertices = np.concatenate([surface.vertices for surface in surfaces])
    light = rng.normal(size=3) + [0, 0, 1.2]
    light /= np.linalg.norm(light)
    strength = rng.uniform(0.0, 0.35)
    depth = np.clip(1 - np.linalg.norm(vertices, axis=1) / 0.5, 0, 1)
    gain = 1 - strength * (0.5 - 0.5 * normal @ light) - rng.uniform(0.0, 0.3) * depth
    exposure = rng.uniform(0.7, 1.0)
    return (gain * exposure).astype(np.float32)
