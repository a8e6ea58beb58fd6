from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from manyview.geometry import rotations

MANY = Rotation.random(200, rng=3)
# Identity, tiny turns, and half turns about each axis and between: where the naive formulas break.
AXES = torch.nn.functional.normalize(
    torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [-1, 2, 3], [1, -1, 1]], dtype=torch.float64),
    dim=-1,
)
HARD = torch.cat([AXES * angle for angle in (0.0, 1e-12, 1e-7, 1e-4, math.pi - 1e-7, math.pi)])


def as_tensor(array) -> torch.Tensor:
    return torch.from_numpy(array)


def test_agrees_with_scipy():
    matrices = as_tensor(MANY.as_matrix())
    quaternions = as_tensor(MANY.as_quat(canonical=True, scalar_first=True))
    vectors = as_tensor(MANY.as_rotvec())
    assert_close(rotations.matrix_from_quaternion(quaternions), matrices)
    assert_close(rotations.quaternion_from_matrix(matrices), quaternions)
    assert_close(rotations.matrix_from_axis_angle(vectors), matrices)
    assert_close(rotations.axis_angle_from_matrix(matrices), vectors)


def test_hard_angles():
    matrices = rotations.matrix_from_axis_angle(HARD)
    assert_close(matrices, as_tensor(Rotation.from_rotvec(HARD.numpy()).as_matrix()), atol=1e-15, rtol=0)
    back = rotations.axis_angle_from_matrix(matrices)
    assert_close(rotations.matrix_from_axis_angle(back), matrices, atol=1e-14, rtol=0)
    below_pi = HARD.norm(dim=-1) < math.pi - 1e-8
    # Relative accuracy near zero, so a small turn is not lost.
    assert_close(back[below_pi], HARD[below_pi], rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_six_numbers(dtype):
    matrices = as_tensor(MANY.as_matrix()).to(dtype)
    six = rotations.vector_6d_from_matrix(matrices)
    assert_close(six[:, :3], matrices[:, :, 0])
    assert_close(rotations.matrix_from_6d(six), matrices)
    # Any two independent vectors give a rotation that keeps the first one's direction.
    free = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotation = rotations.matrix_from_6d(free)
    assert rotation.dtype == dtype
    assert_close(rotation @ rotation.mT, torch.eye(3, dtype=dtype).expand(50, 3, 3))
    assert_close(torch.linalg.det(rotation), torch.ones(50, dtype=dtype))
    assert_close(rotation[:, :, 0], torch.nn.functional.normalize(free[:, :3], dim=-1))


def test_slerp():
    start, turn = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), HARD.new_tensor([0.0, 0, 1.2])
    end = rotations.quaternion_from_axis_angle(turn)
    fractions = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = rotations.quaternion_from_axis_angle(fractions[:, None] * turn)
    assert_close(rotations.slerp(start, end, fractions), expected)
    # The other sign of a quaternion is the same rotation: the path does not change.
    assert_close(rotations.slerp(start, -end, fractions), expected)
    assert_close(rotations.slerp(start, start, 0.3), start)


def test_geodesic_angle():
    identity = torch.eye(3, dtype=torch.float64)
    for angle in (0.0, 1e-9, 1.0, math.pi - 1e-9, math.pi):
        turned = rotations.matrix_from_axis_angle(AXES * angle)
        expected = torch.full((len(AXES),), angle, dtype=torch.float64)
        assert_close(rotations.geodesic_angle(identity, turned), expected, rtol=1e-6, atol=1e-14)
    pairs = as_tensor(MANY.as_matrix())
    expected = (MANY[:100].inv() * MANY[100:]).magnitude()
    assert_close(rotations.geodesic_angle(pairs[:100], pairs[100:]), as_tensor(expected))


def test_rigid_transforms(make_cameras):
    first, second = make_cameras(4, seed=1).world_from_cam, make_cameras(4, seed=2).world_from_cam
    assert_close(first @ rotations.relative_transform(first, second), second)
    assert_close(rotations.invert_rigid(first), torch.linalg.inv(first))
    vectors = torch.randn(2, 5, 3, dtype=torch.float64)
    crossed = (rotations.cross_matrix(vectors[0]) @ vectors[1].unsqueeze(-1)).squeeze(-1)
    assert_close(crossed, torch.linalg.cross(vectors[0], vectors[1]))


def test_gradients_also_at_zero_and_half_turns():
    vectors = torch.cat((HARD.new_zeros(1, 3), AXES[3:] * 1e-3, AXES[3:] * 2.0)).requires_grad_()
    assert torch.autograd.gradcheck(rotations.matrix_from_axis_angle, (vectors,))
    assert torch.autograd.gradcheck(
        lambda v: rotations.axis_angle_from_quaternion(rotations.quaternion_from_axis_angle(v)), (vectors,)
    )
    half_turns = rotations.matrix_from_axis_angle(AXES * math.pi).requires_grad_()
    rotations.quaternion_from_matrix(half_turns).sum().backward()
    assert half_turns.grad is not None
    assert torch.isfinite(half_turns.grad).all()
    six = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotations.matrix_from_6d, (six,))
