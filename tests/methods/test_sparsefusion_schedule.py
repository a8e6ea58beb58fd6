"""Noise levels of distillation against the published numbers, and where it looks from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity, focus_point
from manyview.geometry.projection import project
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import orbit, sphere_cameras, spherical_angles
from manyview.methods.sparsefusion.poses import distillation_cameras, up_axis
from manyview.methods.sparsefusion.schedule import denoising_steps, noise_time, target_weight
from manyview.types import Cameras


def test_weights_are_one_less_the_signal_kept():
    # alpha^2 = cos^2((t + .008) / 1.008 pi / 2): one half at t = .496; at .99 the angle is pi / 2 less
    # (.01 / 1.008) pi / 2, so alpha^2 = sin^2(.015583) = 2.428e-4.
    assert target_weight(0.496) == pytest.approx(0.5, abs=1e-9)
    assert target_weight(0.99) == pytest.approx(1 - math.sin(0.01 / 1.008 * math.pi / 2) ** 2, abs=1e-9)
    assert target_weight(0.99) == pytest.approx(1 - 2.428e-4, abs=1e-7)


def test_steps_are_a_hundred_a_unit_of_time_and_at_most_fifty():
    assert [denoising_steps(t) for t in (0.99, 0.5, 0.3, 0.015)] == [50, 50, 30, 1]
    assert [denoising_steps(t, 25) for t in (0.99, 0.3, 0.1)] == [25, 25, 10]


def test_annealed_times_fall_evenly():
    times = [noise_time("annealed", i, 4, 0, first=0.99, last=0.3) for i in range(4)]
    assert_close(torch.tensor(times), torch.tensor([0.99, 0.76, 0.53, 0.3]))
    assert noise_time("annealed", 0, 1, 0) == 0.99


def test_uniform_times_are_uniform_and_belong_to_their_round():
    times = torch.tensor([noise_time("uniform", i, 2000, 5) for i in range(2000)], dtype=torch.float64)
    assert 0 < float(times.min()) < 0.02
    assert 0.97 < float(times.max()) <= 0.99
    # The mean of 2000 draws from U(0, .99) is .495 with a deviation of .99 / sqrt(12 * 2000) = .0064.
    assert float(times.mean()) == pytest.approx(0.495, abs=4 * 0.0064)
    assert noise_time("uniform", 7, 10, 5) == float(times[7])
    assert noise_time("uniform", 7, 10, 6) != float(times[7])
    with pytest.raises(InputError, match="schedule"):
        noise_time("cosine", 0, 1, 0)  # pyright: ignore[reportArgumentType]


def heights_of(cameras: Cameras, center: torch.Tensor | None = None) -> torch.Tensor:
    middle = torch.zeros(3) if center is None else center
    return torch.deg2rad(spherical_angles(cameras.centers - middle)[1])


@pytest.mark.parametrize(
    ("azimuths", "elevations"),
    [([40.0], [30.0]), ([0.0, 112.0], [30.0, 20.0]), ([0.0, 70.0, 200.0, 290.0], [0.0, 30.0, 10.0, -20.0])],
)
def test_one_two_or_many_cameras_give_a_belt(azimuths: list[float], elevations: list[float]):
    given = sphere_cameras(azimuths, elevations, 1.5, size=64)
    made = distillation_cameras(given, 24, seed=3)
    assert len(made) == 24
    distances = torch.linalg.vector_norm(made.centers, dim=1)
    assert_close(distances, torch.full((24,), 1.5), atol=1e-4, rtol=0)
    # All look at the middle, and stand upright: their image rows are level.
    pixels, _ = project(torch.zeros(24, 1, 3), made)
    assert_close(pixels[:, 0], torch.full((24, 2), 32.0), atol=1e-2, rtol=0)
    assert float(made.world_from_cam[:, 2, 0].abs().max()) < 1e-5
    low, high = (math.radians(f(elevations)) for f in (min, max))
    heights = heights_of(made)
    assert float(heights.min()) >= low - 0.17 - 1e-4
    assert float(heights.max()) <= high + 0.17 + 1e-4
    assert float(heights.max() - heights.min()) > 0.9 * (high - low + 0.34)
    # Evenly all round: 15 degrees apart.
    turn = spherical_angles(made.centers)[0].sort().values
    assert_close(turn.diff(), torch.full((23,), 15.0), atol=1e-2, rtol=0)


def test_the_belt_moves_with_the_world_and_follows_from_the_seed():
    given = sphere_cameras([10.0, 100.0], [30.0, 25.0], 1.5, size=64)
    moved = Similarity(3.0, torch.eye(3), torch.tensor([1.0, -2.0, 0.5]))
    expected = moved.apply_to_cameras(distillation_cameras(given, 8))
    found = distillation_cameras(moved.apply_to_cameras(given), 8)
    assert_close(found.world_from_cam, expected.world_from_cam, atol=1e-4, rtol=1e-4)
    assert_close(found.K, expected.K, atol=1e-3, rtol=1e-4)
    again, other = distillation_cameras(given, 8), distillation_cameras(given, 8, seed=1)
    assert torch.equal(again.centers, distillation_cameras(given, 8).centers)
    assert not torch.allclose(again.centers, other.centers)


def test_a_tilted_world_has_its_own_up():
    given = orbit(5, 20.0, size=64)
    turn = matrix_from_axis_angle(torch.tensor([1.2, 0.3, 0.0]))
    tilted = Similarity(1.0, turn, torch.zeros(3)).apply_to_cameras(given)
    up = turn.double() @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert_close(up_axis(tilted), up, atol=1e-5, rtol=0)
    assert_close(up_axis(given), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    # One tilted camera: its own up, for want of anything else.
    assert_close(up_axis(tilted[0]), -tilted.world_from_cam[0, :3, 1].double(), atol=1e-6, rtol=0)
    made = distillation_cameras(tilted, 12, jitter=0.0)
    heights = made.centers.double() @ up / 1.5
    assert_close(
        heights, torch.full((12,), math.sin(math.radians(20)), dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_objects_look_as_large_as_in_the_given_views():
    given = sphere_cameras([0.0, 90.0], 10.0, 2.0, size=64, focal_mm=50.0)
    made = distillation_cameras(given, 3, size=128)
    assert made.sizes.tolist() == [[128, 128]] * 3
    # Twice the pixels, the same share of the image: the focal length doubles with the size.
    assert_close(made.K[:, 0, 0], 2 * given.K[:1, 0, 0].expand(3), atol=1e-3, rtol=0)
    assert_close(focus_point(made), torch.zeros(3), atol=1e-4, rtol=0)


def test_scored_poses_are_not_among_them():
    scored = orbit(16, 30.0, size=64)
    made = distillation_cameras(scored[[0, 5]], 20)
    gaps = torch.cdist(made.centers.double(), scored.centers.double())
    assert float(gaps.min()) > 1e-3


def test_bad_input_is_refused():
    given = orbit(3, 20.0, size=64)
    with pytest.raises(InputError, match="targets"):
        distillation_cameras(given, 0)
    with pytest.raises(InputError, match="jitter"):
        distillation_cameras(given, 4, jitter=-0.1)
    inside = given.world_from_cam.clone()
    inside[:, :3, 3] = 0
    with pytest.raises(InputError, match="middle"):
        distillation_cameras(replace(given, world_from_cam=inside), 4)
