"""Where codes lie, and a mapping network that draws such codes.

Codes are described along their principal axes, each with the distribution that it has: normal numbers go to
codes by matching quantiles axis by axis. A mapping network then learns that function, so that the generator
draws new codes as any StyleGAN2 does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.sampling.noise import item_noise

_PASSES, _MEANS = 0x616570, 0x616571
_RATE = 1e-2
_DRAWN, _AVERAGED = 256, 4096


class CodeDistribution:
    """Fitted to codes [N, D]. Axes are taken for independent of each other, which principal ones are but for
    what is not linear."""

    def __init__(self, codes: Tensor) -> None:
        self.mean = codes.mean(dim=0)
        away = codes - self.mean
        variances, axes = torch.linalg.eigh(away.T @ away / len(codes))
        order = variances.argsort(descending=True)
        self.axes = axes[:, order]
        """[D, D], one a column, the widest first."""
        self.quantiles = (away @ self.axes).sort(dim=0).values
        """[N, D] the codes' numbers along each axis, rising."""

    def draw(self, z: Tensor) -> Tensor:
        """[B, D] of normal z [B, Z]: number k of z decides where along axis k. Axes beyond Z stay at the
        mean, numbers beyond D decide nothing."""
        count = min(z.shape[1], self.axes.shape[1])
        last = len(self.quantiles) - 1
        share = torch.special.ndtr(z[:, :count]).clamp(0, 1) * last
        low = share.floor().long().clamp(0, max(last - 1, 0))
        table = self.quantiles[:, :count]
        first, second = table.gather(0, low), table.gather(0, (low + 1).clamp(max=last))
        return self.mean + (first + (second - first) * (share - low)) @ self.axes[:, :count].T


def fit_mapping(
    generator: StyleGAN2Generator, distribution: CodeDistribution, passes: int, seed: int
) -> None:
    """Let the mapping network tell what the distribution draws of the same numbers, by the mean squared
    difference; and record the mean of what it then tells. The rest of the generator stays."""
    mapping = generator.mapping.requires_grad_(True)
    device = distribution.mean.device
    optimizer = torch.optim.Adam(mapping.parameters(), lr=_RATE, betas=(0.9, 0.99))
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, passes))
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for number in range(passes):
            z = item_noise(seed, [number], (_DRAWN, generator.z_dim), stream=_PASSES)[0].to(device)
            z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True))  # all that a mapping network sees of it
            loss = (mapping(z) - distribution.draw(z)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    with torch.no_grad():
        z = item_noise(seed, range(_AVERAGED), (generator.z_dim,), stream=_MEANS).to(device)
        mapping.w_mean.copy_(mapping(z).mean(dim=0))
