"""Which example an item number stands for: every epoch visits all examples once, in its own order."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.noise import item_generator

_STREAM = 0x6F72646572  # apart from the streams of the items' own noise


class EpochOrder:
    """Items 0 .. n-1 are a permutation of the n examples, items n .. 2n-1 another one, and so on.

    A pure function of (num_examples, seed); the permutations in use are kept. Raises `InputError` for no
    examples.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples < 1:
            raise InputError("num_examples", num_examples, "expected at least one example to train on")
        self.num_examples = num_examples
        self.seed = seed
        self._kept: dict[int, Tensor] = {}

    def index(self, item: int) -> int:
        """The example behind one item number."""
        epoch, position = divmod(int(item), self.num_examples)
        return int(self._permutation(epoch)[position])

    def indices(self, items: Tensor) -> Tensor:
        """The examples behind many item numbers: int64 [N] -> int64 [N]."""
        return torch.tensor([self.index(item) for item in items.tolist()], dtype=torch.int64)

    def _permutation(self, epoch: int) -> Tensor:
        kept = self._kept
        if epoch not in kept:
            generator = item_generator(self.seed, epoch, _STREAM)
            order = torch.randperm(self.num_examples, generator=generator)
            # A batch spans at most a few epochs' ends; a new dictionary keeps readers in other threads safe.
            recent = dict(list(kept.items())[-2:])
            self._kept = {**recent, epoch: order}
            return order
        return kept[epoch]
