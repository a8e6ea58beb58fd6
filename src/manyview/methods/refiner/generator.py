"""What the refiner asks of a generator: any differentiable map from codes to images will do.

Shapes: B items, L rows of codes (one a layer), D numbers a row, R pixels along a side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.sampling.noise import item_noise


class CodeGenerator(Protocol):
    """A generator of images from codes W+."""

    num_ws: int
    w_dim: int
    resolution: int

    def __call__(self, codes: Tensor) -> Tensor:
        """[B, 3, R, R] about [0, 1], not clamped, of codes [B, L, D]; differentiable."""
        ...

    def features(self, codes: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """The images, and features [B, C, h, w] from inside at about `resolution` cells a side."""
        ...

    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        """[N, L, D] random codes; item i follows from seeds[i] alone."""
        ...

    def mean_code(self) -> Tensor:
        """[L, D] the middle of the codes."""
        ...


class StyleGANCodes:
    """A `StyleGAN2Generator` as a `CodeGenerator`: its stored noise, images in [0, 1]."""

    def __init__(self, generator: StyleGAN2Generator) -> None:
        self.network = generator
        self.num_ws, self.w_dim = generator.num_ws, generator.w_dim
        self.resolution = generator.resolution

    def __call__(self, codes: Tensor) -> Tensor:
        """[B, 3, R, R]"""
        return self.network.synthesize(codes) / 2 + 0.5

    def features(self, codes: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """The images, and the features after the second convolution of `resolution`. Raises `InputError` for
        a resolution that there is not."""
        images, found = self.network.synthesize_with_features(codes, [resolution])
        return images / 2 + 0.5, found[resolution]

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        """[N, L, D], all rows of one code alike."""
        z = item_noise(0, seeds, (self.network.z_dim,)).to(self.network.w_mean)
        return self.network.map(z, truncation=truncation)

    def mean_code(self) -> Tensor:
        """[L, D]"""
        return self.network.w_mean.expand(self.num_ws, -1)


class FunctionCodes:
    """Any function of codes as a `CodeGenerator`, for instance a differentiable renderer.

    `features` defaults to the images themselves; random codes are normal about `mean` [D] with deviation
    `std` (a number or [D]), all rows of one code alike.
    """

    def __init__(
        self,
        images: Callable[[Tensor], Tensor],
        *,
        num_ws: int,
        w_dim: int,
        resolution: int,
        features: Callable[[Tensor], Tensor] | None = None,
        mean: Tensor | None = None,
        std: Tensor | float = 1.0,
    ) -> None:
        self.num_ws, self.w_dim, self.resolution = num_ws, w_dim, resolution
        self._images, self._features = images, features
        self._mean = torch.zeros(w_dim) if mean is None else mean
        self._std = std

    def __call__(self, codes: Tensor) -> Tensor:
        """[B, 3, R, R]"""
        return self._images(require_codes(codes, self))

    def features(self, codes: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """The images, and what the function for features gives, whatever `resolution` says."""
        images = self(codes)
        return images, images if self._features is None else self._features(codes)

    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        """[N, L, D]"""
        noise = item_noise(0, seeds, (self.w_dim,)).to(self._mean)
        codes = self._mean + truncation * self._std * noise
        return codes[:, None].repeat(1, self.num_ws, 1)

    def mean_code(self) -> Tensor:
        """[L, D]"""
        return self._mean.expand(self.num_ws, -1)


def require_codes(codes: Tensor, generator: CodeGenerator) -> Tensor:
    """The codes, if they are the generator's. Raises `InputError` for another shape."""
    if codes.ndim != 3 or tuple(codes.shape[1:]) != (generator.num_ws, generator.w_dim):
        accepted = f"expected [B, {generator.num_ws}, {generator.w_dim}]"
        raise InputError("codes", tuple(codes.shape), accepted)
    return codes
