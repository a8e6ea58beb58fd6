from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.pixels import inside_image, pixel_centers
from manyview.geometry.projection import project, unproject
from manyview.geometry.trajectories import sphere_cameras
from manyview.geometry.warp import plane_depth, plane_homographies, warp_by_depth, warp_by_homography

NORMAL = torch.tensor([0.9, 0.1, 0.2], dtype=torch.float64)
OFFSET = -0.1


def paint_plane(cameras):
    """[V, 3, H, W] the plane's smooth texture, exact at every pixel centre, and its depth."""
    depth = plane_depth(cameras, NORMAL, OFFSET)
    grid = pixel_centers(*cameras.sizes[0].tolist(), dtype=torch.float64)
    points = unproject(grid[None], depth[:, 0], cameras)
    assert_close(points @ NORMAL, torch.full_like(depth[:, 0], OFFSET))
    return (0.5 + 0.4 * torch.sin(4 * points)).permute(0, 3, 1, 2), depth


@pytest.fixture
def pair():
    return sphere_cameras([-12.0, 10.0], [10.0, 20.0], [1.5, 1.7], size=(48, 64)).to(torch.float64)


def test_warping_a_plane_by_depth_equals_painting_it(pair):
    images, depth = paint_plane(pair)
    source, target = pair[0], pair[1]
    warped, valid = warp_by_depth(images[:1], depth[1:], source, target, source_depth=depth[:1])
    assert valid.float().mean() > 0.7
    # Bilinear interpolation errs by at most curvature * spacing^2 / 8 an axis. The curvature is 0.4 * 16 and
    # pixels are at most 0.03 apart on the plane: 2 * 6.4 * 0.0009 / 8 < 2e-3. Within half a pixel of the
    # border there is nothing to interpolate and the nearest colour is repeated.
    points = unproject(pixel_centers(48, 64, dtype=torch.float64)[None], depth[1:, 0], target)
    inner = valid & inside_image(project(points, source)[0], source.sizes, margin=0.5)[:, None]
    assert inner.sum() > 0.9 * valid.sum()
    error = (warped - images[1:]).abs()
    assert error[inner.expand_as(warped)].max() < 2e-3
    assert error[valid.expand_as(warped)].max() < 2e-2
    assert (warped[(~valid).expand_as(warped)] == 0).all()


def test_homography_agrees_with_depth(pair):
    images, depth = paint_plane(pair)
    by_depth, valid_depth = warp_by_depth(images[:1], depth[1:], pair[0], pair[1])
    homography = plane_homographies(pair[0], pair[1], NORMAL, OFFSET)
    by_plane, valid_plane = warp_by_homography(images[:1], homography, 48, 64)
    assert torch.equal(valid_depth, valid_plane)
    assert_close(by_plane, by_depth)
    # There and back is the identity up to scale (the cameras are orthonormal to float32 only).
    round_trip = homography @ plane_homographies(pair[1], pair[0], NORMAL, OFFSET)
    identity = torch.eye(3, dtype=torch.float64)
    assert_close(round_trip[0] / round_trip[0, 2, 2], identity, atol=1e-5, rtol=0)


def test_warp_to_itself_is_the_identity(pair):
    images, depth = paint_plane(pair)
    warped, valid = warp_by_depth(images, depth, pair, pair)
    assert valid.all()
    assert_close(warped, images)


def test_unknown_depth_and_hidden_points_are_invalid(pair):
    images, depth = paint_plane(pair)
    holes = depth[1:].clone()
    holes[..., :10, :] = 0
    _, valid = warp_by_depth(images[:1], holes, pair[0], pair[1])
    assert not valid[..., :10, :].any()
    # A nearer surface in the source hides the plane everywhere.
    _, hidden = warp_by_depth(images[:1], depth[1:], pair[0], pair[1], source_depth=0.5 * depth[:1])
    assert not hidden.any()


def test_points_behind_the_source_are_invalid(pair):
    # The source looks the other way: nothing the target sees is in front of it.
    away = pair[0]
    turned = away.world_from_cam.clone()
    turned[:, :3, 0] *= -1
    turned[:, :3, 2] *= -1
    away = type(away)(world_from_cam=turned, K=away.K, sizes=away.sizes)
    images, depth = paint_plane(pair)
    warped, valid = warp_by_depth(images[:1], depth[1:], away, pair[1])
    assert not valid.any()
    assert (warped == 0).all()


def test_one_target_takes_many_sources(pair):
    images, depth = paint_plane(pair)
    warped, valid = warp_by_depth(images, depth[1:], pair, pair[1])
    assert warped.shape == (2, 3, 48, 64)
    assert valid.shape == (2, 1, 48, 64)
    assert_close(warped[1], images[1])


def test_gradients_reach_depth_and_images():
    small = sphere_cameras([-8.0, 8.0], 10.0, size=(4, 5)).to(torch.float64)
    images, depth = paint_plane(small)
    image, depth = images[:1].clone().requires_grad_(), depth[1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, d: warp_by_depth(i, d, small[0], small[1])[0], (image, depth), eps=1e-7, atol=1e-4
    )


def test_sizes_have_to_fit(pair):
    images, depth = paint_plane(pair)
    with pytest.raises(InputError, match="target_depth"):
        warp_by_depth(images[:1], depth[1:, :, :-1], pair[0], pair[1])
    with pytest.raises(InputError, match="source_images"):
        warp_by_depth(images[:1, :, :-1], depth[1:], pair[0], pair[1])
