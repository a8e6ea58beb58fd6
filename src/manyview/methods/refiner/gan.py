"""The game between generator and discriminator: its losses, and both networks as one that the loop trains.

Non-saturating loss with a gradient penalty on real pictures (Goodfellow et al. 2014; Mescheder et al. 2018,
R1), path lengths as an option (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN",
section 3.2), both only every few passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.methods.refiner.augmentation import LARGEST, Draws, augment
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator, mix_styles


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """How the game is played."""

    r1: float = 1.0
    """Weight of the gradient penalty; more for larger pictures and smaller batches."""
    r1_every: int = 16
    """Passes from one penalty to the next; each counts so many times."""
    path_length: float = 0.0
    """Weight of the path lengths' regularisation; 0 for none."""
    path_every: int = 8
    style_mixing: float = 0.5
    """How often an item has the styles of two codes."""
    augmentation: float | None = None
    """How likely each change before the discriminator is; None adapts it so that real pictures are told from
    made ones no more surely than `sureness`."""
    sureness: float = 0.6
    """Share of real pictures taken for real, less that taken for made, that adaptation aims at."""
    adapted_over: int = 50_000
    """Pictures in which the probability can go from 0 to 1."""
    mirror: bool = True
    """Whether real pictures mirrored count as real ones."""
    noise: bool = False
    """Feed the generator's noise inputs; without it the code alone decides a picture, to the last pixel."""


class GanNetworks(nn.Module):
    """Both networks, the augmentation's probability and the running mean of path lengths."""

    strength: Tensor
    path_mean: Tensor

    def __init__(
        self, generator: StyleGAN2Generator, discriminator: StyleGAN2Discriminator, options: GanOptions
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.options = generator, discriminator, options
        self.register_buffer("strength", torch.tensor(options.augmentation or 0.0))
        self.register_buffer("path_mean", torch.zeros(()))

    def forward(
        self,
        real: Tensor,
        first: Tensor,
        second: Tensor,
        crossover: Tensor,
        real_draws: Draws,
        made_draws: Draws,
        *,
        penalise: bool = False,
        measure_paths: bool = False,
    ) -> dict[str, Tensor]:
        """The losses of one pass, `loss` their sum: one backward pass gives each network its own gradient.

        real [B, 3, R, R] in [-1, 1]; first, second [B, Z] normal draws; from row `crossover` [B] on the codes
        are the second's. The generator's loss looks through a discriminator that holds still, the
        discriminator's at pictures that do.
        """
        options = self.options
        with torch.autocast(real.device.type, enabled=False):  # codes keep their precision
            codes = self.generator.map(first, update_mean=self.training)
            codes = mix_styles(codes, self.generator.map(second), crossover)
        made = self.generator.synthesize(codes, noise="random" if options.noise else "none")
        shown = augment(made, made_draws, self.strength)
        # The penalty is taken at what the discriminator sees: a look-up's gradient has no gradient in torch.
        real_shown = augment(real, real_draws, self.strength, mirror=options.mirror)
        real_shown = real_shown.detach().requires_grad_(penalise)
        pictures = shown.detach().requires_grad_()
        on_real, on_made = self.discriminator(real_shown), self.discriminator(pictures)
        generator_loss = _through(shown, pictures, F.softplus(-on_made.float()).mean())
        discriminator_loss = F.softplus(-on_real.float()).mean() + F.softplus(on_made.float()).mean()
        zero = generator_loss.new_zeros(())
        penalty = gradient_penalty(on_real, real_shown) if penalise else zero
        paths = self._path_penalty(made, codes) if measure_paths else zero
        loss = generator_loss + discriminator_loss
        loss = loss + 0.5 * options.r1 * options.r1_every * penalty
        loss = loss + options.path_length * options.path_every * paths
        sureness = on_real.detach().float().sign().mean()
        self._adapt(sureness, len(real))
        return {
            "loss": loss,
            "generator": generator_loss,
            "discriminator": discriminator_loss,
            "r1": penalty,
            "paths": paths,
            "sureness": sureness,
            "augmentation": self.strength.clone(),
        }

    def _path_penalty(self, made: Tensor, codes: Tensor) -> Tensor:
        """How much the lengths of J^T y, y normal on the pictures, differ from their running mean."""
        direction = torch.randn_like(made) / (made.shape[-1] * made.shape[-2]) ** 0.5
        (gradient,) = torch.autograd.grad((made * direction).sum(), codes, create_graph=True)
        lengths = gradient.float().square().sum(dim=2).mean(dim=1).sqrt()
        if self.training:
            self.path_mean.lerp_(lengths.detach().mean(), 0.01)
        return (lengths - self.path_mean).square().mean()

    @torch.no_grad()
    def _adapt(self, sureness: Tensor, count: int) -> None:
        options = self.options
        if options.augmentation is None and self.training:
            step = (sureness - options.sureness).sign() * (count / options.adapted_over)
            self.strength.add_(step).clamp_(0, LARGEST)


def _through(shown: Tensor, pictures: Tensor, loss: Tensor) -> Tensor:
    """The loss of `pictures`, a copy of `shown` cut from its graph, as a function of `shown` alone: the same
    value and gradient, and none for the network that judged. One forward pass then serves both players."""
    if not torch.is_grad_enabled():
        return loss
    (slope,) = torch.autograd.grad(loss, pictures, retain_graph=True)
    linear = (shown * slope.detach()).sum()
    return loss.detach() + linear - linear.detach()


def gradient_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """Mean squared length of the logits' gradient at the real pictures [B, 3, R, R]; differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()
