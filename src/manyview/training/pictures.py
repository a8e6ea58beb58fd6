"""Training pictures from packed data sets: random views, crops and colour changes, by item number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.sampling.noise import generator_seed
from manyview.training.sources import ViewSources

_STREAM = 0x70696374


class RandomPictures:
    """Pictures drawn from several packed data sets; item i is the same picture for ever.

    `shares` weighs the sources (real objects are few, so they are drawn more often than their number);
    `negatives` is the probability that a picture has some of its channels inverted.
    """

    def __init__(
        self, folders: Sequence[Path], shares: Sequence[float], size: int, seed: int, negatives: float = 0.5
    ) -> None:
        self.sources = ViewSources(folders, shares)
        self.size = size
        self.seed = seed
        self.negatives = negatives

    def batch(self, items: Tensor) -> Tensor:
        """[B, 3, size, size] float in [0, 1]: flipped, recoloured, re-exposed crops near the object."""
        return torch.stack([self._picture(int(item)) for item in items])

    def _picture(self, item: int) -> Tensor:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        source, index, view = self.sources.draw(rng)
        image = source[index][view]
        height, width = image.shape[:2]
        if height > self.size:
            # A crop around a random object pixel: white alone teaches nothing.
            solid = np.flatnonzero((image[::4, ::4] < 250).any(axis=-1))
            centre = int(rng.choice(solid)) if len(solid) else 0
            columns = (width + 3) // 4
            row, column = 4 * (centre // columns), 4 * (centre % columns)
            shift = rng.integers(-self.size // 2, self.size // 2, 2)
            top = int(np.clip(row + shift[0] - self.size // 2, 0, height - self.size))
            left = int(np.clip(column + shift[1] - self.size // 2, 0, width - self.size))
            image = image[top : top + self.size, left : left + self.size]
        picture = image.astype(np.float32) / 255
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        picture = picture[..., rng.permutation(3)]
        if rng.random() < self.negatives:
            # Negatives of single channels: colour then matters as much as brightness. Without them a codec
            # settles on grey first, and grey is a saddle that takes thousands of steps to leave.
            negative = rng.random(3) < 0.5
            picture = np.where(negative, 1 - picture, picture)
        if rng.random() < 0.5:
            picture = picture ** np.float32(np.exp(rng.normal(scale=0.25)))
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
