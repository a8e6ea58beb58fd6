"""Rotations and rigid transforms, for any leading dimensions. Quaternions are unit, (w, x, y, z)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_matrix(vectors: Tensor) -> Tensor:
    """[..., 3, 3] the matrix [v]x with [v]x w = v x w."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def matrix_from_quaternion(quaternions: Tensor) -> Tensor:
    """[..., 3, 3] rotation of quaternions [..., 4] (w, x, y, z), which are normalised first."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_matrix(matrices: Tensor) -> Tensor:
    """[..., 4] (w, x, y, z) with w >= 0, of rotations [..., 3, 3].

    Of the four equivalent formulas (Shepperd 1978) each matrix takes the one that divides by its largest
    component, so the result and its gradient stay accurate at half turns.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrices.flatten(-2).unbind(-1)
    # Row i is 4 q_i times the quaternion, in four ways of writing the same outer product.
    products = torch.stack(
        (
            torch.stack((1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01), dim=-1),
            torch.stack((m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20), dim=-1),
            torch.stack((m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12), dim=-1),
            torch.stack((m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22), dim=-1),
        ),
        dim=-2,
    )
    largest = products.detach().diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quaternion = F.normalize(products.gather(-2, index).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_from_axis_angle(vectors: Tensor) -> Tensor:
    """[..., 4] of axis-angle vectors [..., 3] (axis times angle in radians); smooth at zero."""
    square = (vectors * vectors).sum(dim=-1, keepdim=True)
    is_small = square < 1e-8
    angle = torch.where(is_small, torch.ones_like(square), square).sqrt()
    # sin(a/2)/a = 1/2 - a^2/48 + ..., cos(a/2) = 1 - a^2/8 + ...: the next terms vanish in double precision.
    ratio = torch.where(is_small, 0.5 - square / 48, (angle / 2).sin() / angle)
    real = torch.where(is_small, 1 - square / 8, (angle / 2).cos())
    return torch.cat((real, vectors * ratio), dim=-1)


def axis_angle_from_quaternion(quaternions: Tensor) -> Tensor:
    """[..., 3] axis times angle in [0, pi] of quaternions [..., 4]; smooth at zero."""
    unit = F.normalize(quaternions, dim=-1)
    unit = torch.where(unit[..., :1] < 0, -unit, unit)
    real, vector = unit[..., :1], unit[..., 1:]
    square = (vector * vector).sum(dim=-1, keepdim=True)
    is_small = square < 1e-8
    length = torch.where(is_small, torch.ones_like(square), square).sqrt()
    # angle / sin(angle / 2) = 2 + s^2 / 3 + ... with s = sin(angle / 2).
    ratio = torch.where(is_small, 2 + square / 3, 2 * torch.atan2(length, real) / length)
    return vector * ratio


def matrix_from_axis_angle(vectors: Tensor) -> Tensor:
    """[..., 3, 3] rotations about `vectors` [..., 3] by their length in radians; smooth at zero."""
    return matrix_from_quaternion(quaternion_from_axis_angle(vectors))


def axis_angle_from_matrix(matrices: Tensor) -> Tensor:
    """[..., 3] axis times angle in [0, pi] of rotations [..., 3, 3]; stable near 0 and near pi."""
    return axis_angle_from_quaternion(quaternion_from_matrix(matrices))


def matrix_from_6d(vectors: Tensor) -> Tensor:
    """[..., 3, 3] by Gram-Schmidt of [..., 6] = first column, second column (Zhou et al. 2019, eq. 15)."""
    first, second = vectors[..., :3], vectors[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(dim=-1, keepdim=True) * x, dim=-1)
    return torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), dim=-1)


def vector_6d_from_matrix(matrices: Tensor) -> Tensor:
    """[..., 6] the first two columns of rotations [..., 3, 3], first column first."""
    return matrices[..., :2].mT.flatten(-2)


def slerp(first: Tensor, second: Tensor, fraction: Tensor | float) -> Tensor:
    """[..., 4] quaternions at `fraction` (broadcast against [...]) of the shorter arc between the two."""
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    cosine = (first * second).sum(dim=-1, keepdim=True)
    second = torch.where(cosine < 0, -second, second)
    part = torch.as_tensor(fraction, dtype=first.dtype, device=first.device).unsqueeze(-1)
    # The chord's half angle is accurate where the arc's cosine is not.
    angle = 2 * torch.atan2(
        torch.linalg.vector_norm(second - first, dim=-1, keepdim=True),
        torch.linalg.vector_norm(second + first, dim=-1, keepdim=True),
    )
    is_small = angle < 1e-6
    sine = torch.where(is_small, torch.ones_like(angle), angle.sin())
    weight_first = torch.where(is_small, 1 - part, ((1 - part) * angle).sin() / sine)
    weight_second = torch.where(is_small, part, (part * angle).sin() / sine)
    return F.normalize(weight_first * first + weight_second * second, dim=-1)


def geodesic_angle(first: Tensor, second: Tensor) -> Tensor:
    """[...] angle in radians, [0, pi], between rotations [..., 3, 3]; accurate near 0 and near pi."""
    quaternion = quaternion_from_matrix(first.mT @ second)
    sine = torch.linalg.vector_norm(quaternion[..., 1:], dim=-1)
    return 2 * torch.atan2(sine, quaternion[..., 0])


def invert_rigid(transforms: Tensor) -> Tensor:
    """[..., 4, 4] inverses of rigid transforms, exact up to rounding."""
    rotation = transforms[..., :3, :3].mT
    top = torch.cat((rotation, -rotation @ transforms[..., :3, 3:]), dim=-1)
    return torch.cat((top, transforms[..., 3:, :]), dim=-2)


def relative_transform(world_from_a: Tensor, world_from_b: Tensor) -> Tensor:
    """[..., 4, 4] `a_from_b` of two rigid transforms to one world."""
    return invert_rigid(world_from_a) @ world_from_b


def rigid_from_vector(vectors: Tensor, invert: bool = False) -> Tensor:
    """[..., 4, 4] x -> R x + t of vectors [..., 6] = axis-angle of R in radians, then t; its inverse with
    `invert`. Smooth at zero."""
    rotation = matrix_from_axis_angle(vectors[..., :3])
    top = torch.cat((rotation, vectors[..., 3:, None]), dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
    rigid = torch.cat((top, bottom.expand(*top.shape[:-2], 1, 4)), dim=-2)
    return invert_rigid(rigid) if invert else rigid


def vector_from_rigid(transforms: Tensor) -> Tensor:
    """[..., 6] axis-angle (angle in [0, pi]) and translation of rigid transforms [..., 4, 4]."""
    return torch.cat((axis_angle_from_matrix(transforms[..., :3, :3]), transforms[..., :3, 3]), dim=-1)
