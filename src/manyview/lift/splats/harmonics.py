"""Colour from spherical harmonics: the basis and order of 3D Gaussian splatting (Kerbl et al. 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Real spherical harmonics, orthonormal on the sphere; the constants of each band from their closed forms.
BAND_0 = math.sqrt(1 / (4 * math.pi))
BAND_1 = math.sqrt(3 / (4 * math.pi))
BAND_2 = (math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)))
BAND_3 = (
    math.sqrt(35 / (32 * math.pi)),
    math.sqrt(105 / (4 * math.pi)),
    math.sqrt(21 / (32 * math.pi)),
    math.sqrt(7 / (16 * math.pi)),
)


def basis(directions: Tensor, num_coefficients: int) -> Tensor:
    """[..., K] the first K = 1, 4, 9 or 16 functions at unit `directions` [..., 3]."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, BAND_0)]
    if num_coefficients > 1:
        values += [-BAND_1 * y, BAND_1 * z, -BAND_1 * x]
    if num_coefficients > 4:
        cross, flat = BAND_2
        values += [cross * x * y, -cross * y * z, flat * (3 * z * z - 1), -cross * x * z]
        values += [0.5 * cross * (x * x - y * y)]
    if num_coefficients > 9:
        outer, mixed, inner, polar = BAND_3
        values += [-outer * y * (3 * x * x - y * y), mixed * x * y * z, -inner * y * (5 * z * z - 1)]
        values += [polar * z * (5 * z * z - 3), -inner * x * (5 * z * z - 1)]
        values += [0.5 * mixed * z * (x * x - y * y), -outer * x * (x * x - 3 * y * y)]
    return torch.stack(values, dim=-1)


def colors_towards(sh: Tensor, directions: Tensor) -> Tensor:
    """[N, 3] colour of the coefficients `sh` [N, K, 3] for unit `directions` [N, 3] (camera to Gaussian)."""
    values = (basis(directions, sh.shape[1])[..., None] * sh).sum(dim=-2)
    return (values + 0.5).clamp_min(0)
