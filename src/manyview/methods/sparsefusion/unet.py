"""The denoiser of the view-conditioned latent diffusion model (VLDM).

A U-Net of the kind Imagen's public code builds, at SparseFusion's settings: the EFT's feature map is put
before the noisy latent as further channels, the noise level comes in as its log signal-to-noise ratio, and
attention is at the deepest level and the middle only. Shapes: B items, C channels, h x w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.sparsefusion.attention import (
    AttentionBlock,
    ContextAttention,
    TokenAttention,
    as_picture,
    as_tokens,
)
from manyview.methods.sparsefusion.noise_levels import signal_and_noise

_FREQUENCIES = 8
_TIME_TOKENS = 2
_SKIP_SCALE = 2**-0.5
"""On every skip connection, so that it and the main path together keep their variance."""


class KernelStem(nn.Module):
    """Convolutions of several sizes side by side: half of the channels from the smallest, and so on."""

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int]) -> None:
        super().__init__()
        shares = [outputs // 2**place for place in range(1, len(kernels))]
        shares.append(outputs - sum(shares))
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, share, kernel, padding=kernel // 2)
            for share, kernel in zip(shares, sorted(kernels), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, h, w]"""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class NoiseLevel(nn.Module):
    """The log signal-to-noise ratio as one vector and as two tokens."""

    def __init__(self, size: int, context_dim: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(_FREQUENCIES))
        self.lift = nn.Linear(2 * _FREQUENCIES + 1, size)
        self.to_vector = nn.Linear(size, size)
        self.to_tokens = nn.Linear(size, _TIME_TOKENS * context_dim)
        self.token_norm = nn.LayerNorm(context_dim)

    def forward(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """[B, size] and [B, 2, context_dim] from log_snr [B]."""
        level = log_snr[:, None]
        with torch.autocast(log_snr.device.type, enabled=False):
            phase = 2 * math.pi * level.float() * self.frequencies.float()
            waves = torch.cat([level.float(), phase.sin(), phase.cos()], dim=1)
        hidden = F.silu(self.lift(waves.to(self.lift.weight.dtype)))
        tokens = self.to_tokens(hidden).unflatten(-1, (_TIME_TOKENS, -1))
        return self.to_vector(hidden), self.token_norm(tokens)


class GlobalGate(nn.Module):
    """A factor for every channel from an attention-weighted mean over the picture (Cao et al. 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(3, channels // 2)
        self.score = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, 1] factors between 0 and 1."""
        share = self.score(x).flatten(2).softmax(dim=-1)  # [B, 1, h w]
        mean = (x.flatten(2) @ share.mT).unsqueeze(-1)
        return self.expand(F.silu(self.squeeze(mean))).sigmoid()


class LevelBlock(nn.Module):
    """Two convolutions; the second one's input is scaled and shifted by the noise level."""

    def __init__(
        self, inputs: int, outputs: int, level: int, *, gated: bool, context_dim: int | None = None
    ) -> None:
        super().__init__()
        self.modulate = nn.Linear(level, 2 * outputs)
        self.first_norm = nn.GroupNorm(8, inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.look = None if context_dim is None else ContextAttention(outputs, context_dim)
        self.second_norm = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.gate = GlobalGate(outputs) if gated else None
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, level: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[B, outputs, h, w] of x [B, inputs, h, w], level [B, size] and tokens [B, 2, context_dim]."""
        inner = self.first(F.silu(self.first_norm(x)))
        if self.look is not None:
            assert tokens is not None, "a block that looks at the noise level's tokens needs them"
            inner = inner + as_picture(self.look(as_tokens(inner), tokens), inner)
        scale, shift = self.modulate(F.silu(level))[:, :, None, None].chunk(2, dim=1)
        inner = self.second(F.silu(self.second_norm(inner) * (scale + 1) + shift))
        if self.gate is not None:
            inner = inner * self.gate(inner)
        return inner + self.shortcut(x)


class LastWidening(nn.Module):
    """What stands at the deepest level where the others halve the picture."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.narrow = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, h, w]"""
        return self.wide(x) + self.narrow(x)


class Doubling(nn.Module):
    """Twice the height and width: four values a cell, laid out as 2 x 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, 2 h, 2 w]"""
        return F.pixel_shuffle(F.silu(self.spread(x)), 2)


class Stage(nn.Module):
    """One level on the way down or up: an entry block, gated blocks, attention at the deepest, a change of
    size."""

    def __init__(
        self, entry: LevelBlock, blocks: list[LevelBlock], attention: AttentionBlock | None, leave: nn.Module
    ) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.leave = leave

    def descend(self, x: Tensor, level: Tensor, tokens: Tensor, kept: list[Tensor]) -> Tensor:
        """The next level's x; what the way up needs is appended to `kept`."""
        x = self.entry(x, level)
        for block in self.blocks:
            x = block(x, level)
            kept.append(x)
        kept.append(x if self.attention is None else self.attention(x, tokens))
        return self.leave(kept[-1])

    def ascend(self, x: Tensor, level: Tensor, tokens: Tensor, kept: list[Tensor]) -> Tensor:
        """The level above's x, with what `descend` kept here taken off the end of `kept`."""
        x = self.entry(torch.cat([x, kept.pop() * _SKIP_SCALE], dim=1), level)
        for block in self.blocks:
            x = block(torch.cat([x, kept.pop() * _SKIP_SCALE], dim=1), level)
        return self.leave(x if self.attention is None else self.attention(x, tokens))


class VldmUnet(ModelMixin, ConfigMixin):
    """Noise in a latent, given the EFT's feature map. The defaults are the published sizes."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        condition_channels: int = 256,
        width: int = 256,
        multipliers: tuple[int, ...] = (1, 2, 4, 4),
        num_blocks: tuple[int, ...] = (2, 2, 2, 2),
        num_heads: int = 8,
        head_dim: int = 64,
        stem_kernels: tuple[int, ...] = (3, 7, 15),
        prediction: Literal["epsilon", "v_prediction"] = "epsilon",
        blended: bool = False,
    ) -> None:
        """`condition_channels` counts those that are left after a finer map was folded (`forward`).

        Beyond the published network: `prediction` says what the last layer tells, the noise or the velocity
        alpha noise - sigma clean (Salimans and Ho 2022), from which the noise follows. With `blended` the
        condition's last `latent_channels` are a first guess of the clean latent; a velocity is then that of
        what the guess leaves of it."""
        super().__init__()
        if blended and condition_channels <= latent_channels:
            line = f"expected more than the {latent_channels} of the guess"
            raise InputError("condition_channels", condition_channels, line)
        if len(multipliers) != len(num_blocks):
            raise InputError("num_blocks", tuple(num_blocks), f"expected {len(multipliers)} numbers")
        level, context_dim = 4 * width, width
        sizes = [width, *[width * times for times in multipliers]]
        deepest = len(multipliers) - 1

        def block(inputs: int, outputs: int, gated: bool = True) -> LevelBlock:
            return LevelBlock(inputs, outputs, level, gated=gated)

        def attention(channels: int, depth: int) -> AttentionBlock | None:
            if depth < deepest:
                return None
            return AttentionBlock(channels, num_heads, head_dim, context_dim)

        self.stem = KernelStem(condition_channels + latent_channels, width, stem_kernels)
        self.noise_level = NoiseLevel(level, context_dim)
        down, up = [], []
        for depth, ((size, deeper), number) in enumerate(zip(pairwise(sizes), num_blocks, strict=True)):
            leave = (
                nn.Conv2d(size, deeper, 4, 2, padding=1) if depth < deepest else LastWidening(size, deeper)
            )
            inner = [block(size, size) for _ in range(number)]
            down.append(Stage(block(size, size, False), inner, attention(size, depth), leave))
            leave = Doubling(deeper, size) if depth > 0 else nn.Identity()
            inner = [block(deeper + size, deeper) for _ in range(number)]
            entry = block(deeper + size, deeper, False)
            up.append(Stage(entry, inner, attention(deeper, depth), leave))
        self.down = nn.ModuleList(down)
        self.middle_first = LevelBlock(sizes[-1], sizes[-1], level, gated=False, context_dim=context_dim)
        self.middle_attention = TokenAttention(sizes[-1], num_heads, head_dim)
        self.middle_second = LevelBlock(sizes[-1], sizes[-1], level, gated=False, context_dim=context_dim)
        self.up = nn.ModuleList(reversed(up))
        self.last = block(sizes[1], width)
        self.head = nn.Conv2d(width, latent_channels, 3, padding=1)
        for values in self.head.parameters():
            nn.init.zeros_(values)

    def forward(
        self, latents: Tensor, log_snr: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """[B, C, h, w] noise in `latents` [B, C, h, w] at log signal-to-noise ratios `log_snr` [B].

        `condition` [B, F, h, w], or [B, F', r h, r w], whose r x r cells are then folded into channels.
        `keep` bool [B]: False blanks the condition (the unconditional state). Raises `InputError` for sizes
        that do not fit.
        """
        if keep is not None:
            condition = condition * keep.to(condition.dtype)[:, None, None, None]
        condition = self._fold(condition, latents)
        x = self.stem(torch.cat([condition, latents], dim=1))
        level, tokens = self.noise_level(log_snr.expand(len(latents)))
        kept: list[Tensor] = []
        for stage in cast("Iterable[Stage]", self.down):
            x = stage.descend(x, level, tokens, kept)
        x = self.middle_first(x, level, tokens)
        x = x + as_picture(self.middle_attention(as_tokens(x)), x)
        x = self.middle_second(x, level, tokens)
        for stage in cast("Iterable[Stage]", self.up):
            x = stage.ascend(x, level, tokens, kept)
        told = self.head(self.last(x, level))
        if self.config["prediction"] == "epsilon":
            return told
        alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in signal_and_noise(log_snr))
        rest = latents
        if self.config["blended"]:
            rest = rest - alpha * condition[:, -latents.shape[1] :]
        # For z = alpha x + sigma e and v = alpha e - sigma x: e = sigma z + alpha v.
        return sigma * rest + alpha * told

    def _fold(self, condition: Tensor, latents: Tensor) -> Tensor:
        height, width = latents.shape[-2:]
        halvings = 2 ** (len(self.config["multipliers"]) - 1)
        if height % halvings or width % halvings:
            raise InputError("latents", tuple(latents.shape), f"expected sides divisible by {halvings}")
        ratio = condition.shape[-1] // width
        fits = condition.shape[-2:] == (height * ratio, width * ratio)
        if not fits or condition.shape[1] * ratio**2 != self.config["condition_channels"]:
            expected = f"expected {self.config['condition_channels']} channels over {height} x {width} cells"
            raise InputError("condition", tuple(condition.shape), expected)
        return F.pixel_unshuffle(condition, ratio) if ratio > 1 else condition


def build_vldm(
    preset: Literal["compact", "paper"],
    latent_channels: int | None = None,
    condition_channels: int | None = None,
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
    blended: bool = False,
) -> VldmUnet:
    """The denoiser with fresh weights: `paper` has the published sizes, `compact` about 4 M parameters."""
    if preset == "paper":
        return VldmUnet(
            latent_channels or 4, condition_channels or 256, prediction=prediction, blended=blended
        )
    return VldmUnet(
        latent_channels or 8,
        condition_channels or 96,
        width=40,
        multipliers=(1, 2, 3),
        num_blocks=(2, 2, 2),
        num_heads=4,
        head_dim=32,
        stem_kernels=(3, 7),
        prediction=prediction,
        blended=blended,
    )
