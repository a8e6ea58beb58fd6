from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry import projection
from manyview.geometry.normalization import Similarity
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.types import Cameras


def test_known_pixel_of_a_camera_on_the_x_axis():
    # Camera at (4, 0, 0) looking at the origin with image-right +Y and image-down -Z (world up is +Z).
    # The point (0, 0.5, 1) is then at camera (0.5, -1, 4): u = 40 * 0.5 / 4 + 16 = 21, v = -40 / 4 + 12 = 2.
    transform = torch.tensor([[[0.0, 0, -1, 4], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]])
    K = torch.tensor([[[40.0, 0, 16], [0, 40, 12], [0, 0, 1]]])
    camera = Cameras(world_from_cam=transform, K=K, sizes=torch.tensor([[24, 32]]))
    pixels, depth = projection.project(torch.tensor([[0.0, 0.5, 1.0]])[None], camera)
    assert_close(pixels, torch.tensor([[[21.0, 2.0]]]))
    assert_close(depth, torch.tensor([[4.0]]))


@pytest.mark.parametrize("lens", [0.0, 0.05])
def test_unproject_undoes_project(make_cameras, world_points, lens):
    cameras = make_cameras(lens=lens)
    pixels, depth = projection.project(world_points[None], cameras)
    assert (depth > 0).all()
    back = projection.unproject(pixels, depth, cameras)
    assert_close(back, world_points.expand_as(back), atol=1e-9, rtol=0)


def test_projection_matrix_agrees_with_project(make_cameras, world_points):
    cameras = make_cameras()
    homogeneous = projection.to_homogeneous(world_points) @ projection.projection_matrices(cameras).mT
    pixels, depth = projection.project(world_points[None], cameras)
    assert_close(projection.from_homogeneous(homogeneous), pixels)
    assert_close(homogeneous[..., 2], depth)


def test_moving_world_and_cameras_together_leaves_pixels(make_cameras, world_points):
    cameras = make_cameras(lens=0.05)
    turn = matrix_from_axis_angle(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64))
    move = Similarity(2.5, turn, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    before, depth_before = projection.project(world_points[None], cameras)
    moved_points = move.apply_to_points(world_points)
    after, depth_after = projection.project(moved_points[None], move.apply_to_cameras(cameras))
    assert_close(after, before)
    assert_close(depth_after, 2.5 * depth_before)
    assert_close(move.inverse().apply_to_points(moved_points), world_points)


def test_resized_cameras_scale_the_half_pixel_frame(make_cameras, world_points):
    cameras = make_cameras(size=(24, 32))
    pixels, _ = projection.project(world_points[None], cameras)
    half, _ = projection.project(world_points[None], cameras.resized(12, 16))
    assert_close(half, pixels / 2)


def test_points_on_and_behind_the_camera_plane_stay_finite(make_cameras):
    cameras = make_cameras(1)
    axis = cameras.world_from_cam[:, :3, 2]
    center = cameras.centers
    points = torch.stack((center, center - axis), dim=1).requires_grad_()
    pixels, depth = projection.project(points, cameras)
    assert torch.isfinite(pixels).all()
    assert (depth <= 1e-12).all()
    pixels.sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_gradients(make_cameras, world_points):
    cameras = make_cameras(2, lens=0.05)
    points = world_points[None, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: projection.project(p, cameras), (points,))
    pixels, depth = (value.detach().requires_grad_() for value in projection.project(points, cameras))
    assert torch.autograd.gradcheck(lambda p, d: projection.unproject(p, d, cameras), (pixels, depth))


def test_dtype_is_kept_and_wrong_shapes_are_named(make_cameras, world_points):
    cameras = make_cameras().to(torch.float32)
    pixels, depth = projection.project(world_points[None].float(), cameras)
    assert pixels.dtype == depth.dtype == torch.float32
    with pytest.raises(InputError, match="points_world"):
        projection.project(world_points[None, :, :2], cameras)
    with pytest.raises(InputError, match="undistort_views"):
        projection.projection_matrices(make_cameras(lens=0.1))
