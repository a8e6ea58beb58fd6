"""PSNR and SSIM against hand-worked values and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from manyview.errors import InputError
from manyview.metrics import psnr, ssim_gauss, ssim_skimage


def pairs(count: int = 4, height: int = 33, width: int = 47) -> tuple[torch.Tensor, torch.Tensor]:
    """From nearly equal to unrelated, with a flat patch where variances vanish."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, height, width, generator=generator)
    images[:, :, :16, :16] = 0.75
    noise = torch.rand(count, 3, height, width, generator=generator)
    weights = torch.linspace(0.01, 1, count).reshape(-1, 1, 1, 1)
    return images, images * (1 - weights) + noise * weights


def channels_last(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_psnr_known_answers() -> None:
    # An error of 0.1 everywhere: -10 log10(0.01) = 20 dB. Half the numbers off by 0.1: + 10 log10(2).
    target = torch.zeros(3, 3, 4, 4)
    image = target.clone()
    image[0] = 0.1
    image[1, :, :2] = 0.1
    values = psnr(image, target)
    assert values[:2].tolist() == pytest.approx([20.0, 20 + 10 * math.log10(2)], abs=1e-4)
    assert values[2] == math.inf


def test_psnr_agrees_with_skimage() -> None:
    images, targets = pairs()
    expected = [
        peak_signal_noise_ratio(channels_last(y), channels_last(x), data_range=1)
        for x, y in zip(images, targets, strict=True)
    ]
    assert psnr(images, targets).tolist() == pytest.approx(expected, abs=1e-4)


def test_ssim_agrees_with_skimage() -> None:
    images, targets = pairs()
    plain, gauss = [], []
    for x, y in zip(images, targets, strict=True):
        # Float64, since skimage computes in the type it is given.
        a, b = channels_last(x).astype(np.float64), channels_last(y).astype(np.float64)
        plain.append(structural_similarity(a, b, data_range=1, channel_axis=2))
        gauss.append(
            structural_similarity(
                *(a, b),
                data_range=1,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
    assert ssim_skimage(images, targets).tolist() == pytest.approx(plain, abs=1e-6)
    assert ssim_gauss(images, targets).tolist() == pytest.approx(gauss, abs=1e-6)
    # The two definitions are not the same number.
    assert abs(plain[1] - gauss[1]) > 1e-3


@pytest.mark.parametrize("ssim", [ssim_skimage, ssim_gauss])
def test_ssim_known_answers(ssim: object) -> None:
    assert callable(ssim)
    image = torch.rand(1, 3, 12, 12)
    assert ssim(image, image).item() == pytest.approx(1)
    # Constant images have no variance, so only the luminance term is left: with means 0.2 and 0.6,
    # (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4).
    low, high = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    assert ssim(low, high).item() == pytest.approx(0.2401 / 0.4001, abs=1e-5)


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, targets = pairs()
    for metric in (psnr, ssim_skimage, ssim_gauss):
        alone = torch.cat([metric(images[i : i + 1], targets[i : i + 1]) for i in range(len(images))])
        assert torch.allclose(metric(images, targets), alone, atol=1e-6)


def test_bad_inputs() -> None:
    with pytest.raises(InputError, match="one shape"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(InputError, match="at least 7 x 7"):
        ssim_skimage(torch.zeros(1, 3, 6, 9), torch.zeros(1, 3, 6, 9))
    with pytest.raises(InputError, match="at least 11 x 11"):
        ssim_gauss(torch.zeros(1, 3, 10, 12), torch.zeros(1, 3, 10, 12))
