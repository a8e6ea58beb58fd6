"""Differentiable changes that both real and made pictures go through before the discriminator sees them.

So that the discriminator cannot learn few pictures by heart (Karras et al. 2020, "Training generative
adversarial networks with limited data"; Zhao et al. 2020, "Differentiable augmentation"). Each kind of change
happens with probability p. Below about 0.8 none of them leaks into what the generator makes, since what is
seen unchanged is still the commonest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.sampling.noise import item_noise, item_uniform

LARGEST = 0.8
"""Highest probability that is let grow."""
_MIRROR = 0
"""Place of what decides about mirroring, which is none of the kinds that happen with probability p."""
_KINDS = ("mirror", "shift", "scale", "turn", "brightness", "contrast", "saturation", "cutout")
_SHIFT, _LOG_SCALE, _TURN = 0.125, 0.15, math.radians(15)
_BRIGHTNESS, _LOG_CONTRAST, _LOG_SATURATION, _CUTOUT = 0.2, 0.3, 0.5, 0.4


@dataclass(frozen=True)
class Draws:
    """What decides the changes of a batch, before it is known how likely each kind is."""

    chance: Tensor
    """[B, 8] uniform: the kind k happens where it is below p, mirroring (0) where it is below a half."""
    amount: Tensor
    """[B, 8, 2] standard normal."""

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        return Draws(self.chance.to(device), self.amount.to(device))


def draw_augmentation(seed: int, items: Tensor, stream: int = 0) -> Draws:
    """Row i a function of (seed, items[i], stream) alone."""
    kinds = len(_KINDS)
    return Draws(
        item_uniform(seed, items, (kinds,), stream=stream),
        item_noise(seed, items, (kinds, 2), stream=stream + 1),
    )


def recolour(images: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """[B, 3, H, W] in [0, 1] with each channel raised to a power, exp(deviation * noise [B, 3]): white stays
    white, and black black. Differentiable in the images.

    What is shown to a pose network. Sweeps of a generator change colours as they turn, so a network that saw
    them as they are would read the turn off the colours, and a refiner that is to put colours right could not
    do so without, in its eyes, undoing the turn.
    """
    powers = (deviation * noise).exp()[..., None, None].to(images.dtype)
    return images.clamp(1e-3, 1) ** powers


def augment(images: Tensor, draws: Draws, probability: Tensor | float, *, mirror: bool = False) -> Tensor:
    """[B, 3, H, W] in [-1, 1], changed; differentiable in the images. White comes in from the sides.

    `mirror`: half of them are mirrored, whatever p is. For real pictures alone, of which there are then twice
    as many: were made ones mirrored too, a generator that shows nothing but one side would pass.
    """
    active = draws.chance < torch.as_tensor(probability, device=draws.chance.device)
    on = {kind: active[:, index].to(images.dtype) for index, kind in enumerate(_KINDS)}
    on["mirror"] = (mirror * (draws.chance[:, _MIRROR] < 0.5)).to(images.dtype)
    first, second = (draws.amount[..., number].to(images.dtype) for number in (0, 1))
    images = _moved(images, on, first, second)
    column = (-1, 1, 1, 1)
    brightness = (on["brightness"] * _BRIGHTNESS * first[:, 4]).view(column)
    contrast = (on["contrast"] * _LOG_CONTRAST * first[:, 5]).exp().view(column)
    saturation = (on["saturation"] * _LOG_SATURATION * first[:, 6]).exp().view(column)
    images = (images + brightness) * contrast
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * saturation
    return images * _kept(images, on["cutout"], first[:, 7], second[:, 7])


def _moved(images: Tensor, on: dict[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """Mirrored, shifted, scaled and turned by one bilinear look-up."""
    angle = on["turn"] * _TURN * first[:, 3]
    scale = (on["scale"] * _LOG_SCALE * first[:, 2]).exp()
    side = 1 - 2 * on["mirror"]
    shift_x, shift_y = (2 * _SHIFT * on["shift"] * part[:, 1] for part in (first, second))
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([side * cosine, side * -sine, shift_x, sine, cosine, shift_y], dim=-1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    # Looked up in what is darker than white, so that what comes in from outside (0) is white.
    return 1 - F.grid_sample(1 - images, grid, align_corners=False)


def _kept(images: Tensor, on: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[B, 1, H, W] 0 in a square of 0.4 of the side somewhere in the picture, else 1; all 1 where not
    `on`."""
    height, width = images.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=images.device)[None, :, None]
    columns = torch.linspace(-1, 1, width, device=images.device)[None, None, :]
    # The normal distribution's own cumulative gives even places from normal draws.
    middle_y, middle_x = (torch.erf(part / math.sqrt(2))[:, None, None] for part in (first, second))
    inside = ((rows - middle_y).abs() < _CUTOUT) & ((columns - middle_x).abs() < _CUTOUT)
    return 1 - (inside * on[:, None, None]).to(images.dtype)[:, None]
