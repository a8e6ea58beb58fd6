"""A generator as the second half of an autoencoder: what a short training reaches sooner than the game of
gan.py, which at first shows one shape in all colours.

An encoder tells the code of a picture, the generator draws the picture from that code with noise. The noise
is the same for every number of a code and large codes cost, so what matters most to a picture (which way the
object is turned, how large it is) is spread furthest: the principal directions of the codes are then
meaningful, as GANSpace wants them, and a small step changes little. It is a variational autoencoder (Kingma,
Welling 2014) whose posterior has the variance 1. An object that is its own mirror image turns the other way
in a mirrored picture, and nothing else about it changes: the first number of a code changes sign where the
picture is mirrored, all others are the same, and are kept from telling how far it is turned a second time.
Pictures are compared by L1 over a Laplacian pyramid
(Bojanowski et al. 2018, "Optimizing the latent space of generative networks", section 3). What the codes'
distribution then is, the mapping network learns at the end (code_distribution.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator

_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """How codes are kept small, and learnt to be drawn."""

    rate: float = 2e-4
    """Weight of half a code's squared length, beside the pyramid's L1: more gives fewer meaningful numbers in
    a code and smoother changes, less gives sharper pictures of the training's own."""
    odd: int = 1
    """First numbers of a code that change sign where a picture is mirrored; all others stay. 0 for objects
    that are not their own mirror images."""
    apart: float = 2e-3
    """Weight of what the other numbers' variance has to do with the size of those."""
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
        options = self.options
        codes = self.encode(real)
        if self.training:
            self._remember(codes.detach())
        parts = {
            "reconstruction": pyramid_l1(self.draw(codes + noise).float(), real),
            "rate": codes.square().sum(dim=1).mean() / 2,
            "told_twice": told_twice(codes, options.odd),
        }
        loss = parts["reconstruction"] + options.rate * parts["rate"] + options.apart * parts["told_twice"]
        return {"loss": loss, **parts}

    def encode(self, real: Tensor) -> Tensor:
        """[B, D] codes of pictures [B, 3, R, R] in [-1, 1]; exactly those of the mirrored pictures, but for
        the sign of the odd numbers."""
        count = self.options.odd
        if not count:
            return self.encoder(real).float()
        straight, mirrored = self.encoder(torch.cat([real, real.flip(-1)])).float().chunk(2)
        odd, even = (straight - mirrored)[:, :count] / 2, (straight + mirrored)[:, count:] / 2
        return torch.cat([odd, even], dim=1)

    def draw(self, codes: Tensor) -> Tensor:
        """[B, 3, R, R] about [-1, 1] of codes [B, D], the same for all layers."""
        return self.generator.synthesize(codes[:, None].repeat(1, self.generator.num_ws, 1), noise="none")

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        places = (int(self.count) + torch.arange(len(codes), device=codes.device)) % len(self.seen)
        self.seen[places] = codes
        self.count += len(codes)


def told_twice(codes: Tensor, count: int) -> Tensor:
    """How much of the variance of codes [B, D] after their first `count` numbers follows the size of those,
    which a code then tells twice: moving the first ones alone would contradict the rest. Summed over all
    numbers, so in units of their noise. Changes nothing in the first ones."""
    if not count or len(codes) < 2:
        return codes.new_zeros(())
    size, rest = codes[:, :count].detach().abs(), codes[:, count:]
    size = (size - size.mean(dim=0)) / size.std(dim=0).clamp_min(1e-6)
    shared = size.T @ (rest - rest.mean(dim=0)) / len(codes)
    return shared.square().sum()


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
