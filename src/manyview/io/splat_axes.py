"""Turning Gaussians: their quaternions, and the coefficients of their colours."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def turned_quaternions(quaternions: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """[N, 4] w x y z of `rotation` [3, 3] after the given turns; lengths stay."""
    w, x, y, z = np.roll(Rotation.from_matrix(rotation).as_quat(), 1)
    # Left multiplication by a quaternion as a matrix (Hamilton's product).
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return (quaternions @ left.T).astype(np.float32)


def turned_sh(sh: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """[N, K, 3] coefficients whose colour towards R d is what `sh` [N, K, 3] gave towards d.

    A turn mixes coefficients of one degree only. The mixing matrix is solved for from the basis at
    more directions than it has unknowns; the system is exact, so this is no approximation.
    """
    result = np.array(sh, dtype=np.float32)
    num_coefficients = sh.shape[1]
    if num_coefficients == 1:
        return result
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = sh_basis(directions @ rotation, num_coefficients)
    after = sh_basis(directions, num_coefficients)
    for degree in range(1, round(num_coefficients**0.5)):
        band = slice(degree**2, (degree + 1) ** 2)
        # For every direction d: basis(d) mixed = basis(R^T d) old.
        mixing, *_ = np.linalg.lstsq(after[:, band], before[:, band], rcond=None)
        result[:, band] = np.einsum("ij,njc->nic", mixing, sh[:, band].astype(np.float64))
    return result


def sh_basis(directions: np.ndarray, num_coefficients: int) -> np.ndarray:
    """[D, K] real spherical harmonics at unit `directions` [D, 3], orders -l to l within degree l.

    Orthonormal on the sphere; with the sign (-1)^m of Condon and Shortley, as in 3D Gaussian splatting
    (Kerbl et al. 2023): sqrt(2) times the real (m > 0) or imaginary (m < 0) part of Y_l^|m|.
    """
    x, y, z = directions.T
    xx, yy, zz = x * x, y * y, z * z
    pi = np.pi
    one = np.ones_like(x)
    values = [np.sqrt(1 / (4 * pi)) * one]
    if num_coefficients > 1:
        values += [c * np.sqrt(3 / (4 * pi)) for c in (-y, z, -x)]
    if num_coefficients > 4:
        cross, flat = np.sqrt(15 / (4 * pi)), np.sqrt(5 / (16 * pi))
        values += [cross * x * y, -cross * y * z, flat * (3 * zz - 1), -cross * x * z]
        values += [cross / 2 * (xx - yy)]
    if num_coefficients > 9:
        outer, inner = np.sqrt(35 / (32 * pi)), np.sqrt(21 / (32 * pi))
        values += [-outer * y * (3 * xx - yy), np.sqrt(105 / (4 * pi)) * x * y * z]
        values += [-inner * y * (5 * zz - 1), np.sqrt(7 / (16 * pi)) * z * (5 * zz - 3)]
        values += [-inner * x * (5 * zz - 1), np.sqrt(105 / (16 * pi)) * z * (xx - yy)]
        values += [-outer * x * (xx - 3 * yy)]
    return np.stack(values, axis=1)
