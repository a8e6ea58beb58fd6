"""How alike two sets of pictures are as a whole: distances between the distributions of their features.

Both compare features [N, D] and [M, D] of any network; a figure means something only with the name of that
network, and only beside figures from as many pictures: the Frechet distance grows as sets shrink, the kernel
distance scatters more. Published FIDs use an Inception network, which is not used here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from manyview.errors import InputError


def frechet_distance(features: Tensor, targets: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features [N, D] and [M, D].

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)) with means m, n and covariances A, B (divided by N - 1; Dowson and
    Landau 1982; as FID, Heusel et al. 2017). The trace of the root is the sum of the roots of the eigenvalues
    of A^(1/2) B A^(1/2), which is symmetric, so sets smaller than D do no harm to the computation; they do
    bias the figure upwards. Raises `InputError` for fewer than two features in a set, unequal D, and numbers
    that are not finite.
    """
    a, b = _checked(features, targets)
    apart = a.mean(axis=0) - b.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(one, rowvar=False)) for one in (a, b))
    root = _root(first)
    values = np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)
    distance = apart @ apart + np.trace(first) + np.trace(second) - 2 * np.sqrt(values).sum()
    return float(max(distance, 0.0))


def kernel_distance(features: Tensor, targets: Tensor) -> float:
    """KID: the unbiased squared maximum mean discrepancy under the kernel (x . y / D + 1)^3.

    Features [N, D] and [M, D] (Binkowski et al. 2018, section 4, over all pairs at once, not in subsets). Its
    expectation does not depend on the number of pictures; equal distributions give 0 on average, single
    figures may be below. Raises as `frechet_distance`.
    """
    a, b = _checked(features, targets)
    within = _mean_off_diagonal(_kernel(a, a)) + _mean_off_diagonal(_kernel(b, b))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(values: np.ndarray) -> float:
    count = len(values)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _checked(features: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in double precision."""
    for name, one in (("features", features), ("targets", targets)):
        if one.ndim != 2 or len(one) < 2:
            raise InputError(name, tuple(one.shape), "expected [N, D] with N at least 2")
        if not bool(torch.isfinite(one).all()):
            raise InputError(name, "holds NaN or infinity", "expected finite numbers")
    if features.shape[1] != targets.shape[1]:
        shapes = tuple(features.shape), tuple(targets.shape)
        raise InputError("features, targets", shapes, "expected features of one length")
    a, b = (one.detach().cpu().double().numpy() for one in (features, targets))
    return a, b
