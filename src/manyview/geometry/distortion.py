"""Lens distortion: OpenCV's radial-tangential polynomial with four radial terms.

For a point (x, y) on the plane z = 1, with r2 = x^2 + y^2 and coefficients k1 k2 k3 k4 p1 p2:
    radial = 1 + k1 r2 + k2 r2^2 + k3 r2^3 + k4 r2^4
    x_d = x radial + 2 p1 x y + p2 (r2 + 2 x^2)
    y_d = y radial + 2 p2 x y + p1 (r2 + 2 y^2)
This is what nerfstudio's `OPENCV` model and COLMAP's SIMPLE_RADIAL, RADIAL and OPENCV mean (OpenCV's own
k4, of its rational model, is another thing).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manyview.geometry.pixels import common_size, pixel_centers, sample_images
from manyview.types import Views


def distort(points: Tensor, coefficients: Tensor) -> Tensor:
    """Distorted coordinates [..., 2] of ideal ones `points` [..., 2] on the plane z = 1.

    `coefficients` [..., 6] (k1 k2 k3 k4 p1 p2) broadcast against the leading dimensions of `points`.
    """
    x, y = points.unbind(-1)
    k1, k2, k3, k4, p1, p2 = coefficients.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return torch.stack((u, v), dim=-1)


def undistort(points: Tensor, coefficients: Tensor, *, num_steps: int = 12) -> Tensor:
    """Ideal coordinates [..., 2] whose distortion gives `points` [..., 2], by Newton's method.

    `coefficients` [..., 6] as in `distort`. The root is found without gradient and followed by one
    differentiable Newton step, whose first derivatives are those of the implicit function; memory does not
    grow with `num_steps`. Where the polynomial folds over (far outside a real lens' image) there is no root
    and the last iterate is returned.
    """
    with torch.no_grad():
        ideal = points.clone()
        for _ in range(num_steps):
            ideal = ideal - _newton_step(ideal, points, coefficients)
    inverse = _inverse_jacobian(ideal, coefficients.detach())
    residual = distort(ideal, coefficients) - points
    return ideal - (inverse @ residual.unsqueeze(-1)).squeeze(-1)


def undistort_views(views: Views) -> Views:
    """The views resampled to pinhole cameras of the same K and size.

    Colours and masks are bilinear; where the new image looks past the old one's border the mask is 0 and
    colours repeat the border. Depths take the nearest pixel (0 outside). Views without cameras or without
    distortion come back as they are.
    """
    cameras = views.cameras
    if cameras is None or cameras.distortion is None:
        return views
    height, width = common_size(cameras)
    grid = pixel_centers(height, width, dtype=cameras.K.dtype, device=cameras.K.device)
    ideal = unapply_intrinsics(grid.reshape(1, -1, 2), cameras.K)
    pixels = apply_intrinsics(distort(ideal, cameras.distortion[:, None]), cameras.K)
    pixels = pixels.reshape(len(cameras), height, width, 2)
    masks = views.masks
    depths = views.depths
    return replace(
        views,
        images=sample_images(views.images, pixels).clamp(0, 1),
        masks=None if masks is None else sample_images(masks, pixels, padding="zeros").clamp(0, 1),
        depths=None if depths is None else sample_images(depths, pixels, mode="nearest", padding="zeros"),
        cameras=replace(cameras, distortion=None),
    )


def apply_intrinsics(points: Tensor, K: Tensor) -> Tensor:
    """Pixels [V, N, 2] of points [V or 1, N, 2] on the plane z = 1, for `K` [V, 3, 3] (skew included)."""
    return points @ K[:, :2, :2].mT + K[:, None, :2, 2]


def unapply_intrinsics(pixels: Tensor, K: Tensor) -> Tensor:
    """Points [V, N, 2] on the plane z = 1 of pixels [V or 1, N, 2], for `K` [V, 3, 3]."""
    return (pixels - K[:, None, :2, 2]) @ torch.linalg.inv(K[:, :2, :2]).mT


def _newton_step(ideal: Tensor, points: Tensor, coefficients: Tensor) -> Tensor:
    residual = distort(ideal, coefficients) - points
    return (_inverse_jacobian(ideal, coefficients) @ residual.unsqueeze(-1)).squeeze(-1)


def _inverse_jacobian(points: Tensor, coefficients: Tensor) -> Tensor:
    """[..., 2, 2] inverse of d distort / d points, regularised where it is singular."""
    x, y = points.unbind(-1)
    k1, k2, k3, k4, p1, p2 = coefficients.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    slope = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4))
    du_dx = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    du_dy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    dv_dy = radial + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
    # The mixed derivatives of this polynomial are equal: dv/dx = du/dy.
    determinant = du_dx * dv_dy - du_dy * du_dy
    determinant = torch.where(determinant.abs() < 1e-9, torch.full_like(determinant, 1e-9), determinant)
    rows = torch.stack((dv_dy, -du_dy, -du_dy, du_dx), dim=-1) / determinant.unsqueeze(-1)
    return rows.unflatten(-1, (2, 2))
