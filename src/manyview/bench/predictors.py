"""Who answers a question: methods and trivial baselines behind one call.

A predictor maps images [N, V, 3, H, W] (read only where `observed` [N, V]) and N item numbers, which
decide the noise, to all V views of each rig. Rigs are evenly spaced; slot v is at azimuth 360 v / V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.sampling.solvers import Solver


class Predictor(Protocol):
    """Anything that completes rigs."""

    def __call__(self, images: Tensor, observed: Tensor, items: Sequence[int], /) -> Tensor:
        """[N, V, 3, H, W] in [0, 1]."""
        ...


class GuidedPredictor(Protocol):
    """A predictor with classifier-free guidance, scored at several strengths."""

    def __call__(self, images: Tensor, observed: Tensor, items: Sequence[int], guidance: float, /) -> Tensor:
        """[N, V, 3, H, W] in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class DimvisPredictor:
    """All missing views of a rig at once."""

    pipeline: DimvisPipeline
    num_steps: int = 50
    solver: Solver = "ddim"
    seed: int = 0
    batch_size: int = 8

    def __call__(self, images: Tensor, observed: Tensor, items: Sequence[int], guidance: float) -> Tensor:
        """[N, V, 3, H, W], the observed views as given."""
        return self.pipeline.complete(
            images,
            observed,
            items=items,
            seed=self.seed,
            num_steps=self.num_steps,
            guidance=guidance,
            solver=self.solver,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class One2OnePredictor:
    """Every missing view on its own, from the reference nearest to it in azimuth."""

    pipeline: One2OnePipeline
    num_steps: int = 50
    solver: Solver = "ddim"
    seed: int = 0
    batch_size: int = 8

    def __call__(self, images: Tensor, observed: Tensor, items: Sequence[int], guidance: float) -> Tensor:
        """[N, V, 3, H, W], the observed views as given."""
        num_views = observed.shape[1]
        nearest = nearest_references(observed)
        rig, slot = (~observed).nonzero(as_tuple=True)
        source = nearest[rig, slot]
        turn = (slot - source) * (2 * math.pi / num_views)
        zero = torch.zeros_like(turn)
        answers = images.clone()
        answers[rig, slot] = self.pipeline.predict(
            images[rig, source],
            torch.stack([zero, turn.sin(), turn.cos(), zero], dim=-1),
            items=[items[r] * num_views + s for r, s in zip(rig.tolist(), slot.tolist(), strict=True)],
            seed=self.seed,
            num_steps=self.num_steps,
            guidance=guidance,
            solver=self.solver,
            batch_size=self.batch_size * num_views,
        )
        return answers


def nearest_references(observed: Tensor) -> Tensor:
    """int64 [N, V]: for every slot the observed slot nearest in azimuth (itself where observed).

    Of two equally near the one at the greater azimuth (+90 before -90 degrees), which treats all slots
    alike. Every row of `observed` [N, V] has at least one.
    """
    num_views = observed.shape[1]
    # 0, +1, -1, +2, -2, ... steps along the rig: the first observed one wins.
    offsets = [0]
    for distance in range(1, num_views // 2 + 1):
        offsets += [distance, -distance]
    slots = torch.arange(num_views)
    candidates = (slots[:, None] + torch.tensor(offsets)) % num_views
    first = observed[:, candidates].int().argmax(dim=2)
    return candidates[slots.expand(len(observed), -1), first]


def copy_nearest(images: Tensor, observed: Tensor, items: Sequence[int]) -> Tensor:
    """[N, V, 3, H, W]: in every missing slot the reference nearest in azimuth."""
    rows = torch.arange(len(images))[:, None]
    return images[rows, nearest_references(observed)]


def mean_of_references(images: Tensor, observed: Tensor, items: Sequence[int]) -> Tensor:
    """[N, V, 3, H, W]: in every missing slot the mean of the references."""
    given = observed[:, :, None, None, None]
    mean = torch.where(given, images, 0.0).sum(dim=1, keepdim=True) / given.sum(dim=1, keepdim=True)
    return torch.where(given, images, mean)


def all_white(images: Tensor, observed: Tensor, items: Sequence[int]) -> Tensor:
    """[N, V, 3, H, W]: in every missing slot the background."""
    return torch.where(observed[:, :, None, None, None], images, 1.0)


BASELINES: dict[str, Predictor] = {
    "copy_nearest": copy_nearest,
    "mean_of_references": mean_of_references,
    "all_white": all_white,
}
