"""Pictures through another lens in the same place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.distortion import undistort_views
from manyview.geometry.projection import project
from manyview.geometry.reframing import reframe
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import sphere_cameras
from manyview.types import Cameras, Views


def one_camera(size: tuple[int, int] = (24, 32), **changes) -> Cameras:
    return replace(sphere_cameras([20.0], [35.0], 1.5, size=size).to(torch.float64), **changes)


def smooth(height: int, width: int) -> torch.Tensor:
    v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([u, v, 0.5 + 0.3 * u - 0.2 * v])


def test_the_same_camera_gives_the_same_picture():
    camera, image = one_camera(), torch.rand(3, 24, 32)
    again, cover = reframe(image, camera, camera)
    assert_close(again, image, atol=1e-5, rtol=0)
    assert float(cover.min()) == 1


def test_undistorting_as_undistort_views_does():
    bend = torch.tensor([[0.1, -0.05, 0, 0, 0.002, -0.001]], dtype=torch.float64)
    camera, image = one_camera(distortion=bend), smooth(24, 32)
    made, cover = reframe(image, camera, replace(camera, distortion=None))
    views = Views(images=image[None], cameras=camera.to(torch.float32))
    expected = undistort_views(views).images[0]
    inside = (cover == 1).expand(3, -1, -1)
    assert float(inside.float().mean()) > 0.8
    assert_close(made[inside], expected[inside], atol=1e-4, rtol=0)


def test_a_turned_camera_sees_a_point_where_it_projects_to():
    # A spot in the old picture, its ray, and where the turned and zoomed camera projects that ray to.
    camera = one_camera(size=(65, 65))
    image = torch.zeros(3, 65, 65)
    image[:, 40:43, 20:23] = 1  # centred at pixel (21.5, 41.5)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = matrix_from_axis_angle(torch.tensor([0.05, -0.08, 0.2], dtype=torch.float64))
    K = camera.K.clone()
    K[:, :2] *= 1.3
    wanted = replace(camera, world_from_cam=camera.world_from_cam @ turn, K=K)
    made, _ = reframe(image, camera, wanted)
    ideal = torch.tensor([21.5, 41.5], dtype=torch.float64) - camera.K[0, :2, 2]
    ray = torch.cat([ideal / camera.K[0, [0, 1], [0, 1]], torch.ones(1, dtype=torch.float64)])
    point = camera.world_from_cam[0, :3, :3] @ ray + camera.centers[0]
    expected, depth = project(point[None, None], wanted)
    assert float(depth) > 0
    v, u = torch.meshgrid(torch.arange(65) + 0.5, torch.arange(65) + 0.5, indexing="ij")
    light = made[0].double()
    found = torch.stack([(light * u).sum(), (light * v).sum()]) / light.sum()
    assert_close(found, expected[0, 0], atol=0.1, rtol=0)


def test_shrinking_averages_and_masks_weigh():
    # Checks of one pixel, four of which fall into a new one: the mean, not one of them.
    camera = one_camera(size=(32, 32))
    v, u = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    checks = ((u + v) % 2).float().expand(3, 32, 32)
    made, _ = reframe(checks, camera, camera.resized(8, 8))
    assert_close(made, torch.full_like(made, 0.5), atol=0.02, rtol=0)
    # The same checks as the mask: half covered, and the colour is that under the mask alone.
    made, cover = reframe(checks, camera, camera.resized(8, 8), checks[:1])
    assert_close(cover, torch.full_like(cover, 0.5), atol=0.02, rtol=0)
    assert float(made.min()) > 0.6  # samples lie between pixels, so some of the dark ones bleed in


def test_beyond_the_picture():
    camera, image = one_camera(), smooth(24, 32)
    K = camera.K.clone()
    K[:, [0, 1], [0, 1]] *= 0.5  # twice as wide: the middle half of the new picture is the old one
    made, cover = reframe(image, camera, replace(camera, K=K), torch.ones(1, 24, 32))
    assert float(cover[0, 8:16, 10:22].min()) == 1
    assert float(cover[0, :5].max()) == 0
    # A lens that folds over far outside must not show the picture again there.
    bend = torch.tensor([[-0.5, 0, 0, 0, 0, 0]], dtype=torch.float64)
    K[:, [0, 1], [0, 1]] *= 0.25
    _, cover = reframe(image, replace(camera, distortion=bend), replace(camera, K=K), torch.ones(1, 24, 32))
    shown = (cover[0] > 0).nonzero()
    assert len(shown) > 0
    assert int((shown.amax(dim=0) - shown.amin(dim=0)).max()) < 10
    assert made.shape == (3, 24, 32)


def test_errors():
    camera = one_camera()
    moved = camera.world_from_cam.clone()
    moved[:, 0, 3] += 0.1
    with pytest.raises(InputError, match=r"wanted: 0.1 away: expected a camera in the same place"):
        reframe(torch.rand(3, 24, 32), camera, replace(camera, world_from_cam=moved))
    with pytest.raises(InputError, match=r"camera.sizes: \[24, 32\]: expected \[10, 10\]"):
        reframe(torch.rand(3, 10, 10), camera, camera)
