"""Blur kernels of Real-ESRGAN's degradation (Wang et al. 2021, "Real-ESRGAN", section 3 and appendix A).

Every kernel is [S, S] float64 with S odd, sums to 1 and is centred: rows go down (y), columns right (x).
With x the offset from the centre, R the rotation by `angle` (radians, from x towards y) and
d = x^T (R diag(sigma_x^2, sigma_y^2) R^T)^-1 x:

    gaussian     exp(-d / 2)
    generalised  exp(-d^beta / 2)         flatter than a Gaussian above beta 1, pointed below
    plateau      1 / (1 + d^beta)
    sinc         w J1(w r) / (2 pi r)     the ideal low-pass of radius w, which rings at edges
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import j1
from torch import Tensor

from manyview.errors import InputError

Family = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
FAMILIES: tuple[Family, ...] = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """What a random kernel is drawn from. The defaults are those of the released Hi3D code's first round."""

    sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    """Sides in pixels, each as likely as another."""
    probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Of the six families in the order of `FAMILIES`; where it is no sinc."""
    sigma: tuple[float, float] = (0.2, 3.0)
    """Standard deviation in pixels, of each axis."""
    generalized_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)
    sinc: float = 0.1
    """Probability of a sinc kernel in place of the families."""

    def __post_init__(self) -> None:
        if not self.sizes or any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise InputError("sizes", self.sizes, "expected odd numbers of pixels")
        if len(self.probabilities) != len(FAMILIES) or min(self.probabilities) < 0:
            raise InputError("probabilities", self.probabilities, f"expected {len(FAMILIES)} of at least 0")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise InputError("sigma", self.sigma, "expected 0 < smallest <= largest")


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float = 0.0) -> Tensor:
    """[size, size]: a Gaussian of covariance R diag(sigma_x^2, sigma_y^2) R^T."""
    return _normalized(np.exp(-0.5 * _mahalanobis(size, sigma_x, sigma_y, angle)))


def generalized_kernel(
    size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0
) -> Tensor:
    """[size, size]: a generalised Gaussian; beta 1 is the Gaussian."""
    return _normalized(np.exp(-0.5 * _mahalanobis(size, sigma_x, sigma_y, angle) ** beta))


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0
) -> Tensor:
    """[size, size]: flat in the middle with long tails; half its peak on the ellipse of the sigmas."""
    return _normalized(1 / (1 + _mahalanobis(size, sigma_x, sigma_y, angle) ** beta))


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """[size, size]: passes spatial frequencies up to `cutoff` radians a pixel and no others.

    Cut off at its own border, so a small one only roughly. Raises `InputError` for a cutoff outside
    (0, pi].
    """
    if not 0 < cutoff <= math.pi:
        raise InputError("cutoff", cutoff, "expected radians a pixel above 0, at most pi")
    x, y = _offsets(size)
    radius = np.hypot(x, y)
    safe = np.where(radius > 0, radius, 1.0)
    # J1(w r) tends to w r / 2 in the middle.
    values = np.where(
        radius > 0, cutoff * j1(cutoff * safe) / (2 * math.pi * safe), cutoff**2 / (4 * math.pi)
    )
    return _normalized(values)


def draw_kernel(rng: np.random.Generator, options: KernelOptions) -> Tensor:
    """[S, S] a random kernel of the options, S one of its sizes.

    Angles are uniform; a beta is with equal chance below 1 or above it, uniform within its range; a sinc
    passes from pi / 3 (of sizes from 13 on: pi / 5) to pi.
    """
    size = int(rng.choice(options.sizes))
    if rng.random() < options.sinc:
        return sinc_kernel(size, rng.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    weights = np.asarray(options.probabilities, dtype=np.float64)
    family = FAMILIES[int(rng.choice(len(FAMILIES), p=weights / weights.sum()))]
    sigma_x = rng.uniform(*options.sigma)
    sigma_y, angle = sigma_x, 0.0
    if family.endswith("aniso"):
        sigma_y, angle = rng.uniform(*options.sigma), rng.uniform(-math.pi, math.pi)
    if family.startswith("generalized"):
        beta = _draw_beta(rng, options.generalized_beta)
        return generalized_kernel(size, sigma_x, sigma_y, angle, beta)
    if family.startswith("plateau"):
        return plateau_kernel(size, sigma_x, sigma_y, angle, _draw_beta(rng, options.plateau_beta))
    return gaussian_kernel(size, sigma_x, sigma_y, angle)


def draw_final_sinc(rng: np.random.Generator, options: KernelOptions, probability: float) -> Tensor:
    """The last filter of the chain: a sinc that passes at least pi / 3, or with 1 - probability none."""
    size, chosen = int(rng.choice(options.sizes)), rng.random() < probability
    cutoff = rng.uniform(math.pi / 3, math.pi)
    return sinc_kernel(size, cutoff) if chosen else torch.ones(1, 1, dtype=torch.float64)


def apply_kernels(images: Tensor, kernels: list[Tensor]) -> Tensor:
    """[T, C, H, W]: each image correlated with its own kernel; the border is mirrored.

    Raises `InputError` where there is not one kernel an image, and for images too small to mirror.
    """
    if len(kernels) != len(images):
        raise InputError("kernels", len(kernels), f"expected {len(images)}, one an image")
    side = max(kernel.shape[0] for kernel in kernels)
    reach = side // 2
    if min(images.shape[-2:]) <= reach:
        size = tuple(images.shape[-2:])
        raise InputError("images", size, f"expected more than {reach} pixels a side for these kernels")
    stacked = torch.zeros(len(kernels), side, side, dtype=torch.float64)
    for target, kernel in zip(stacked, kernels, strict=True):
        first = reach - kernel.shape[0] // 2
        target[first : first + kernel.shape[0], first : first + kernel.shape[0]] = kernel
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect")
    # One group a frame; the channels of a frame share its kernel, so they go as the batch.
    blurred = torch.nn.functional.conv2d(
        padded.transpose(0, 1), stacked[:, None].to(images), groups=len(kernels)
    )
    return blurred.transpose(0, 1).contiguous()


def _draw_beta(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    below = rng.random() < 0.5
    return float(rng.uniform(limits[0], 1.0) if below else rng.uniform(1.0, limits[1]))


def _offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    if size < 1 or size % 2 == 0:
        raise InputError("size", size, "expected an odd number of pixels")
    line = np.arange(size, dtype=np.float64) - size // 2
    y, x = np.meshgrid(line, line, indexing="ij")
    return x, y


def _mahalanobis(size: int, sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    x, y = _offsets(size)
    along = (math.cos(angle) * x + math.sin(angle) * y) / sigma_x
    across = (-math.sin(angle) * x + math.cos(angle) * y) / sigma_y
    return along**2 + across**2


def _normalized(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values / values.sum())
