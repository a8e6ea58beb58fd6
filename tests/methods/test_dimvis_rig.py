"""Which slot an image fills, where the slots' cameras stand, and every refusal."""

from __future__ import annotations

import pytest
import torch

from manyview.errors import InputError
from manyview.geometry.rays import camera_rays, plucker
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.methods.dimvis.rig import choose_slots, rig_cameras, rig_rays
from manyview.types import Views


def given(*azimuths: float, elevation: float = 30.0) -> Views:
    """Views with cameras at these azimuths, all observed."""
    cameras = orbit(360, elevation, size=8)[[round(azimuth) % 360 for azimuth in azimuths]]
    return Views(images=torch.zeros(len(azimuths), 3, 8, 8), cameras=cameras)


def without_cameras(count: int) -> Views:
    return Views(images=torch.zeros(count, 3, 8, 8))


def test_in_order_without_cameras() -> None:
    assert choose_slots(without_cameras(1), 4, None) == (0,)
    assert choose_slots(without_cameras(3), 4, None) == (0, 1, 2)


def test_as_told() -> None:
    assert choose_slots(without_cameras(2), 4, (3, 1)) == (3, 1)
    assert choose_slots(given(0, 90), 4, (2, 0)) == (2, 0)


@pytest.mark.parametrize("phase", [0, 13, 200])
def test_by_azimuth_relative_to_the_first(phase: float) -> None:
    assert choose_slots(given(phase), 4, None) == (0,)
    assert choose_slots(given(phase, phase + 90), 4, None) == (0, 1)
    assert choose_slots(given(phase, phase + 270, phase + 184), 4, None) == (0, 3, 2)
    assert choose_slots(given(phase, phase + 60, phase + 295), 6, None) == (0, 1, 5)
    assert choose_slots(given(phase, phase - 90), 4, None) == (0, 3)


def test_only_observed_views_count() -> None:
    views = given(10, 50, 100)
    partly = Views(images=views.images, cameras=views.cameras, observed=torch.tensor([True, False, True]))
    assert choose_slots(partly, 4, None) == (0, 1)


def refusal(views: Views, num_views: int = 4, slots: tuple[int, ...] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        choose_slots(views, num_views, slots)
    return str(caught.value)


def test_refusals() -> None:
    nothing = Views(images=torch.zeros(2, 3, 8, 8), observed=torch.zeros(2, dtype=torch.bool))
    assert refusal(nothing) == "INPUT: no observed view: expected at least one image"
    assert refusal(without_cameras(4)) == "INPUT: 4 observed views: expected at most 3 of 4"
    assert refusal(without_cameras(5)) == "INPUT: 5 observed views: expected at most 3 of 4"
    assert refusal(without_cameras(2), slots=(1,)) == (
        "--slots: (1,): expected 2 numbers, one for each given image"
    )
    for slots in ((1, 1), (0, 4), (-1, 0)):
        assert refusal(without_cameras(2), slots=slots) == (
            f"--slots: {slots}: expected different numbers from 0 to 3"
        )
    assert refusal(given(0, 45)) == (
        "INPUT: cameras at azimuths 0, 45 degrees: "
        "expected different multiples of 90 degrees apart; name the slots with --slots"
    )
    assert "cameras at azimuths 0, 101 degrees" in refusal(given(0, 101))
    assert "cameras at azimuths 20, 25 degrees" in refusal(given(20, 25))  # both nearest to slot 0


def test_rig_cameras_pass_through_the_given_ones() -> None:
    views = given(100, 10)
    slots = choose_slots(views, 4, None)
    cameras = rig_cameras(views, slots, 4, 16)
    assert views.cameras is not None
    assert slots == (0, 3)
    assert len(cameras) == 4
    torch.testing.assert_close(cameras.centers[list(slots)], views.cameras.centers, atol=1e-6, rtol=0)
    assert cameras.sizes.tolist() == [[16, 16]] * 4
    azimuth, elevation, distance = spherical_angles(cameras.centers)
    torch.testing.assert_close(azimuth, torch.tensor([100.0, 190, 280, 10]).to(azimuth))
    torch.testing.assert_close(elevation, torch.full_like(elevation, 30))
    torch.testing.assert_close(distance, torch.full_like(distance, 1.5))


def test_rig_cameras_with_named_slots() -> None:
    views = given(100)
    azimuth, _, _ = spherical_angles(rig_cameras(views, (2,), 4, 16).centers)
    torch.testing.assert_close(azimuth, torch.tensor([280.0, 10, 100, 190]).to(azimuth))


def test_rays_are_those_of_the_latent_cells() -> None:
    rays = rig_rays(4, 2)
    assert rays.shape == (4, 6, 2, 2)
    expected = plucker(*camera_rays(orbit(4, 30.0, 1.5, size=16), 2, 2))
    torch.testing.assert_close(rays, expected.permute(0, 3, 1, 2))
    # Direction of unit length, moment perpendicular to it (Pluecker's identity).
    direction, moment = rays[:, :3], rays[:, 3:]
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(4, 2, 2).to(rays))
    assert float((direction * moment).sum(dim=1).abs().max()) < 1e-6
