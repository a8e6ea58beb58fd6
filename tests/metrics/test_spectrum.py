"""Power by spatial frequency: pure waves, white noise, Parseval's sum, blur."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from manyview.errors import InputError
from manyview.metrics.spectrum import high_frequency_energy, high_frequency_power, radial_power


def wave(cycles: int, size: int = 64, across: bool = False) -> torch.Tensor:
    line = torch.cos(2 * math.pi * cycles * torch.arange(size) / size)
    picture = line[:, None].expand(size, size) if across else line.expand(size, size)
    return 0.5 + 0.25 * picture[None, None].expand(1, 3, -1, -1)


@pytest.mark.parametrize(("cycles", "across"), [(5, False), (12, True), (30, False)])
def test_a_wave_lies_in_its_ring(cycles: int, across: bool) -> None:
    centers, power = radial_power(wave(cycles, across=across), 16)
    assert centers[0] == pytest.approx(1 / 64)
    # 16 rings over 0.5: ring k ends with 2 (k + 1) / 64, so n cycles in 64 are in ring (n - 1) // 2. The
    # window spreads a line over its two neighbours.
    ring = (cycles - 1) // 2
    near = power[0, max(ring - 1, 0) : ring + 2].sum()
    assert int(power[0].argmax()) == ring
    assert float(near / power[0].sum()) > 0.99


def test_power_adds_up_to_the_variance() -> None:
    """A wave of amplitude a has the variance a^2 / 2: what the window took is made up for."""
    centers, power = radial_power(wave(8), 32)
    counts = ring_counts(64, 32)
    assert float((power[0] * counts).sum()) == pytest.approx(0.25**2 / 2, rel=0.02)
    assert len(centers) == 32


def ring_counts(size: int, bins: int) -> torch.Tensor:
    line = torch.fft.fftfreq(size, dtype=torch.float64)
    frequency = (line[:, None].square() + line.square()).sqrt()
    frequency = frequency[(frequency > 0) & (frequency <= 0.5)]
    return torch.bincount((frequency * 2 * bins).ceil().long() - 1, minlength=bins).double()


def test_white_noise_is_flat_and_blur_is_not() -> None:
    noise = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    _, power = radial_power(noise, 8)
    mean = power.mean(dim=0)
    assert float(mean[1:].max() / mean[1:].min()) < 1.15
    share = high_frequency_energy(noise)
    # Of a variance of 1/12 the same share.
    assert float(high_frequency_power(noise).mean()) == pytest.approx((1 - math.pi / 16) / 12, rel=0.03)
    assert float(share.mean()) == pytest.approx(1 - math.pi / 16, abs=0.01)
    blurred = F.avg_pool2d(noise, 5, stride=1, padding=2)
    _, less = radial_power(blurred, 8)
    assert float(less.mean(dim=0)[-1]) < 0.05 * float(mean[-1])
    assert float(high_frequency_energy(blurred).mean()) < 0.25 * float(share.mean())


def test_one_colour_has_no_power() -> None:
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert high_frequency_energy(flat).tolist() == [0, 0]
    assert float(radial_power(flat, 4)[1].abs().max()) < 1e-20


def test_brightness_does_not_matter_but_contrast_counts_squared() -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    _, power = radial_power(picture, 8)
    _, changed = radial_power(0.5 * picture + 0.2, 8)
    torch.testing.assert_close(changed, power / 4)
    torch.testing.assert_close(high_frequency_power(0.5 * picture + 0.2), high_frequency_power(picture) / 4)
    torch.testing.assert_close(high_frequency_energy(0.5 * picture + 0.2), high_frequency_energy(picture))


def test_refusals() -> None:
    with pytest.raises(InputError, match="square"):
        radial_power(torch.rand(1, 3, 8, 16))
    with pytest.raises(InputError, match="half the pixels"):
        radial_power(torch.rand(1, 3, 8, 8), 5)
    with pytest.raises(InputError, match="above"):
        high_frequency_energy(torch.rand(1, 3, 8, 8), 0.8)
