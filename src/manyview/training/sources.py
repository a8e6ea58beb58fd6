"""Packed data sets from which single views are drawn, some more often than others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.packed import PackedViews
from manyview.errors import InputError


def sum_to_one(shares: Sequence[float], count: int, argument: str = "--shares") -> NDArray[np.float64]:
    """[count] how often each of so many data sets is drawn from, as given, or equally where nothing is.
    Raises `InputError` for another number of them, and for one that is not positive."""
    weights = np.asarray(shares or [1.0] * count, dtype=np.float64)
    if len(weights) != count or weights.min() <= 0:
        raise InputError(argument, tuple(shares), f"expected {count} positive numbers")
    return weights / weights.sum()


class ViewSources:
    """Training sets with their shares, and a held-out one. Raises `InputError` where there is no training
    set, and as `PackedViews` and `sum_to_one`."""

    def __init__(
        self, folders: Sequence[Path], shares: Sequence[float] = (), validation: Path | None = None
    ) -> None:
        if not folders:
            raise InputError("--data", "not given", "expected one or more packed data sets")
        self.training = [PackedViews(folder) for folder in folders]
        self.shares = sum_to_one(shares, len(folders))
        self.validation = None if validation is None else PackedViews(validation, "--validation")

    @property
    def all(self) -> list[PackedViews]:
        """The training sets, and the held-out one if there is one."""
        return [*self.training, *([] if self.validation is None else [self.validation])]

    def draw_object(self, rng: np.random.Generator) -> tuple[PackedViews, int]:
        """A data set by its share, and one of its objects."""
        source = self.training[int(rng.choice(len(self.training), p=self.shares))]
        return source, int(rng.integers(len(source)))

    def draw(self, rng: np.random.Generator) -> tuple[PackedViews, int, int]:
        """A data set by its share, one of its objects, and one of its views."""
        source, index = self.draw_object(rng)
        return source, index, int(rng.integers(source.num_views))


def read_view(source: PackedViews, index: int, view: int) -> Tensor:
    """[3, S, S] in [0, 1]: one view of one object."""
    return torch.from_numpy(source[index][view].astype(np.float32) / 255).permute(2, 0, 1).contiguous()
