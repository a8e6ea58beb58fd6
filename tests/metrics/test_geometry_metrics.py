"""Mesh metrics on shapes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.metrics.geometry import (
    chamfer,
    chamfer_visible,
    f_score,
    geometry_scores,
    normal_consistency,
    visible_points,
    volume_iou,
)
from manyview.metrics.occupancy import grid_occupancy

POINTS = 10_000
EYES = orbit(16, 30.0, size=48)


def ball(radius: float = 0.5, subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def box(*extents: float) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=extents)


def moved(mesh: trimesh.Trimesh, *offset: float) -> trimesh.Trimesh:
    copy = mesh.copy()
    copy.apply_translation(offset)
    return copy


def plate(z: float = 0.0) -> trimesh.Trimesh:
    """The unit square, in two triangles, looking up."""
    corners = [[-0.5, -0.5, z], [0.5, -0.5, z], [0.5, 0.5, z], [-0.5, 0.5, z]]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def test_chamfer_of_parallel_plates_is_their_distance() -> None:
    # Nearest points are 0.3 apart plus what the sampling adds: sqrt(0.3^2 + 0.004^2) = 0.30002.
    assert chamfer(plate(), plate(0.3), num_points=POINTS) == pytest.approx(0.3, abs=2e-4)


def test_chamfer_of_spheres() -> None:
    # Concentric, radii 0.5 and 0.4: every point is 0.1 from the other sphere. Faceting costs under 0.001.
    assert chamfer(ball(0.5), ball(0.4), num_points=POINTS) == pytest.approx(0.1, abs=1e-3)
    assert chamfer_visible(ball(0.5), ball(0.4), cameras=EYES) == pytest.approx(0.1, abs=2e-3)


def test_chamfer_of_two_samplings_is_the_stated_floor() -> None:
    # The nearest of N random points of density N / A is on average 1 / (2 sqrt(N / A)) away, here A = 1.
    value = chamfer(plate(), plate(), num_points=POINTS)
    assert value == pytest.approx(0.5 / np.sqrt(POINTS), rel=0.05)
    assert value == chamfer(plate(), plate(), num_points=POINTS)


def test_the_ways_are_averaged() -> None:
    # A plate against itself and another one 0.5 above: from mesh to target all 0, back half 0 and half 0.5,
    # so (0 + 0.25) / 2, and on top the floor of the sampling.
    both = trimesh.util.concatenate([plate(), plate(0.5)])
    assert chamfer(plate(), both, num_points=POINTS) == pytest.approx(0.125, abs=0.01)


def test_visible_ignores_what_is_inside() -> None:
    solid = box(1, 1, 1)
    hollow = trimesh.util.concatenate([solid, box(0.5, 0.5, 0.5)])
    assert chamfer_visible(hollow, solid, cameras=EYES) == 0
    # A cube of side 0.5 has a quarter of the area of one of side 1, so a fifth of the samples lie inside,
    # 0.25 deep.
    assert chamfer(hollow, solid, num_points=POINTS) > 0.2 * 0.25 / 2


def test_visible_points_lie_on_the_near_side() -> None:
    points = visible_points(box(1, 1, 1), orbit(1, 0.0, 2.0, size=32))
    # From (2, 0, 0), the face x = 0.5 alone: 32 * 35/32 / 1.5 = 23.3 pixels wide about the middle between
    # two pixels, so 24 x 24 centres lie on it.
    np.testing.assert_allclose(points[:, 0], 0.5, atol=1e-12)
    assert np.abs(points[:, 1:]).max() <= 0.5
    assert len(points) == 24**2


def test_visible_thinning_is_a_mean_per_cube() -> None:
    # The plate seen from above by one camera: points about 1.5/280 = 0.0054 apart, then one for each 0.1.
    camera = orbit(1, 89.9, 1.5, size=64)
    fine = chamfer_visible(plate(), plate(0.1), cameras=camera, voxel=0.1)
    # The two are seen at different scales, so their means lie beside each other: at least 0.1, at most the
    # diagonal to the middle of a cube more.
    assert 0.1 <= fine < np.hypot(0.1, 0.05 * np.sqrt(2))


def test_f_score_counts() -> None:
    # Half of `both` is at the plate (distance about 0), half is 0.5 off: precision 1/2, recall 1, so 2/3.
    both = trimesh.util.concatenate([plate(), plate(0.5)])
    assert f_score(both, plate(), threshold=0.05, num_points=POINTS) == pytest.approx(2 / 3, abs=0.01)
    assert f_score(plate(), plate(0.5), threshold=0.1, num_points=POINTS) == 0
    assert f_score(plate(), plate(), threshold=0.05, num_points=POINTS) == 1


def test_normal_consistency_of_tilted_plates() -> None:
    assert normal_consistency(plate(), plate(0.1), num_points=2000) == pytest.approx(1)
    tilted = plate()
    tilted.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 3, [1, 0, 0]))
    assert normal_consistency(plate(), tilted, num_points=2000) == pytest.approx(0.5)
    turned_over = trimesh.Trimesh(plate().vertices, plate().faces[:, ::-1], process=False)
    assert normal_consistency(plate(), turned_over, num_points=2000) == pytest.approx(1)


def test_iou_of_boxes() -> None:
    cube = box(1, 1, 1)
    assert volume_iou(cube, cube) == 1
    # Shifted by half its side: 1/2 of 1 in common, 3/2 together. The grid's cells are 1/32.
    assert volume_iou(moved(cube, 0.5, 0, 0), cube) == pytest.approx(1 / 3, abs=1e-9)
    assert volume_iou(box(1, 1, 0.5), cube) == pytest.approx(0.5, abs=1e-9)
    assert volume_iou(moved(cube, 1.5, 0, 0), cube) == 0
    # What sticks out of the grid is outside the comparison, what lies in it counts.
    assert volume_iou(ball(0.4), ball(0.5)) == pytest.approx(0.8**3, abs=0.01)


def test_iou_does_not_depend_on_scale() -> None:
    a, b = ball(0.4), box(0.8, 0.7, 0.6)
    big_a, big_b = a.copy(), b.copy()
    for mesh in (big_a, big_b):
        mesh.apply_scale(1000)
        mesh.apply_translation([3e4, -5e3, 1e3])
    assert volume_iou(big_a, big_b) == pytest.approx(volume_iou(a, b), abs=1e-3)


def inside(mesh: trimesh.Trimesh, resolution: int = 24) -> np.ndarray:
    return grid_occupancy(mesh, np.array([-0.6, -0.6, -0.6]), 1.2, resolution)


def centres(resolution: int = 24) -> np.ndarray:
    axis = -0.6 + 1.2 * (np.arange(resolution) + 0.5) / resolution
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def test_occupancy_of_a_closed_mesh_is_exact() -> None:
    # Not symmetric in any axis, so that swapped axes show.
    mesh = box(0.9, 0.5, 0.3)
    mesh.apply_translation([0.1, -0.2, 0.05])
    expected = (np.abs(centres() - [0.1, -0.2, 0.05]) < [0.45, 0.25, 0.15]).all(axis=-1)
    np.testing.assert_array_equal(inside(mesh), expected)
    turned = trimesh.creation.icosahedron()
    turned.apply_scale(0.5)
    # An icosahedron is where all 20 face planes say inside.
    heights = np.einsum("xyzi,fi->xyzf", centres(), turned.face_normals)
    planes = (turned.triangles[:, 0] * turned.face_normals).sum(axis=1)
    np.testing.assert_array_equal(inside(turned), (heights < planes).all(axis=-1))


def test_occupancy_with_vertices_on_the_lines() -> None:
    # Corners and diagonals of the box lie exactly on the grid's lines of centres (multiples of 1 / 20).
    mesh = box(0.5, 0.5, 0.5)
    assert inside(moved(mesh, 0.025, 0.025, 0.025)).sum() == 10**3
    assert inside(mesh).sum() == 10**3


def test_occupancy_of_overlapping_and_inside_out_meshes() -> None:
    cube = box(0.5, 0.5, 0.5)
    both = trimesh.util.concatenate([cube, moved(cube, 0.25, 0, 0)])
    np.testing.assert_array_equal(inside(both), inside(cube) | inside(moved(cube, 0.25, 0, 0)))
    turned = trimesh.Trimesh(cube.vertices, cube.faces[:, ::-1], process=False)
    np.testing.assert_array_equal(inside(turned), inside(cube))


def test_occupancy_of_a_mesh_with_a_hole() -> None:
    whole = ball(0.5, 3)
    # The cap above z = 0.4 is missing: a fifth of the height.
    open_at_top = whole.submesh([np.flatnonzero(whole.triangles_center[:, 2] < 0.4)], append=True)
    assert not open_at_top.is_watertight
    np.testing.assert_array_equal(
        inside(open_at_top)[..., :19], inside(whole)[..., :19], err_msg="below the hole nothing may change"
    )


def test_seams_do_not_matter() -> None:
    whole = ball(0.5, 2)
    corners = np.arange(3 * len(whole.faces)).reshape(-1, 3)
    split = trimesh.Trimesh(whole.triangles.reshape(-1, 3), corners, process=False)
    np.testing.assert_array_equal(inside(split), inside(whole))


def test_all_scores_have_their_names() -> None:
    scores = geometry_scores(box(1, 1, 1), box(1, 1, 1), cameras=EYES, num_points=POINTS)
    assert set(scores) == {
        *("chamfer_mean", "chamfer_visible_mean", "f_score_0.01", "normal_consistency", "volume_iou_64")
    }
    # Near edges the nearest point may lie on the next face.
    assert scores["normal_consistency"] > 0.97
    # POINTS random points on an area of 6: one lies within r of a place with 1 - exp(-pi r^2 POINTS / 6).
    assert scores["f_score_0.01"] == pytest.approx(1 - np.exp(-np.pi * 1e-4 * POINTS / 6), abs=0.03)
    assert scores["volume_iou_64"] == 1
    assert scores["chamfer_visible_mean"] == 0


def test_faults() -> None:
    empty = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    for score in (chamfer, chamfer_visible, f_score, normal_consistency, volume_iou):
        with pytest.raises(InputError, match="without area"):
            score(empty, ball())
        with pytest.raises(InputError, match="target"):
            score(ball(), empty)
    with pytest.raises(InputError, match="seen by none"):
        chamfer_visible(moved(ball(), 0, 0, 50), ball(), cameras=EYES)
    for options in ({"box": 0.5}, {"resolution": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            volume_iou(ball(), ball(), **options)  # type: ignore[arg-type]
