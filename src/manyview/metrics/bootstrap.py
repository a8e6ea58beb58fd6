"""How sure a mean is: resampling whole objects.

Views of one object are alike, so resampling single images would give intervals that are too narrow. The
cluster bootstrap (Davison and Hinkley 1997, section 3.8) draws groups with replacement and keeps all items
of a group.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from torch import Tensor

from manyview.errors import InputError
from manyview.metrics.report import Estimate


def bootstrap_mean(
    values: Tensor | Sequence[float],
    groups: Sequence[Hashable],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean over all items and its 95% percentile interval from resampling `groups` (one label an item: the
    object).

    Every item weighs the same, as in the papers' tables; a resample's mean is its sum over its count. The
    same seed gives the same interval, and so does any order of the items within their groups. Raises
    `InputError` for no items, lengths that differ, and values that are not finite (a PSNR of equal images).
    """
    numbers = np.asarray(values.tolist() if isinstance(values, Tensor) else values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or len(numbers) != len(groups):
        raise InputError("values", numbers.shape, f"expected one number for each of {len(groups)} > 0 items")
    if not np.isfinite(numbers).all():
        raise InputError("values", "holds NaN or infinity", "expected finite numbers")
    index_of = {label: index for index, label in enumerate(dict.fromkeys(groups))}
    index = np.array([index_of[label] for label in groups])
    sums = np.bincount(index, weights=numbers)
    counts = np.bincount(index)
    interval = None
    if len(sums) > 1:
        drawn = np.random.default_rng(seed).integers(len(sums), size=(num_resamples, len(sums)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        interval = (float(low), float(high))
    return Estimate(mean=float(numbers.mean()), ci95=interval, num_items=len(numbers), num_groups=len(sums))
