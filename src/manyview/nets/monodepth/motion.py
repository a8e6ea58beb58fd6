"""Monodepth2's pose network, how the camera moved between two images, and the lens they share.

Shapes: B items, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.nets.monodepth.encoder import COMPACT_WIDTHS, PAPER_WIDTHS, ImageEncoder

_SCALE = 0.01
"""On the answer, so that training starts near no motion."""


class PoseNet(ModelMixin, ConfigMixin):
    """The motion between two images: `geometry.rotations.rigid_from_vector` makes it a transform.

    Trained as `photometric_loss` asks, the answer for (first, second) maps camera points of the first view to
    the second's camera; `num_predicted` motions come out, of which the published network uses the first.
    """

    @register_to_config
    def __init__(
        self, widths: Sequence[int] = PAPER_WIDTHS, hidden: int = 256, num_predicted: int = 1
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(widths, num_images=2)
        self.squeeze = nn.Conv2d(widths[4], hidden, 1)
        self.conv1 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 6 * num_predicted, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """[B, num_predicted, 6] axis-angle (radians) and translation, of two images [B, 3, H, W] in [0, 1].
        Raises `InputError` for sizes that are no multiples of 32."""
        x = self.encoder(torch.cat([first, second], dim=1))[-1]
        x = F.relu(self.squeeze(x))
        x = F.relu(self.conv1(x))
        x = self.out(F.relu(self.conv2(x))).mean(dim=(2, 3))
        return _SCALE * x.unflatten(1, (-1, 6))


class LogFocal(nn.Module):
    """A centred pinhole that all images of a data set share, its focal length given or learned.

    `focal` is in image widths: 1.09 is a 35 mm lens on a 32 mm sensor, 2.8 the narrow view of portrait sets.
    What is learned is its logarithm, so that it stays positive.
    """

    def __init__(self, focal: float = 35 / 32, learned: bool = False) -> None:
        super().__init__()
        start = torch.tensor(math.log(focal))
        self.log_focal: Tensor
        if learned:
            self.log_focal = nn.Parameter(start)
        else:
            self.register_buffer("log_focal", start)

    @property
    def focal(self) -> float:
        """Focal length in image widths."""
        return float(self.log_focal.detach().exp())

    def K(self, height: int, width: int) -> Tensor:
        """[3, 3] intrinsics in pixels with centres at +0.5, differentiable in the focal length."""
        focal = self.log_focal.exp() * width
        zero, one = torch.zeros_like(focal), torch.ones_like(focal)
        rows = (focal, zero, one * (width / 2), zero, focal, one * (height / 2), zero, zero, one)
        return torch.stack(rows).view(3, 3)


def build_pose_net(preset: Literal["compact", "paper"] = "compact") -> PoseNet:
    """A network with fresh weights: `paper` (ResNet-18, 13 M parameters) or `compact` (0.5 M)."""
    return PoseNet() if preset == "paper" else PoseNet(widths=COMPACT_WIDTHS, hidden=48)
