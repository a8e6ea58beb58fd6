"""GANSpace: principal directions of a generator's codes, and edits along them (Härkönen et al. 2020,
arXiv 2004.02546).

Shapes: N codes, L rows of a code, D numbers a row, k directions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.noise import item_uniform

PAPER_AMOUNT = 3.0
"""Edits go from -3 to 3 deviations (section 4.1 of the refiner's paper)."""


class IncrementalPCA:
    """Principal components of rows that come in chunks; the answer does not depend on the chunks.

    Keeps the sum of squares about the mean, D x D in double precision, and merges it exactly (Chan, Golub and
    LeVeque 1979); a generator's codes have few dimensions, so nothing has to be left out on the way.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def partial_fit(self, chunk: Tensor) -> None:
        """Add rows [n, D]."""
        rows = chunk.detach().double().cpu()
        if not len(rows):
            return
        mean = rows.mean(dim=0)
        gap = mean - self._mean
        total = self.count + len(rows)
        centred = rows - mean
        self._scatter += centred.T @ centred + torch.outer(gap, gap) * (self.count * len(rows) / total)
        self._mean += gap * (len(rows) / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """[D]"""
        return self._mean.float()

    def components(self, k: int) -> tuple[Tensor, Tensor]:
        """Unit vectors [k, D] by falling variance, and the deviations [k] along them.

        A vector's largest entry is positive, so that the same rows always give the same signs. Raises
        `InputError` for more than there can be.
        """
        limit = min(len(self._mean), self.count - 1)
        if not 1 <= k <= limit:
            raise InputError("components", k, f"expected 1 to {limit} of {self.count} codes")
        values, vectors = torch.linalg.eigh(self._scatter)
        values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k].T
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        vectors = vectors * largest.sign()
        return vectors.float(), (values.clamp_min(0) / (self.count - 1)).sqrt().float()


@dataclass(frozen=True)
class Directions:
    """The principal directions of a generator's codes."""

    mean: Tensor
    """[D]"""
    vectors: Tensor
    """[k, D] unit, orthogonal"""
    deviations: Tensor
    """[k] standard deviation of the codes along each"""

    def to(self, like: Tensor) -> Directions:
        """On the device and in the type of `like`."""
        return Directions(self.mean.to(like), self.vectors.to(like), self.deviations.to(like))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file."""
        save_file({name: value.contiguous() for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Directions:
        """What `save` wrote."""
        return cls(**load_file(path))


def fit_directions(
    sample: Callable[[Sequence[int]], Tensor],
    num_samples: int = 100_000,
    num_components: int = 80,
    chunk: int = 10_000,
    first_seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Directions:
    """The directions of `num_samples` codes. `sample(seeds)` gives codes [n, L, D] (of which the first row is
    taken) or [n, D]; `progress` is called with the number of codes each chunk adds."""
    pca = None
    for start in range(0, num_samples, chunk):
        seeds = range(first_seed + start, first_seed + min(start + chunk, num_samples))
        with torch.no_grad():
            codes = sample(seeds)
        codes = codes[:, 0] if codes.ndim == 3 else codes
        pca = IncrementalPCA(codes.shape[1]) if pca is None else pca
        pca.partial_fit(codes)
        if progress is not None:
            progress(len(seeds))
    if pca is None:
        raise InputError("num_samples", num_samples, "expected at least 2")
    return Directions(pca.mean, *pca.components(min(num_components, len(pca.mean), pca.count - 1)))


def edit_codes(
    codes: Tensor,
    directions: Directions,
    component: int,
    amounts: Tensor | float,
    layers: tuple[int, int],
) -> Tensor:
    """[B, L, D] the codes moved by `amounts` ([B] or one for all) deviations along one direction, on the rows
    layers[0] <= l < layers[1] alone (eq. 1 of the refiner's paper). Raises `InputError` for a component or
    layers that there are not."""
    if not 0 <= component < len(directions.vectors):
        raise InputError("component", component, f"expected 0 to {len(directions.vectors) - 1}")
    moved = layer_mask(codes, layers)
    step = (directions.vectors[component] * directions.deviations[component]).to(codes)
    amount = torch.as_tensor(amounts, dtype=codes.dtype, device=codes.device).reshape(-1, 1, 1)
    return codes + amount * step * moved


def layer_mask(codes: Tensor, layers: tuple[int, int] | None) -> Tensor:
    """[L, 1] 1 on the rows layers[0] <= l < layers[1] of codes [B, L, D] (on all for None), else 0. Raises
    `InputError` for layers that there are not."""
    count = codes.shape[1]
    first, last = (0, count) if layers is None else layers
    if not 0 <= first < last <= count:
        raise InputError("layers", layers, f"expected a range within 0 to {count}")
    mask = torch.zeros(count, 1, dtype=codes.dtype, device=codes.device)
    mask[first:last] = 1
    return mask


def random_amounts(
    count: int, low: float = -PAPER_AMOUNT, high: float = PAPER_AMOUNT, *, seed: int, item: int
) -> Tensor:
    """[count] amounts uniform between `low` and `high`, of one item of a run."""
    return low + (high - low) * item_uniform(seed, [item], (count,))[0]


def sweep_amounts(count: int, low: float = -PAPER_AMOUNT, high: float = PAPER_AMOUNT) -> Tensor:
    """[count] amounts from `low` to `high`, evenly, both included."""
    return torch.linspace(low, high, count)
