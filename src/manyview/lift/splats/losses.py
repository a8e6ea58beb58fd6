"""What a rendered view is compared by: L1 and structural similarity, in float32 and with a gradient.

For scores use manyview.metrics, which is exact; this is for speed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
REACH = WINDOW // 2
_C1, _C2 = 0.01**2, 0.03**2


def dissimilarity(image: Tensor, target: Tensor, moments: Tensor | None = None) -> Tensor:
    """[3, H, W] (1 - SSIM) / 2 at every pixel of two images [3, H, W]: 0 where equal.

    Gaussian window of 11 pixels, sigma 1.5, zeros outside (as in the 3D Gaussian splatting code); Wang et
    al. 2004, eq. 13. No gradient for the target, whose `target_moments` may be given.
    """
    mean_y, square_y = (target_moments(target) if moments is None else moments).split(3)
    mean_x, square_x, product = blur(torch.cat((image, image * image, image * target))).split(3)
    var_x, var_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    mixed = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    structure = (2 * mixed + _C2) / (var_x + var_y + _C2)
    return 0.5 * (1 - luminance * structure)


def target_moments(target: Tensor) -> Tensor:
    """[6, H, W] the blurred target [3, H, W] and its blurred square."""
    with torch.no_grad():
        return blur(torch.cat((target, target * target)))


def blur(maps: Tensor) -> Tensor:
    """[C, H, W] each map with the Gaussian window, zeros outside."""
    blurred = _Blur.apply(maps)
    assert isinstance(blurred, Tensor), "autograd functions of one output give a tensor"
    return blurred


class _Blur(torch.autograd.Function):
    """A window that is the same from both sides is its own adjoint, so the gradient is blurred as well."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return _blur(maps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _blur(grad_outputs[0])


def _blur(maps: Tensor) -> Tensor:
    """Sums of shifted maps: for so few channels several times faster on a CPU than a convolution."""
    weights = [math.exp(-0.5 * ((tap - REACH) / SIGMA) ** 2) for tap in range(WINDOW)]
    for dim in (1, 2):
        padding = (0, 0, REACH, REACH) if dim == 1 else (REACH, REACH)
        wide, length = F.pad(maps, padding), maps.shape[dim]
        maps = torch.zeros_like(maps)
        for tap, weight in enumerate(weights):
            maps.add_(wide.narrow(dim, tap, length), alpha=weight / sum(weights))
    return maps


def object_box(mask: Tensor | None, size: tuple[int, int], margin: int = 2 * WINDOW) -> tuple[slice, slice]:
    """Rows and columns around what a mask [1, H, W] covers, plus a margin; the whole image without one."""
    if mask is None or not bool((mask > 0).any()):
        return slice(0, size[0]), slice(0, size[1])
    spans = []
    for along, length in ((2, size[0]), (1, size[1])):
        covered = (mask[0] > 0).any(dim=along - 1).nonzero()[:, 0]
        spans.append(slice(max(int(covered[0]) - margin, 0), min(int(covered[-1]) + margin + 1, length)))
    return spans[0], spans[1]
