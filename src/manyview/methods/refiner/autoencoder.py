"""A generator as the second half of an autoencoder: what a short training reaches sooner than the game of
gan.py, which at first shows one shape in all colours.

An encoder tells the code of a picture, the generator draws the picture from that code with noise. The noise
is the same for every number of a code and large codes cost, so what matters most to a picture (which way the
object is turned, how large it is) is spread furthest: the principal directions of the codes are then
meaningful, as GANSpace wants them, and a small step changes little. It is a variational autoencoder (Kingma,
Welling 2014) whose posterior has the variance 1. Pictures are compared by L1 over a Laplacian pyramid
(Bojanowski et al. 2018, "Optimizing the latent space of generative networks", section 3). At the same time
the mapping network learns the codes' distribution, by the sliced Wasserstein distance (Bonneel et al. 2015)
to those seen last, so that new codes are drawn as from any StyleGAN2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator

_LEVELS = 4
_NARROW = 0.25


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """How codes are kept small and drawn."""

    rate: float = 1e-4
    """Weight of half a code's squared length, beside the pyramid's L1: more gives fewer meaningful numbers in
    a code and smoother changes, less gives sharper pictures of the training's own."""
    matching: float = 1e-3
    """Weight of the distance between drawn and encoded codes; only the mapping network learns from it."""
    remembered: int = 4096
    """Codes that drawn ones are compared with: the last that were encoded."""
    drawn: int = 512
    """Codes drawn for a comparison, and as many of the remembered."""
    directions: int = 128
    """Random directions along which they are compared, beside those from code to code."""


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
        self.generator, self.encoder, self.options = generator, encoder, options
        self.register_buffer("seen", torch.zeros(options.remembered, generator.w_dim))
        self.register_buffer("count", torch.zeros(()))  # float as all that is averaged over training

    def forward(
        self, real: Tensor, noise: Tensor, z: Tensor, choice: Tensor, directions: Tensor
    ) -> dict[str, Tensor]:
        """`loss`, and its parts `reconstruction`, `rate` and `matching`.

        real [B, 3, R, R] in [-1, 1]; noise [B, D] normal; z [N, Z] normal; choice [N] uniform in [0, 1):
        which of the remembered codes are compared; directions [K, D] of any length.
        """
        options = self.options
        codes = self.encoder(real).float()
        made = self.draw(codes + noise)
        if self.training:
            self._remember(codes.detach())
        with torch.autocast(real.device.type, enabled=False):  # codes keep their precision
            drawn = self.generator.map(z, update_mean=self.training)[:, 0]
            known = min(int(self.count), options.remembered)
            others = self.seen[(choice * known).long()] if known else codes.detach()[:1].expand(len(z), -1)
            parts = {
                "reconstruction": pyramid_l1(made.float(), real),
                "rate": codes.square().sum(dim=1).mean() / 2,
                "matching": matching_distance(drawn, others, directions),
            }
        loss = parts["reconstruction"] + options.rate * parts["rate"] + options.matching * parts["matching"]
        return {"loss": loss, **parts}

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


def matching_distance(drawn: Tensor, codes: Tensor, directions: Tensor) -> Tensor:
    """`sliced_distance` of [N, D] codes drawn and encoded in units of the encoded ones' deviations along
    their principal axes, over `directions` [K, D] there and the axes themselves.

    In the codes' own units the widest numbers would be all that counts along most directions, and those that
    say the colours would never be learnt. Deviations well below the noise's count as `_NARROW`.
    """
    mean = codes.mean(dim=0)
    variances, axes = torch.linalg.eigh((codes - mean).T @ (codes - mean) / len(codes))
    scale = axes * torch.rsqrt(variances.clamp_min(0) + _NARROW**2)
    also = torch.eye(codes.shape[1], device=codes.device)
    return sliced_distance((drawn - mean) @ scale, (codes - mean) @ scale, torch.cat([directions, also]))


def sliced_distance(first: Tensor, second: Tensor, directions: Tensor) -> Tensor:
    """Squared Wasserstein distance of two sets [N, D] along each of `directions` [K, D], averaged, times D:
    for sets that differ by a shift the square of its length, on average."""
    along = F.normalize(directions, dim=1, eps=1e-6)
    ordered = [(points @ along.T).sort(dim=0).values for points in (first, second)]
    return (ordered[0] - ordered[1]).square().mean() * first.shape[1]


def as_settings(options: AutoencoderOptions) -> dict[str, Any]:
    """The options as JSON, each with its group's name before it."""
    return {f"autoencoder_{name}": value for name, value in vars(options).items()}
