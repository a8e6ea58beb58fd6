"""Aligned animals: bodies that all face +X, so that a picture's yaw means something.

The training set of the compact generator of `refiner`: single views at random yaw, with depth and mask for
whoever measures. Identity (proportions, ears, tail, horns, colours) and yaw are drawn apart from each other.
Shapes: N views, H x W pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from manyview.data.procedural.objects import TexturedMesh, assemble, fit_unit_box, vertex_normals
from manyview.data.procedural.shapes import Part, blob, limb, mirrored
from manyview.data.procedural.source import render_object
from manyview.data.procedural.surfaces import Array, Surface, superellipse, sweep
from manyview.data.procedural.textures import TEXTURE_SIZE, Picture, fractal_noise
from manyview.geometry.trajectories import sphere_cameras
from manyview.types import Cameras, Views

_STREAM = 0x616E696D
_YAW_STREAM = 0x79617700
TRUNK, HEAD, LEGS, SNOUT, EYES, EARS = range(6)
"""The materials of an animal."""
_LIGHT = np.array([0.35, 0.45, 0.82])
"""Where the baked light comes from: above, in front, and from one side, the same for all."""


@dataclass(frozen=True)
class SingleViews:
    """One view of each of N animals."""

    images: NDArray[np.uint8]
    """[N, H, W, 3] over white"""
    masks: NDArray[np.uint8]
    """[N, H, W] coverage, 255 = animal"""
    depths: NDArray[np.float32]
    """[N, H, W] along the camera's z axis in world units, 0 = nothing"""
    yaw_deg: NDArray[np.float32]
    """[N] how far the camera stands counter-clockwise of the animal's front, seen from above"""
    seeds: NDArray[np.int64]
    """[N]"""
    K: NDArray[np.float32]
    """[3, 3] in pixels, the same for all"""


def make_animal(seed: int) -> TexturedMesh:
    """The animal of a seed: faces +X, stands on -Z, longest side 1, mirror-symmetric but for its light."""
    rng = np.random.default_rng([_STREAM, seed])
    parts = _body(rng)
    surfaces = fit_unit_box([surface for surface, _ in parts])
    gain = 1 - 0.4 * (0.5 - 0.5 * vertex_normals(surfaces) @ (_LIGHT / np.linalg.norm(_LIGHT)))
    textures = [_coat(rng, colour, slot) for slot, colour in enumerate(_colours(rng))]
    return assemble(surfaces, [slot for _, slot in parts], textures, gain.astype(np.float32), "animal")


def view_cameras(
    yaw_deg: Sequence[float], *, elevation_deg: float = 10.0, distance: float = 1.5, size: int = 64
) -> Cameras:
    """N cameras that look at the origin, turned counter-clockwise from the front (+X) by `yaw_deg`."""
    return sphere_cameras(list(yaw_deg), elevation_deg, distance, size=size)


def draw_yaw(seed: int, max_yaw_deg: float = 60.0) -> float:
    """The yaw that goes with a seed, uniform between -max and max; independent of the animal's shape."""
    return float(np.random.default_rng([_YAW_STREAM, seed]).uniform(-max_yaw_deg, max_yaw_deg))


def render_single_views(
    seeds: Sequence[int],
    *,
    size: int = 64,
    max_yaw_deg: float = 60.0,
    elevation_deg: float = 10.0,
    distance: float = 1.5,
    supersample: int = 2,
    device: torch.device | str = "cpu",
) -> SingleViews:
    """One view of each seed's animal, at the yaw of `draw_yaw`. Item i depends on seeds[i] alone."""
    yaw = [draw_yaw(seed, max_yaw_deg) for seed in seeds]
    cameras = view_cameras(yaw, elevation_deg=elevation_deg, distance=distance, size=size)
    shape = (len(seeds), size, size)
    images, masks = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    depths = np.empty(shape, np.float32)
    for place, seed in enumerate(seeds):
        view = render_object(make_animal(seed).to(device), cameras[place].to(device), supersample)
        assert view.masks is not None, "renderers give masks"
        assert view.depths is not None, "renderers give depths"
        images[place] = _as_bytes(view.over(1.0)[0].permute(1, 2, 0))
        masks[place] = _as_bytes(view.masks[0, 0])
        depths[place] = view.depths[0, 0].cpu().numpy()
    return SingleViews(
        images=images,
        masks=masks,
        depths=depths,
        yaw_deg=np.asarray(yaw, np.float32),
        seeds=np.asarray(seeds, np.int64),
        K=view_cameras([0.0], size=size).K[0].numpy(),
    )


def render_sweep(
    seed: int,
    yaw_deg: Sequence[float],
    *,
    size: int = 64,
    elevation_deg: float = 10.0,
    distance: float = 1.5,
    supersample: int = 2,
    device: torch.device | str = "cpu",
) -> Views:
    """One animal seen at the given yaws, with cameras, masks and depths."""
    cameras = view_cameras(yaw_deg, elevation_deg=elevation_deg, distance=distance, size=size)
    return render_object(make_animal(seed).to(device), cameras.to(device), supersample)


def _body(rng: np.random.Generator) -> list[Part]:
    length, width, height = rng.uniform(0.5, 0.75), rng.uniform(0.3, 0.46), rng.uniform(0.3, 0.42)
    leg, thick = rng.uniform(0.16, 0.34), rng.uniform(0.05, 0.09)
    centre = np.array([0.0, 0.0, leg + 0.4 * height])
    parts: list[Part] = [(_smooth(rng, (length, width, height), centre), TRUNK)]
    side = rng.uniform(0.28, 0.42)
    size = side * np.array([rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.05), 1.0])
    head = centre + [0.45 * length + 0.2 * size[0], 0, rng.uniform(0.35, 0.75) * height]
    parts.append((_smooth(rng, tuple(size), head), HEAD))
    neck = limb(rng, centre + [0.3 * length, 0, 0.1 * height], head, 0.38 * float(size[1]))
    parts.append((neck, TRUNK))
    parts += _face(rng, head, size)
    for x in (-0.33, 0.33):
        hip = centre + [x * length, 0.3 * width, -0.1 * height]
        parts += mirrored(_post(hip, np.array([hip[0], hip[1], 0.0]), thick), LEGS)
    root = centre + [-0.45 * length, 0, 0.15 * height]
    tip = root + [-rng.uniform(0.08, 0.25), 0, rng.uniform(-0.15, 0.3)]
    parts.append((limb(rng, root, tip, rng.uniform(0.03, 0.07)), EARS))
    return parts


def _face(rng: np.random.Generator, head: Array, size: Array) -> list[Part]:
    """Snout, eyes, ears, and sometimes horns, at a head's front (+X)."""
    snout = (rng.uniform(0.35, 0.75) * size[0], rng.uniform(0.4, 0.65) * size[1], 0.4 * size[2])
    parts: list[Part] = [(_smooth(rng, snout, head + [0.5 * size[0], 0, -0.15 * size[2]]), SNOUT)]
    eye = 0.2 * float(size[2]) * rng.uniform(0.8, 1.2)
    place = head + np.array([0.38, 0.27, 0.16]) * size
    parts += mirrored(_smooth(rng, (eye, eye, eye), place), EYES)
    if rng.random() < 0.5:  # standing ears
        ear = (0.1, rng.uniform(0.1, 0.16), rng.uniform(0.2, 0.36))
        parts += mirrored(_smooth(rng, ear, head + [0, 0.3 * size[1], 0.6 * size[2]]), EARS)
    else:  # hanging or round ones
        ear = (0.1, rng.uniform(0.12, 0.2), rng.uniform(0.16, 0.26))
        parts += mirrored(_smooth(rng, ear, head + [-0.02, 0.58 * size[1], 0.1 * size[2]]), EARS)
    if rng.random() < 0.25:
        root = head + [0.1 * size[0], 0.2 * size[1], 0.35 * size[2]]
        tip = root + [rng.uniform(-0.02, 0.12), rng.uniform(0.02, 0.1), rng.uniform(0.12, 0.22)]
        parts += mirrored(limb(rng, root, tip, 0.04), SNOUT)
    return parts


def _smooth(rng: np.random.Generator, size: Sequence[float], offset: Array) -> Surface:
    return blob(rng, np.asarray(size, np.float64), rough=0.02).moved(offset=offset)


def _post(top: Array, foot: Array, thickness: float) -> Surface:
    path = np.linspace(top, foot, 5)
    return sweep(path, np.full(5, thickness), superellipse(12, 2.5))


def _colours(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """One for each material; trunk, head and legs differ clearly, eyes are dark."""
    hue = rng.random()
    trunk = colorsys.hsv_to_rgb(hue, rng.uniform(0.35, 0.9), rng.uniform(0.45, 0.9))
    head_hue = hue + rng.choice([0.0, 0.08, -0.08, 0.5]) + rng.normal(scale=0.02)
    head = colorsys.hsv_to_rgb(head_hue % 1, rng.uniform(0.2, 0.8), rng.uniform(0.6, 0.95))
    legs = colorsys.hsv_to_rgb(
        (hue + rng.normal(scale=0.04)) % 1, rng.uniform(0.4, 0.9), rng.uniform(0.2, 0.5)
    )
    snout = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.7, 1.0))
    ears = legs if rng.random() < 0.5 else snout
    return [trunk, head, legs, snout, (0.06, 0.05, 0.07), ears]


def _coat(rng: np.random.Generator, colour: tuple[float, float, float], slot: int) -> Picture:
    """[T, T, 3] plain, or on the trunk now and then patches or hoops in a second colour."""
    base = np.broadcast_to(np.asarray(colour, np.float32), (TEXTURE_SIZE, TEXTURE_SIZE, 3)).copy()
    kind, other = rng.random(), np.asarray(colour, np.float32) * np.float32(rng.uniform(0.3, 0.6))
    if slot != TRUNK or kind < 0.5:
        return base
    if kind < 0.75:
        spots = fractal_noise(rng, 4) > 0.55
    else:
        spots = np.broadcast_to((np.arange(TEXTURE_SIZE) * 8 // TEXTURE_SIZE % 2 == 1), base.shape[:2])
    base[spots] = other
    return base


def _as_bytes(values: torch.Tensor) -> NDArray[np.uint8]:
    return (values * 255).round().to(torch.uint8).cpu().numpy()
