"""Cameras between cameras."""

import itertools
import math

import pytest
import torch

from manyview.errors import InputError
from manyview.geometry.interpolation import cameras_between, neighbours
from manyview.geometry.normalization import Similarity
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import orbit, sphere_cameras


def ring(pairs):
    return {frozenset(pair) for pair in pairs}


def test_an_orbit_is_a_closed_ring():
    pairs = neighbours(orbit(6, 30.0))
    assert ring(pairs) == {frozenset((k, (k + 1) % 6)) for k in range(6)}
    # One walk: each pair starts where the one before ended.
    assert all(before[1] == after[0] for before, after in itertools.pairwise(pairs))


def test_an_arc_stays_open():
    # 0, 20, 40, 60 degrees: the ends are 60 apart, three times the widest step.
    pairs = neighbours(sphere_cameras([40.0, 0.0, 60.0, 20.0], 0.0))
    assert ring(pairs) == {frozenset((1, 3)), frozenset((3, 0)), frozenset((0, 2))}


def test_cameras_in_one_place_and_far_apart_are_no_neighbours():
    assert neighbours(sphere_cameras([0.0, 0.0, 30.0], 20.0)) == [(0, 2)]
    assert neighbours(sphere_cameras([0.0, 90.0], 20.0)) == []


@pytest.mark.parametrize("count", [16, 32, 48])
def test_between_the_cameras_of_an_orbit_are_those_of_a_finer_orbit(count):
    rig = orbit(16, 30.0, size=32)
    fine = orbit(16 + count, 30.0, size=32)
    # Every (count / 16 + 1)-th camera of the finer orbit is one of the rig.
    wanted = torch.tensor([k for k in range(16 + count) if k % (count // 16 + 1)])
    found = cameras_between(rig, count)
    # The walk starts anywhere and may go round either way, so they are compared as sets.
    apart = torch.cdist(found.centers.double(), fine.centers[wanted].double())
    assert sorted(apart.argmin(dim=1).tolist()) == list(range(count))
    matched = fine[wanted[apart.argmin(dim=1)]]
    torch.testing.assert_close(found.world_from_cam, matched.world_from_cam, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.K, matched.K)


def test_moving_the_world_moves_the_answer():
    rig = sphere_cameras([0.0, 25.0, 60.0], [10.0, 30.0, 20.0], [1.5, 1.7, 1.4])
    turn = matrix_from_axis_angle(torch.tensor([0.3, -1.1, 0.7]))
    move = Similarity(7.0, turn, torch.tensor([100.0, -3.0, 20.0]))
    here, there = cameras_between(rig, 5), cameras_between(move.apply_to_cameras(rig), 5)
    expected = move.apply_to_cameras(here).world_from_cam
    torch.testing.assert_close(there.world_from_cam, expected, atol=1e-4, rtol=1e-5)


def test_gaps_share_evenly_and_distances_are_between():
    # Two gaps of 30 degrees, three cameras: one and two of them.
    rig = sphere_cameras([0.0, 30.0, 60.0], 0.0, [1.0, 2.0, 2.0])
    azimuths = sorted(
        math.degrees(math.atan2(float(y), float(x))) for x, y, _ in cameras_between(rig, 3).centers
    )
    first = sum(0 < azimuth < 30 for azimuth in azimuths)
    assert {first, 3 - first} == {1, 2}
    lengths = torch.linalg.vector_norm(cameras_between(rig, 3).centers, dim=1)
    assert bool((lengths >= 1.0).all())
    assert bool((lengths <= 2.0 + 1e-6).all())


def test_refuses_what_has_no_between():
    with pytest.raises(InputError, match="no two cameras"):
        cameras_between(sphere_cameras([0.0, 90.0], 20.0), 4)
    with pytest.raises(InputError, match="at least 1"):
        cameras_between(orbit(4), 0)
