"""How much of a picture lies in coarse shapes and how much in fine detail: its power by spatial frequency.

Frequencies are in cycles per pixel: 0 is the mean, 0.5 the finest pattern a row of pixels can hold. The power
of a frequency is |F|^2 of the discrete Fourier transform of a picture less its mean, divided by the square of
the number of pixels, so that the sum over all frequencies is the variance of the pixels (Parseval).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manyview.errors import InputError

HIGH_FREQUENCY = 0.25
"""Half of the finest frequency: where `high_frequency_energy` begins."""


def radial_power(images: Tensor, num_bins: int = 32) -> tuple[Tensor, Tensor]:
    """Mean power over rings of equal frequency: frequencies [num_bins], power [N, num_bins] in float64.

    images [N, C, H, W], square, at least 4 pixels a side. A Hann window takes away what the border's jump
    from one side to the other would add; its loss of power is made up for. Ring k holds the frequencies above
    0.5 k / num_bins up to 0.5 (k + 1) / num_bins. The mean and the corners beyond 0.5 are in no ring. Colours
    count alike.
    """
    power, frequency = _power(images)
    if not 1 <= num_bins <= images.shape[-1] // 2:
        raise InputError(
            "num_bins", num_bins, f"expected 1 to {images.shape[-1] // 2}, half the pixels a side"
        )
    ring = (frequency * 2 * num_bins - 1e-9).ceil().long() - 1
    inside = (ring >= 0) & (ring < num_bins)
    counts = torch.zeros(num_bins, dtype=torch.float64, device=images.device)
    counts.index_add_(0, ring[inside], torch.ones_like(frequency[inside]))
    sums = power.new_zeros(len(images), num_bins)
    sums.index_add_(1, ring[inside], power[:, inside])
    centers = (torch.arange(num_bins, dtype=torch.float64) + 0.5) * (0.5 / num_bins)
    return centers, sums / counts


def high_frequency_power(images: Tensor, above: float = HIGH_FREQUENCY) -> Tensor:
    """[N] the part of a picture's variance that lies at frequencies above `above` cycles per pixel, corners
    included.

    images [N, C, H, W], square, under the window of `radial_power`.
    """
    power, frequency = _power(images)
    if not 0 < above < math.sqrt(0.5):
        raise InputError("above", above, "expected a frequency between 0 and 0.7 cycles per pixel")
    return power[:, frequency > above].sum(dim=1)


def high_frequency_energy(images: Tensor, above: float = HIGH_FREQUENCY) -> Tensor:
    """[N] the same as a share of the whole variance, from 0 (smooth) to 1.

    Of white noise it is the share of the frequency plane that lies outside the circle, 1 - pi above^2 for
    `above` up to 0.5. A picture of one colour has 0.
    """
    high = high_frequency_power(images, above)
    total = _power(images)[0].sum(dim=(1, 2))
    flat = total <= 1e-12
    return torch.where(flat, torch.zeros_like(total), high / torch.where(flat, torch.ones_like(total), total))


def _power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power [N, H, W] (mean over the colours) and frequency [H, W], both float64."""
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or images.shape[-1] < 4:
        raise InputError("images", tuple(images.shape), "expected square [N, C, S, S], S at least 4")
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=True, dtype=torch.float64, device=images.device)
    window = window[:, None] * window
    values = images.double()
    # The mean under the window: then a picture of one colour has no power at all.
    mean = (values * window).sum(dim=(2, 3), keepdim=True) / window.sum()
    spectrum = torch.fft.fft2((values - mean) * window)
    power = spectrum.abs().square().mean(dim=1) / (side * side * window.square().sum())
    line = torch.fft.fftfreq(side, dtype=torch.float64, device=images.device)
    return power, (line[:, None].square() + line.square()).sqrt()
