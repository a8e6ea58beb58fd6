from __future__ import annotations

from dataclasses import replace

import torch
from torch.testing import assert_close

from manyview.geometry.distortion import distort, undistort, undistort_views
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.rays import camera_rays
from manyview.types import Views

LENS = torch.tensor([-0.2, 0.06, -0.01, 0.002, 0.01, -0.02], dtype=torch.float64)


def test_known_values():
    # (0.5, 0): r2 = 1/4. k1 = 0.4 gives x (1 + 0.1); p1 adds 2 p1 x y = 0 to x and p1 (r2 + 0) = p1 / 4 to y;
    # p2 adds p2 (r2 + 2 x^2) = 3/4 p2 to x and 0 to y.
    coefficients = torch.tensor([0.4, 0, 0, 0, 0.2, 0.08], dtype=torch.float64)
    point = torch.tensor([0.5, 0.0], dtype=torch.float64)
    assert_close(distort(point, coefficients), torch.tensor([0.61, 0.05], dtype=torch.float64))
    # The higher terms on their own: k2 r2^2, k3 r2^3, k4 r2^4 at r2 = 1/4.
    for term, power in ((1, 2), (2, 3), (3, 4)):
        only = torch.zeros(6, dtype=torch.float64)
        only[term] = 1
        assert_close(distort(point, only)[0], torch.tensor(0.5 * (1 + 0.25**power), dtype=torch.float64))


def test_undistort_inverts_distort_over_a_wide_image():
    points = pixel_centers(9, 9, dtype=torch.float64) / 9 * 1.4 - 0.7
    assert_close(undistort(distort(points, LENS), LENS), points, atol=1e-12, rtol=0)


def test_undistort_has_the_implicit_functions_gradient():
    points = torch.tensor([[0.3, -0.4], [0.0, 0.0], [-0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    coefficients = LENS.clone().requires_grad_()
    assert torch.autograd.gradcheck(undistort, (points, coefficients))


def test_undistorting_views_gives_each_pixel_its_rays_colour(make_cameras):
    # Colour is a smooth function of the world direction, so the undistorted image has a closed form.
    cameras = make_cameras(2, size=(48, 48), lens=0.05)
    K = cameras.K.clone()
    K[:, :2, :2] *= 2
    cameras = replace(cameras, K=K)

    def paint(views_cameras):
        directions = camera_rays(views_cameras)[1]
        return (0.5 + 0.4 * torch.sin(3 * directions)).permute(0, 3, 1, 2)

    depth = torch.full((2, 1, 48, 48), 3.0, dtype=torch.float64)
    seen = Views(images=paint(cameras), cameras=cameras, masks=torch.ones_like(depth), depths=depth)
    straight = undistort_views(seen)
    assert straight.cameras is not None
    assert straight.cameras.distortion is None
    expected = paint(straight.cameras)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert (seen.images - expected)[inner].abs().max() > 5e-3
    assert (straight.images - expected)[inner].abs().max() < 1e-3
    assert straight.masks is not None
    assert straight.depths is not None
    assert_close(straight.masks[inner], torch.ones_like(straight.masks[inner]))
    assert_close(straight.depths[inner], depth[inner])


def test_views_without_distortion_come_back_unchanged(make_cameras):
    views = Views(images=torch.rand(2, 3, 24, 32), cameras=make_cameras(2))
    assert undistort_views(views) is views
