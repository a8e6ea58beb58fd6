"""How far apart two sets of images are as sets: distances between the distributions of their features.

Both take features [N, D] and [M, D] of any network; a number means something only beside the network's name
and the numbers of images, since both distances grow as sets shrink (the kernel distance's mean does not).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.errors import InputError


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), covariances divided by N - 1. The trace of the root is
    the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric, so that sets
    smaller than their features do not break it. Raises `InputError` for fewer than two rows or features that
    do not match.
    """
    a, b = _checked(features_a, features_b)
    shift = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cov_b @ root)
    overlap = np.sqrt(np.clip(inner, 0, None)).sum()
    return float(max(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap, 0.0))


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018).

    Over all pairs at once, without the original's subsets; it may be negative for equal distributions. Raises
    `InputError` as `frechet_distance`.
    """
    a, b = _checked(features_a, features_b)
    same = [_mean_off_diagonal(_kernel(values, values)) for values in (a, b)]
    return float(sum(same) - 2 * _kernel(a, b).mean())


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_off_diagonal(values: NDArray[np.float64]) -> float:
    count = len(values)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))


def _checked(features_a: Tensor, features_b: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shapes = f"{tuple(features_a.shape)} and {tuple(features_b.shape)}"
    fits = features_a.ndim == features_b.ndim == 2 and features_a.shape[1] == features_b.shape[1]
    if not fits or min(len(features_a), len(features_b)) < 2:
        raise InputError("features", shapes, "expected [N, D] and [M, D] of at least two rows each")
    a, b = (values.detach().cpu().to(torch.float64).numpy() for values in (features_a, features_b))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features", "hold NaN or infinity", "expected finite numbers")
    return a, b
