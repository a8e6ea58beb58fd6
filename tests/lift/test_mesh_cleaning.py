"""Fewer parts, fewer triangles, and texture coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from manyview.errors import InputError
from manyview.lift.mesh.cleaning import largest_component, simplify_mesh
from manyview.lift.mesh.unwrapping import unwrap_mesh


def ball(radius: float = 0.5, subdivisions: int = 3) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def moved(mesh: trimesh.Trimesh, x: float) -> trimesh.Trimesh:
    copy = mesh.copy()
    copy.apply_translation([x, 0, 0])
    return copy


def test_largest_is_by_area_not_by_faces() -> None:
    big = trimesh.creation.box(extents=[1, 1, 1])
    crumb = moved(ball(0.1), 3)
    third = moved(trimesh.creation.box(extents=[0.8, 0.8, 0.8]), -3)
    mesh = trimesh.util.concatenate([crumb, big, third])
    kept = largest_component(mesh)
    np.testing.assert_allclose(kept.bounds, big.bounds)
    assert len(kept.faces) == 12
    assert len(kept.vertices) == 8
    assert kept.is_watertight
    # The third has 0.64 of the area.
    assert len(largest_component(mesh, min_share=0.6).faces) == 24
    assert len(largest_component(mesh, min_share=0.65).faces) == 12


def test_simplified_sphere_stays_a_sphere() -> None:
    mesh = ball(0.5, 4)
    simple = simplify_mesh(mesh, 320)
    # icosphere(4) has 5120 faces; 320 is that of icosphere(2), whose volume is 0.96 of the ball's.
    assert 200 <= len(simple.faces) <= 320
    assert simple.is_watertight
    assert 0.93 < simple.volume / (4 / 3 * np.pi * 0.5**3) < 1.01
    np.testing.assert_allclose(np.linalg.norm(simple.vertices, axis=1), 0.5, atol=0.02)


def test_simplifying_does_not_depend_on_scale_or_place() -> None:
    mesh = ball(0.5, 3)
    large = mesh.copy()
    large.apply_transform(np.diag([1024.0, 1024, 1024, 1]))
    large.apply_translation([4096.0, 0, 0])
    a, b = simplify_mesh(mesh, 300), simplify_mesh(large, 300)
    assert len(a.faces) == len(b.faces)
    np.testing.assert_allclose((b.vertices - [4096, 0, 0]) / 1024, a.vertices, atol=1e-6)


def test_few_faces_stay() -> None:
    box = trimesh.creation.box()
    same = simplify_mesh(box, 100)
    np.testing.assert_array_equal(same.triangles, box.triangles)


def test_unwrapping_keeps_the_surface() -> None:
    mesh = ball(40.0, 2)
    flat = unwrap_mesh(mesh, 128)
    np.testing.assert_allclose(flat.triangles, mesh.triangles)
    uv = flat.visual.uv
    assert uv.shape == (len(flat.vertices), 2)
    # Two texels of 128 stay free along the borders.
    assert uv.min() >= 2 / 128 - 1e-9
    assert uv.max() <= 126 / 128 + 1e-9


def test_no_two_faces_on_one_texel() -> None:
    flat = unwrap_mesh(trimesh.util.concatenate([trimesh.creation.box(), moved(ball(0.5, 1), 2)]), 128)
    corners = flat.visual.uv[flat.faces]
    # Signed areas of triangles against each centre of a 100 x 100 grid: at most one triangle holds it.
    axis = (np.arange(100) + 0.5) / 100
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    signs = []
    for k in range(3):
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        edge, to = b - a, points - a
        signs.append(np.sign(edge[:, 0] * to[..., 1] - edge[:, 1] * to[..., 0]))
    held = (np.abs(np.sum(signs, axis=0)) == 3).sum(axis=1)
    assert held.max() == 1
    assert held.mean() > 0.4


def test_unwrapping_twice_is_the_same() -> None:
    mesh = ball(0.5, 2)
    once = unwrap_mesh(mesh, 128)
    np.testing.assert_array_equal(unwrap_mesh(mesh, 128).visual.uv, once.visual.uv)
    # Seams of the first time do not cut the second.
    assert len(unwrap_mesh(once, 128).vertices) == len(once.vertices)


def test_faults() -> None:
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int), process=False)
    broken = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(InputError, match="no faces"):
        largest_component(nothing)
    with pytest.raises(InputError, match="min_share"):
        largest_component(ball(), min_share=0)
    with pytest.raises(InputError, match="num_faces"):
        simplify_mesh(ball(), 3)
    for mesh in (nothing, broken):
        with pytest.raises(InputError, match="mesh"):
            unwrap_mesh(mesh)
    with pytest.raises(InputError, match="size"):
        unwrap_mesh(ball(), 8)
