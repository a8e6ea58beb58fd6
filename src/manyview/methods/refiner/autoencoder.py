"""A generator as the second half of an autoencoder: what a short training reaches sooner than the game of
gan.py, which at first shows one shape in all colours.

An encoder tells the code of a picture, the generator draws the picture from that code with noise. The noise
is the same for every number of a code and large codes cost, so what matters most to a picture (which way the
object is turned, how large it is) is spread furthest: the principal directions of the codes are then
meaningful, as GANSpace wants them, and a small step changes little. It is a variational autoencoder (Kingma,
Welling 2014) whose posterior has the variance 1. Pictures are compared by L1 over a Laplacian pyramid
(Bojanowski et al. 2018, "Optimizing the latent space of generative networks", section 3). What the codes'
distribution then is, the mapping network learns at the end (code_distribution.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator

_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """How codes are kept small, and learnt to be drawn."""

    rate: float = 1e-4
    """Weight of half a code's squared length, beside the pyramid's L1: more gives fewer meaningful numbers in
    a code and smoother changes, less gives sharper pictures of the training's own."""
    remembered: int = 4096
    """Codes from which their distribution is known."""
    settling: int = 4000
    """Passes in which the mapping network learns that distribution, at the end."""

    def within(self, steps: int) -> AutoencoderOptions:
        """The same for a training of so many steps, after which none settles longer than it learnt."""
        return replace(self, settling=min(self.settling, steps))


class CodeAutoencoder(nn.Module):
    """Encoder, generator, and the codes seen last."""

    seen: Tensor
    count: Tensor

    def __init__(
        self, generator: StyleGAN2Generator, encoder: StyleGAN2Discriminator, options: AutoencoderOptions
    ) -> None:
        """`encoder`: with as many outputs as a code has numbers, and groups of one, so that no picture's code
        depends on others."""
        super().__init__()
        # The mapping network has no part in this training.
        generator.mapping.requires_grad_(False)
        self.generator, self.encoder, self.options = generator, encoder, options
        self.register_buffer("seen", torch.zeros(options.remembered, generator.w_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, real: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """`loss`, and its parts `reconstruction` and `rate`.

        real [B, 3, R, R] in [-1, 1]; noise [B, D] normal.
        """
        codes = self.encoder(real).float()
        if self.training:
            self._remember(codes.detach())
        parts = {
            "reconstruction": pyramid_l1(self.draw(codes + noise).float(), real),
            "rate": codes.square().sum(dim=1).mean() / 2,
        }
        return {"loss": parts["reconstruction"] + self.options.rate * parts["rate"], **parts}

    def draw(self, codes: Tensor) -> Tensor:
        """[B, 3, R, R] about [-1, 1] of codes [B, D], the same for all layers."""
        return self.generator.synthesize(codes[:, None].repeat(1, self.generator.num_ws, 1), noise="none")

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        places = (int(self.count) + torch.arange(len(codes), device=codes.device)) % len(self.seen)
        self.seen[places] = codes
        self.count += len(codes)


def pyramid_l1(first: Tensor, second: Tensor, levels: int = _LEVELS) -> Tensor:
    """Mean absolute difference of [B, C, R, R] pictures, summed over the levels of a Laplacian pyramid: what
    each halving loses, and last what is left."""
    difference, total = first - second, first.new_zeros(())
    for _ in range(levels - 1):
        smaller = F.avg_pool2d(difference, 2)
        larger = F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + (difference - larger).abs().mean()
        difference = smaller
    return total + difference.abs().mean()


def as_settings(options: AutoencoderOptions) -> dict[str, Any]:
    """The options as JSON, each with its group's name before it."""
    return {f"autoencoder_{name}": value for name, value in vars(options).items()}
