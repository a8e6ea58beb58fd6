"""Image against image, pixel by pixel: PSNR and the two common definitions of SSIM.

Images are [N, C, H, W] float in [0, 1]; the data range is 1. Every function gives one number an image, [N]:
means are taken afterwards, over images, as the papers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError

_C1 = 0.01**2
_C2 = 0.03**2


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """[N] peak signal to noise ratio in dB: -10 log10 of the mean squared error over the image's C*H*W
    numbers.

    Equal images give infinity.
    """
    _check_pair(images, targets, 1)
    error = (images.double() - targets.double()).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(error)).float()


def ssim_skimage(images: Tensor, targets: Tensor) -> Tensor:
    """[N] structural similarity as scikit-image computes it by default (`data_range=1`, `channel_axis`
    given).

    Window 7x7 of equal weights, sample covariance (divided by 48, not 49), K1 = 0.01, K2 = 0.03, mean over
    channels and over the windows that lie wholly inside the image. Wang et al. 2004, eq. 13. Images of at
    least 7x7.
    """
    _check_pair(images, targets, 7)
    weights = torch.full((7,), 1 / 7, dtype=torch.float64, device=images.device)
    return _ssim(images, targets, weights, 49 / 48)


def ssim_gauss(images: Tensor, targets: Tensor) -> Tensor:
    """[N] structural similarity with Wang et al.'s Gaussian window: 11x11, sigma 1.5, population covariance.

    As torchmetrics' default (windows wholly inside) and as scikit-image with `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False`. K1 = 0.01, K2 = 0.03, mean over channels. Images of at least
    11x11.
    """
    _check_pair(images, targets, 11)
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=images.device)
    weights = torch.exp(-0.5 * (offsets / 1.5).square())
    return _ssim(images, targets, weights / weights.sum(), 1.0)


def _ssim(images: Tensor, targets: Tensor, weights: Tensor, covariance_factor: float) -> Tensor:
    """[N] mean SSIM with a separable window; float64 because variances are differences of close numbers."""
    x, y = images.double(), targets.double()
    mean_x, mean_y = _blur(x, weights), _blur(y, weights)
    var_x = covariance_factor * (_blur(x * x, weights) - mean_x * mean_x)
    var_y = covariance_factor * (_blur(y * y, weights) - mean_y * mean_y)
    cov = covariance_factor * (_blur(x * y, weights) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3)).float()


def _blur(values: Tensor, weights: Tensor) -> Tensor:
    """[N, C, H - k + 1, W - k + 1] values averaged by k separable weights, whole windows only."""
    channels = values.shape[1]
    kernel = weights.expand(channels, 1, -1)
    rows = F.conv2d(values, kernel[..., :, None], groups=channels)
    return F.conv2d(rows, kernel[..., None, :], groups=channels)


def _check_pair(images: Tensor, targets: Tensor, smallest: int) -> None:
    if images.ndim != 4 or images.shape != targets.shape:
        shapes = f"{tuple(images.shape)} and {tuple(targets.shape)}"
        raise InputError("images, targets", shapes, "expected two [N, C, H, W] of one shape")
    if min(images.shape[-2:]) < smallest:
        raise InputError("images", tuple(images.shape), f"expected at least {smallest} x {smallest} pixels")
