"""Which cameras are the same."""

import torch

from manyview.geometry.interpolation import turntable_cameras
from manyview.geometry.matching import match_cameras
from manyview.geometry.trajectories import orbit, sphere_cameras, spherical_angles


def test_the_same_cameras_are_found_in_any_order():
    rig = orbit(8, 30.0)
    order = [3, 1, 7]
    assert match_cameras(rig[order], rig) == order
    assert match_cameras(sphere_cameras([0.0, 1.0], [30.0, 30.0]), rig) == [0, -1]


def test_a_turned_camera_in_the_same_place_is_another():
    rig = orbit(2, 0.0)
    turned = rig.world_from_cam.clone()
    turn = torch.deg2rad(torch.tensor(1.0))
    roll = torch.eye(3)
    roll[:2, :2] = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    turned[:, :3, :3] = turned[:, :3, :3] @ roll
    moved = type(rig)(world_from_cam=turned, K=rig.K, sizes=rig.sizes)
    assert match_cameras(moved, rig) == [-1, -1]


def test_a_turntable_goes_round_the_middle_at_the_mean_of_the_rig():
    rig = sphere_cameras([10.0, 50.0], [10.0, 30.0], [1.0, 2.0], size=32)
    center = torch.tensor([0.0, 0.0, 0.0])
    circle = turntable_cameras(rig, center, 4)
    azimuth, elevation, distance = spherical_angles(circle.centers)
    torch.testing.assert_close(azimuth, torch.tensor([10.0, 100.0, 190.0, 280.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(elevation, torch.full((4,), 20.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(distance, torch.full((4,), 1.5))
    assert circle.sizes.tolist() == [[32, 32]] * 4
