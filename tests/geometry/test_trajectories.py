from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry import trajectories
from manyview.geometry.normalization import Similarity, fit_circle, focus_point, normalize_cameras
from manyview.geometry.projection import project
from manyview.geometry.rotations import matrix_from_axis_angle


def test_orbit16_defaults():
    cameras = trajectories.orbit()
    assert len(cameras) == 16
    # 35 mm on a 32 mm sensor at 256 pixels: 256 * 35 / 32 = 280.
    assert cameras.K[5].tolist() == [[280, 0, 128], [0, 280, 128], [0, 0, 1]]
    assert cameras.sizes.tolist() == [[256, 256]] * 16
    # View 0 stands on azimuth 0: 1.5 (cos 30, 0, sin 30); view 4 a quarter turn on, on +Y.
    assert_close(cameras.centers[0], torch.tensor([1.5 * math.sqrt(3) / 2, 0.0, 0.75]))
    assert_close(cameras.centers[4], torch.tensor([0.0, 1.5 * math.sqrt(3) / 2, 0.75]))
    assert_close(cameras.centers.norm(dim=1), torch.full((16,), 1.5))


def test_orbit_sees_the_origin_in_the_centre_and_up_as_up():
    cameras = trajectories.orbit(7, elevation_deg=-20, distance=2.0, start_azimuth_deg=33, size=(60, 80))
    pixels, depth = project(torch.tensor([[[0.0, 0, 0], [0, 0, 0.1]]]), cameras)
    assert_close(pixels[:, 0], torch.tensor([[40.0, 30.0]]).expand(7, 2))
    assert_close(depth[:, 0], torch.full((7,), 2.0))
    assert_close(pixels[:, 1, 0], torch.full((7,), 40.0), atol=1e-4, rtol=0)
    assert (pixels[:, 1, 1] < 30).all()
    azimuth, elevation, distance = trajectories.spherical_angles(cameras.centers)
    expected = (33 + 360 * torch.arange(7) / 7) % 360
    assert_close(azimuth, expected, atol=1e-3, rtol=0)
    assert_close(elevation, torch.full((7,), -20.0))
    assert_close(distance, torch.full((7,), 2.0))


def test_turning_the_world_about_z_turns_the_orbit(make_cameras, world_points):
    turn = matrix_from_axis_angle(torch.tensor([0, 0, math.radians(25)]))
    move = Similarity(1.0, turn, torch.zeros(3))
    plain, turned = trajectories.orbit(5), trajectories.orbit(5, start_azimuth_deg=25)
    assert_close(move.apply_to_cameras(plain).world_from_cam, turned.world_from_cam)
    points = world_points.float()
    before, _ = project(points[None], plain)
    after, _ = project(move.apply_to_points(points)[None], turned)
    assert_close(after, before, atol=1e-3, rtol=0)


def test_look_at_agrees_with_the_spherical_formula():
    azimuth = torch.tensor([0.0, 17, 200, 355], dtype=torch.float64)
    elevation = torch.tensor([0.0, -60, 89, 30], dtype=torch.float64)
    transforms = trajectories.spherical_transforms(azimuth, elevation, 3.0)
    assert_close(trajectories.look_at(transforms[:, :3, 3]), transforms)
    target = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    aimed = trajectories.look_at(transforms[:, :3, 3] + target, target)
    assert_close(aimed[:, :3, :3], transforms[:, :3, :3])


@pytest.mark.parametrize("sign", [1, -1])
def test_looking_straight_down_and_up_is_defined(sign):
    above = trajectories.look_at(torch.tensor([0.0, 0.0, 2.0 * sign], dtype=torch.float64))
    limit = trajectories.spherical_transforms(torch.tensor(0.0, dtype=torch.float64), 90.0 * sign, 2.0)
    assert_close(above, limit, atol=1e-12, rtol=0)
    assert_close(torch.linalg.det(above), torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(InputError, match="targets"):
        trajectories.look_at(torch.zeros(1, 3))


def test_trajectory_gradients():
    angles = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64, requires_grad=True)
    elevation = torch.tensor([0.0, 45.0, 90.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, e: trajectories.spherical_transforms(a, e, 1.5), (angles, elevation)
    )
    positions = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trajectories.look_at, (positions,))


def test_yaw_sweep_includes_its_ends_and_its_direction():
    sweep = trajectories.yaw_sweep(-40, 40, 9, center_azimuth_deg=270)
    azimuth, elevation, _ = trajectories.spherical_angles(sweep.centers)
    assert_close(azimuth, torch.linspace(230, 310, 9), atol=1e-3, rtol=0)
    assert_close(elevation, torch.zeros(9), atol=1e-4, rtol=0)
    # Positive yaw moves the camera along its own right axis.
    step = sweep.centers[5] - sweep.centers[4]
    assert step @ sweep.world_from_cam[4, :3, 0] > 0


def test_interpolation_keeps_ends_and_halves_the_turn():
    cameras = trajectories.orbit(4, elevation_deg=0.0)
    path = trajectories.interpolate_cameras(cameras[0], cameras[1], torch.tensor([0.0, 0.5, 1.0]))
    assert_close(path.world_from_cam[0], cameras.world_from_cam[0])
    assert_close(path.world_from_cam[2], cameras.world_from_cam[1])
    halfway = trajectories.sphere_cameras([45.0], 0.0)
    assert_close(path.world_from_cam[1, :3, :3], halfway.world_from_cam[0, :3, :3])


def test_circle_fit_of_an_arc(make_cameras):
    # An arc of 120 degrees, radius 1.5 cos 30, in the plane z = 0.75 about the axis; then the same, tilted.
    arc = trajectories.orbit(24).centers[:9].double()
    circle = fit_circle(arc)
    assert_close(circle.center, torch.tensor([0, 0, 0.75], dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(circle.radius, torch.tensor(1.5 * math.sqrt(3) / 2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(circle.normal, torch.tensor([0, 0, 1], dtype=torch.float64), atol=1e-6, rtol=0)
    assert circle.residual < 1e-6
    turn = matrix_from_axis_angle(torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64))
    tilted = fit_circle(2 * arc @ turn.mT + 1)
    assert_close(tilted.normal, turn[:, 2], atol=1e-6, rtol=0)
    assert_close(tilted.radius, 2 * circle.radius)
    # Moving every other point out of the plane by h is a residual of h.
    bent = arc.clone()
    bent[:, 2] += torch.tensor([0.1, -0.1] * 4 + [0.0], dtype=torch.float64)
    assert 0.05 < fit_circle(bent).residual < 0.12
    with pytest.raises(InputError, match="line"):
        fit_circle(torch.arange(5.0)[:, None] * torch.tensor([1.0, 2, 3]))
    with pytest.raises(InputError, match="at least 3"):
        fit_circle(arc[:2])


def test_normalisation_undoes_a_similarity():
    orbit = trajectories.orbit(6, elevation_deg=20.0, distance=1.5)
    move = Similarity(4.0, torch.eye(3), torch.tensor([10.0, -3.0, 2.0]))
    moved = move.apply_to_cameras(orbit)
    assert_close(focus_point(moved), torch.tensor([10.0, -3.0, 2.0]), atol=1e-4, rtol=0)
    back, found = normalize_cameras(moved, distance=1.5)
    assert_close(back.world_from_cam, orbit.world_from_cam, atol=1e-5, rtol=0)
    assert found.scale == pytest.approx(0.25, rel=1e-5)
    parallel = orbit[[0, 0]]
    with pytest.raises(InputError, match="one direction"):
        focus_point(parallel)
    with pytest.raises(InputError, match="one point"):
        normalize_cameras(parallel, center="mean")
