"""Procedural objects: closed, textured, in the unit box, the same for a seed, and seen where they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from manyview.data.procedural import TexturedMesh, make_object, render_object, render_seed, to_trimesh
from manyview.data.procedural.shapes import FAMILIES
from manyview.data.procedural.surfaces import Surface, box_uv, lathe, superellipse, sweep
from manyview.data.procedural.textures import TEXTURE_SIZE, fractal_noise, palette, random_texture
from manyview.data.render.fast import FastOptions, render_fast
from manyview.data.render.meshes import load_mesh
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import unproject
from manyview.geometry.trajectories import orbit

NAMES = [family.__name__ for family, _ in FAMILIES]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume: the sum of the tetrahedra between the origin and every face."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def open_edges(surface: Surface) -> int:
    """Directed edges without their opposite, after welding equal points: 0 for a closed surface."""
    weld = np.unique(surface.vertices.round(9), axis=0, return_inverse=True)[1].reshape(-1)
    faces = weld[surface.faces]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    counted = Counter(map(tuple, edges[edges[:, 0] != edges[:, 1]].tolist()))
    return sum(counted.get((b, a), 0) != number for (a, b), number in counted.items())


def digest(mesh: TexturedMesh) -> str:
    parts = (mesh.vertices, mesh.faces, mesh.corner_uv, mesh.corner_gain, mesh.material, mesh.textures)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("family", NAMES)
def test_parts_are_closed_and_face_outward(family: str) -> None:
    build = dict(zip(NAMES, (f for f, _ in FAMILIES), strict=True))[family]
    for seed in range(30):
        for number, (surface, slot) in enumerate(build(np.random.default_rng([7, seed]))):
            where = (family, seed, number)
            assert open_edges(surface) == 0, where
            assert volume(surface.vertices, surface.faces) > 0, where
            assert np.isfinite(surface.vertices).all(), where
            assert np.isfinite(surface.corner_uv).all(), where
            assert surface.corner_uv.shape == (len(surface.faces), 3, 2), where
            assert slot >= 0, where


@pytest.mark.parametrize("family", NAMES)
def test_objects_fill_the_unit_box(family: str) -> None:
    mesh = make_object(4, family)
    assert mesh.family == family
    low, high = mesh.vertices.amin(dim=0), mesh.vertices.amax(dim=0)
    torch.testing.assert_close(low + high, torch.zeros(3), atol=1e-6, rtol=0)
    assert abs(float((high - low).max()) - 1) < 1e-6
    assert 0 <= float(mesh.textures.min()) <= float(mesh.textures.max()) <= 1
    assert int(mesh.faces.min()) == 0
    assert int(mesh.faces.max()) < len(mesh.vertices)
    assert bool(torch.isfinite(mesh.corner_uv).all())
    assert 0 < float(mesh.corner_gain.min()) <= float(mesh.corner_gain.max()) <= 1
    assert int(mesh.material.max()) < len(mesh.textures)


def test_a_seed_is_an_object() -> None:
    hashes = [digest(make_object(seed)) for seed in range(64)]
    assert len(set(hashes)) == 64
    for seed in (0, 17, 63):
        assert digest(make_object(seed)) == hashes[seed]
    assert len({make_object(seed).family for seed in range(40)}) >= 6


def test_moved_turns_the_faces_of_a_mirror_image() -> None:
    box = lathe(np.array([[0, -1], [1, -1], [1, 1], [0, 1.0]]), superellipse(8, 2.0))
    mirrored = box.moved(np.diag([1.0, -1.0, 1.0]), (1, 2, 3))
    assert volume(mirrored.vertices, mirrored.faces) == pytest.approx(volume(box.vertices, box.faces))
    # Each face keeps its texture: corner k of a face still carries the uv of the point it came from.
    np.testing.assert_allclose(mirrored.corner_uv[:, ::-1], box.corner_uv)


def test_lathe_of_a_circle_is_a_cylinder() -> None:
    # A regular 64-gon inscribed in the unit circle has the area 32 sin(2 pi / 64).
    cylinder = lathe(np.array([[0, 0], [1, 0], [1, 3], [0, 3.0]]), superellipse(64, 2.0))
    expected = 3 * 32 * np.sin(2 * np.pi / 64)
    assert volume(cylinder.vertices, cylinder.faces) == pytest.approx(expected)


def test_a_straight_sweep_is_a_capped_prism() -> None:
    path = np.linspace([0.0, 0, 0], [0.3, 0.4, 1.2], 5)  # length 1.3
    tube = sweep(path, np.full(5, 0.1), superellipse(32, 2.0), (2.0, 3.0))
    assert volume(tube.vertices, tube.faces) == pytest.approx(1.3 * 0.01 * 16 * np.sin(2 * np.pi / 32))
    assert open_edges(tube) == 0
    # Texture coordinates run over the wall, whose ends get 0 and the repeat count.
    assert tube.corner_uv[..., 0].max() == pytest.approx(2)
    assert (tube.corner_uv[..., 1].min(), tube.corner_uv[..., 1].max()) == pytest.approx((0, 3))


def test_box_projection_reads_the_right_way_round_from_every_side() -> None:
    box = trimesh.creation.box()
    uv = box_uv(np.asarray(box.vertices), np.asarray(box.faces), 1.0)
    a, b, c = np.moveaxis(uv, 1, 0)
    # Seen from outside faces turn counter-clockwise, and so they must on the texture: no mirrored text.
    assert (np.cross(b - a, c - a) > 0).all()


def test_textures_stay_in_range_and_tile() -> None:
    for seed in range(24):
        rng = np.random.default_rng(seed)
        picture = random_texture(rng, palette(rng))
        assert picture.shape == (TEXTURE_SIZE, TEXTURE_SIZE, 3)
        assert picture.dtype == np.float32
        assert 0 <= picture.min() <= picture.max() <= 1
    for cells in (2, 5, 16, 23):
        noise = fractal_noise(np.random.default_rng(cells), cells)
        assert (noise.min(), noise.max()) == pytest.approx((0, 1), abs=1e-6)
        steps = np.abs(np.diff(noise, axis=1)).max()
        assert np.abs(noise[:, 0] - noise[:, -1]).max() < 3 * steps  # no seam


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_depth_leads_back_to_the_surface(seed: int) -> None:
    mesh, cameras = make_object(seed), orbit(3, size=48)
    views = render_object(mesh, cameras, supersample=1)
    assert views.masks is not None
    assert views.depths is not None
    hit = views.masks[:, 0] > 0
    assert torch.equal(hit, views.depths[:, 0] > 0)
    assert torch.equal(views.masks, (views.masks > 0).float())  # one sample a pixel: in or out
    pixels = pixel_centers(48, 48).reshape(1, -1, 2).expand(3, -1, -1)
    points = unproject(pixels, views.depths.reshape(3, -1), cameras.to(torch.float32))[hit.reshape(3, -1)]
    picked = points[:: max(1, len(points) // 40)].double().numpy()
    triangles = mesh.vertices[mesh.faces].double().numpy()
    for point in picked:
        nearest = trimesh.triangles.closest_point(triangles, np.broadcast_to(point, (len(triangles), 3)))
        assert np.linalg.norm(nearest - point, axis=1).min() < 1e-5


def test_masks_are_coverage_and_colour_is_straight() -> None:
    views = render_seed(3, orbit(2, size=32))
    assert views.masks is not None
    levels = set(views.masks.unique().tolist())
    assert levels <= {0, 0.25, 0.5, 0.75, 1}
    assert {0, 1} < levels
    assert bool((views.images[(views.masks == 0).expand(-1, 3, -1, -1)] == 0).all())
    # A plain white object is white wherever it is seen at all, not grey at its rim.
    mesh = make_object(3)
    white = replace(
        mesh, textures=torch.ones_like(mesh.textures), corner_gain=torch.ones_like(mesh.corner_gain)
    )
    seen = render_object(white, orbit(2, size=32))
    torch.testing.assert_close(seen.images, (views.masks > 0).float().expand(-1, 3, -1, -1))


@pytest.mark.parametrize("seed", [0, 9])
def test_turning_camera_and_object_together_changes_nothing(seed: int) -> None:
    """A quarter turn about z is exact in floating point: (x, y) -> (-y, x)."""
    mesh = make_object(seed)
    turned = replace(mesh, vertices=mesh.vertices[:, [1, 0, 2]] * torch.tensor([-1.0, 1, 1]))
    first = render_object(mesh, orbit(1, size=48))
    second = render_object(turned, orbit(1, size=48, start_azimuth_deg=90))
    error = (first.over() - second.over()).square().mean()
    assert float(error) < 1e-5
    other = render_object(mesh, orbit(1, size=48, start_azimuth_deg=90))
    assert float((first.over() - other.over()).square().mean()) > 1e-3  # the object is not symmetric


@pytest.mark.parametrize(("family", "seed"), [("boxy", 2), ("figure", 1), ("furniture", 2), ("lump", 1)])
def test_exported_mesh_renders_alike(family: str, seed: int, tmp_path: Path) -> None:
    """Through a glb file and Embree: the same outline, sample by sample, and nearly the same colours.

    Baked shading is left out of the file; the ray caster averages a pixel's samples in linear light.
    """
    mesh = make_object(seed, family)
    plain = replace(mesh, corner_gain=torch.ones_like(mesh.corner_gain))
    to_trimesh(mesh).export(tmp_path / "object.glb")
    loaded = load_mesh(tmp_path / "object.glb", up="z")
    cameras = orbit(2, size=48)
    ours = render_object(plain, cameras)
    cast = render_fast(loaded, cameras, FastOptions(samples=2, light=1.0, occlusion=0))
    assert ours.masks is not None
    assert cast.masks is not None
    assert float((ours.masks - cast.masks).abs().mean()) < 1e-3
    psnr = -10 * torch.log10((ours.over() - cast.over()).square().mean())
    assert float(psnr) > 26
