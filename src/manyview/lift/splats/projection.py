"""Gaussians as one camera sees them: elliptical weighted averaging (Zwicker et al. 2001; Kerbl et al. 2023).

A Gaussian of covariance S projects to one of covariance J W S W^T J^T, with W the camera's rotation and J
the Jacobian of the perspective projection at its centre, plus 0.3 pixels^2 on the diagonal, so that no
Gaussian falls between the pixels.

This module is the definition; kernels.py does the same in the same order of operations. Both round alike,
so a pixel on the edge of a Gaussian is inside for both or for neither. That is why the small matrix products
below are written out: a library product may round differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.lift.splats.harmonics import colors_towards
from manyview.lift.splats.model import Splats
from manyview.types import Cameras

DILATION = 0.3
"""Pixels squared added to both variances on the screen."""
MIN_ALPHA = 1 / 255
"""A Gaussian ends where its alpha falls below this."""
MAX_ALPHA = 0.999
"""No Gaussian hides what is behind it more than this."""
MIN_TRANSMITTANCE = 1e-4
"""A pixel takes nothing more once less light than this passes."""
NEAR_FRACTION = 0.01
_FIELD_MARGIN = 0.3


@dataclass(frozen=True)
class Camera:
    """One pinhole camera, ready to project. The tensors carry gradients, the numbers do not."""

    rows: Tensor
    """[3, 4] the upper part of cam_from_world."""
    center: Tensor
    """[3] in the world."""
    focal: tuple[float, float]
    """Pixels, across and down."""
    principal: tuple[float, float]
    """Pixels, (u, v)."""
    size: tuple[int, int]
    """(height, width)."""
    near: float
    """Gaussians whose centre is not further along z than this are left out, in world units."""

    @property
    def slopes(self) -> tuple[float, float, float, float]:
        """Lowest and highest x / z, lowest and highest y / z at which J is taken.

        Outside the picture by more than a margin the linearisation runs away; J stays there what it is at
        the margin.
        """
        (height, width), (fx, fy), (cx, cy) = self.size, self.focal, self.principal
        extra_x, extra_y = _FIELD_MARGIN * 0.5 * width / fx, _FIELD_MARGIN * 0.5 * height / fy
        return (
            -cx / fx - extra_x,
            (width - cx) / fx + extra_x,
            -cy / fy - extra_y,
            (height - cy) / fy + extra_y,
        )


@dataclass(frozen=True)
class Footprints:
    """N Gaussians on one camera's screen."""

    centers: Tensor
    """[N, 2] pixels."""
    conics: Tensor
    """[N, 3] entries xx, xy, yy of the inverse covariance, per pixel squared."""
    depths: Tensor
    """[N] along the camera's z."""
    colors: Tensor
    """[N, 3]"""
    opacities: Tensor
    """[N]"""
    cutoffs: Tensor
    """[N] the exponent at which alpha reaches MIN_ALPHA."""
    extents: Tensor
    """[N, 2] half width and half height, in pixels, of the ellipse within the cut-off."""
    visible: Tensor
    """bool [N]"""


def split_cameras(cameras: Cameras, points: Tensor, near: float | None) -> list[Camera]:
    """Each camera on its own. Without `near` it is a hundredth of the way from camera to the middle of
    `points` [N, 3], but at least a thousandth of the points' spread."""
    cam_from_world, centers = cameras.cam_from_world, cameras.centers
    with torch.no_grad():
        middle = points.mean(dim=0)
        spread = torch.linalg.vector_norm(points - middle, dim=-1).mean()
        distances = torch.linalg.vector_norm(centers.to(middle) - middle, dim=-1)
        nears = torch.maximum(NEAR_FRACTION * distances, 0.1 * NEAR_FRACTION * spread).tolist()
    result = []
    for index in range(len(cameras)):
        K = cameras.K[index].tolist()
        height, width = cameras.sizes[index].tolist()
        result.append(
            Camera(
                rows=cam_from_world[index, :3],
                center=centers[index],
                focal=(K[0][0], K[1][1]),
                principal=(K[0][2], K[1][2]),
                size=(height, width),
                near=nears[index] if near is None else near,
            )
        )
    return result


def cut_off(opacities: Tensor) -> Tensor:
    """[N] the exponent s at which opacity * exp(-s) is MIN_ALPHA; negative where nothing is ever seen."""
    return torch.log(opacities.detach() * (1 / MIN_ALPHA))


def project(splats: Splats, camera: Camera, screen_offsets: Tensor | None = None) -> Footprints:
    """The Gaussians on the camera's screen. `screen_offsets` [N, 2], in pixels, is added to their centres (a
    probe: its gradient is that of the screen positions)."""
    x, y, z = _to_camera(splats.means, camera.rows)
    inverse_z = torch.reciprocal(z)
    (fx, fy), (cx, cy) = camera.focal, camera.principal
    slope_x, slope_y = x * inverse_z, y * inverse_z
    u, v = slope_x * fx + cx, slope_y * fy + cy
    if screen_offsets is not None:
        u, v = u + screen_offsets[:, 0], v + screen_offsets[:, 1]
    left, right, top, bottom = camera.slopes
    jacobian = (
        inverse_z * fx,
        -(inverse_z * fx * slope_x.clamp(left, right)),
        inverse_z * fy,
        -(inverse_z * fy * slope_y.clamp(top, bottom)),
    )
    axes = _screen_axes(splats, camera.rows, jacobian)
    a, b, c, determinant = _covariance(axes)
    inverse = torch.reciprocal(determinant)
    opacities = splats.opacities
    cutoffs = cut_off(opacities)
    extents = torch.stack(((2 * cutoffs * a).sqrt(), (2 * cutoffs * c).sqrt()), dim=-1).detach()
    height, width = camera.size
    visible = (z > camera.near) & (cutoffs > 0)
    visible &= (u + extents[:, 0] >= 0) & (u - extents[:, 0] <= width)
    visible &= (v + extents[:, 1] >= 0) & (v - extents[:, 1] <= height)
    away = splats.means - camera.center
    directions = away / torch.linalg.vector_norm(away, dim=-1, keepdim=True).clamp_min(1e-12)
    return Footprints(
        centers=torch.stack((u, v), dim=-1),
        conics=torch.stack((c * inverse, -b * inverse, a * inverse), dim=-1),
        depths=z,
        colors=colors_towards(splats.sh, directions),
        opacities=opacities,
        cutoffs=cutoffs,
        extents=extents,
        visible=visible,
    )


def _to_camera(means: Tensor, rows: Tensor) -> list[Tensor]:
    x, y, z = means.unbind(-1)
    return [((row[0] * x + row[1] * y) + row[2] * z) + row[3] for row in rows]


def _rotation_columns(quaternions: Tensor) -> list[list[Tensor]]:
    """[3][3] of [N] entries, row then column, of the normalised quaternions."""
    w, x, y, z = quaternions.unbind(-1)
    inverse = torch.reciprocal((((w * w + x * x) + y * y) + z * z).sqrt())
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def _screen_axes(splats: Splats, rows: Tensor, jacobian: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """[2][3] of [N]: Q = J W R diag(scales), whose Q Q^T is the covariance on the screen."""
    rotation = _rotation_columns(splats.quaternions)
    scales = splats.scales.unbind(-1)
    result = []
    for row, (direct, by_depth) in zip(rows[:2], (jacobian[:2], jacobian[2:]), strict=True):
        # Each row of J has two entries: that of its own axis and that of z.
        world = [direct * row[k] + by_depth * rows[2][k] for k in range(3)]
        own = [
            (world[0] * rotation[0][k] + world[1] * rotation[1][k]) + world[2] * rotation[2][k]
            for k in range(3)
        ]
        result.append([value * scale for value, scale in zip(own, scales, strict=True)])
    return result


def _covariance(axes: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entries xx, xy, yy of Q Q^T + DILATION I and its determinant.

    The determinant is |q0 x q1|^2 + DILATION (|q0|^2 + |q1|^2) + DILATION^2 (Cauchy and Binet): a sum of
    squares, which does not cancel for long thin Gaussians as xx yy - xy^2 does.
    """
    (p0, p1, p2), (q0, q1, q2) = axes
    first, second = (p0 * p0 + p1 * p1) + p2 * p2, (q0 * q0 + q1 * q1) + q2 * q2
    mixed = (p0 * q0 + p1 * q1) + p2 * q2
    n0, n1, n2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
    area = (n0 * n0 + n1 * n1) + n2 * n2
    determinant = (area + (first + second) * DILATION) + DILATION * DILATION
    return first + DILATION, mixed, second + DILATION, determinant
