"""A U-Net over sequences, of the kind diffusion models use for images (Dhariwal and Nichol 2021,
arXiv 2105.05233): residual blocks whose norms the noise level scales and shifts, attention, skips.

Shapes: B items, C channels, N places of the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError

_EMBEDDING_SCALE = 4
"""Channels of the embedding of the noise level for one of the model."""


def timestep_embedding(t: Tensor, size: int, max_period: float = 10_000.0) -> Tensor:
    """[B, size] cosines, then sines, of t [B] times frequencies from 1 down to 1 / max_period."""
    half = size // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    phase = t.float()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class ModulatedBlock(nn.Module):
    """Two convolutions; the second one's norm is scaled and shifted by the embedding. May halve or double."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, *, resample: str | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = _zeroed(nn.Conv1d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, outputs, N] (N / 2 or 2 N where it resamples)."""
        inner = F.silu(self.norm1(x))
        if self.resample is not None:
            inner, x = _resampled(inner, self.resample), _resampled(x, self.resample)
        inner = self.conv1(inner)
        scale, shift = self.modulate(F.silu(embedding))[:, :, None].chunk(2, dim=1)
        inner = self.conv2(F.silu(self.norm2(inner) * (1 + scale) + shift))
        return self.shortcut(x) + inner


class SelfAttention(nn.Module):
    """Every place looks at every other. `heads_first` is the order in which the published code first laid out
    queries, keys and values: by heads, then by kind."""

    def __init__(self, channels: int, head_channels: int, groups: int, *, heads_first: bool) -> None:
        super().__init__()
        if channels % head_channels:
            raise InputError("head_channels", head_channels, f"expected a divisor of {channels}")
        self.norm = nn.GroupNorm(groups, channels)
        self.to_all = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv1d(channels, channels, 1))
        self.num_heads, self.heads_first = channels // head_channels, heads_first

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N]"""
        heads = self.num_heads
        everything = self.to_all(self.norm(x))
        if self.heads_first:
            parts = everything.unflatten(1, (heads, 3, -1)).unbind(dim=2)
        else:
            parts = everything.unflatten(1, (3, heads, -1)).unbind(dim=1)
        query, key, value = (part.mT for part in parts)  # [B, heads, N, c]
        seen = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(seen.mT.flatten(1, 2))


class Step(nn.Module):
    """A residual block, attention or none, and a convolution that halves or doubles, or none."""

    def __init__(
        self,
        block: ModulatedBlock | None,
        attention: SelfAttention | None = None,
        halving: nn.Conv1d | None = None,
        doubling: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block, self.attention, self.halving, self.doubling = block, attention, halving, doubling

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, C', N']"""
        if self.block is not None:
            x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.halving is not None:
            x = self.halving(x)
        if isinstance(self.doubling, ModulatedBlock):
            return self.doubling(x, embedding)
        return x if self.doubling is None else self.doubling(_resampled(x, "double"))


class UNet1d(ModelMixin, ConfigMixin):
    """Sequence to sequence of the same length, which must be a multiple of 2^(levels - 1).

    `attention_levels` counts from 0, the full length. `block_resampling` halves and doubles within residual
    blocks instead of by a convolution; `heads_first` see `SelfAttention`. The last convolution starts at
    zero.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        channel_mult: Sequence[int] = (1, 2),
        head_channels: int = 32,
        num_classes: int | None = None,
        block_resampling: bool = False,
        heads_first: bool = True,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        size = self.embedding_size = _EMBEDDING_SCALE * model_channels
        self.time_in, self.time_out = nn.Linear(model_channels, size), nn.Linear(size, size)
        self.labels = None if num_classes is None else nn.Embedding(num_classes, size)
        self.conv_in = nn.Conv1d(in_channels, channel_mult[0] * model_channels, 3, padding=1)

        def block(inputs: int, outputs: int, resample: str | None = None) -> ModulatedBlock:
            return ModulatedBlock(inputs, outputs, size, norm_groups, resample=resample)

        def attention(channels: int, level: int) -> SelfAttention | None:
            if level not in attention_levels:
                return None
            return SelfAttention(channels, head_channels, norm_groups, heads_first=heads_first)

        channels = channel_mult[0] * model_channels
        kept = [channels]
        down: list[Step] = []
        for level, factor in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                first = block(channels, factor * model_channels)
                channels = factor * model_channels
                down.append(Step(first, attention(channels, level)))
                kept.append(channels)
            if level < len(channel_mult) - 1:
                halving = nn.Conv1d(channels, channels, 3, stride=2, padding=1)
                within = block(channels, channels, "halve") if block_resampling else None
                down.append(Step(within, halving=None if block_resampling else halving))
                kept.append(channels)
        self.down = nn.ModuleList(down)
        middle = SelfAttention(channels, head_channels, norm_groups, heads_first=heads_first)
        self.middle = nn.ModuleList(
            [Step(block(channels, channels), middle), Step(block(channels, channels))]
        )
        up: list[Step] = []
        for level, factor in reversed(list(enumerate(channel_mult))):
            for place in range(num_res_blocks + 1):
                first = block(channels + kept.pop(), factor * model_channels)
                channels = factor * model_channels
                doubling: nn.Module | None = None
                if level and place == num_res_blocks:
                    convolution = nn.Conv1d(channels, channels, 3, padding=1)
                    doubling = block(channels, channels, "double") if block_resampling else convolution
                up.append(Step(first, attention(channels, level), doubling=doubling))
        self.up = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(norm_groups, channels)
        self.conv_out = _zeroed(nn.Conv1d(channels, out_channels, 3, padding=1))
        self.model_channels = model_channels
        self.factor = 2 ** (len(channel_mult) - 1)

    def embed(self, t: Tensor, labels: Tensor | None = None, embedding: Tensor | None = None) -> Tensor:
        """[B, E] the noise level t [B], the class [B] if the network has any, and `embedding` [B, E] of
        whatever else there is."""
        if (labels is None) != (self.labels is None):
            expected = "no classes" if self.labels is None else "a class for every item"
            raise InputError(
                "labels", None if labels is None else tuple(labels.shape), f"expected {expected}"
            )
        waves = timestep_embedding(t, self.model_channels).to(self.time_in.weight.dtype)
        found = self.time_out(F.silu(self.time_in(waves)))
        if self.labels is not None:
            found = found + self.labels(labels)
        return found if embedding is None else found + embedding

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """[B, out_channels, N] of x [B, in_channels, N]; the rest as in `embed`. Raises `InputError` for a
        length that cannot be halved so often."""
        if x.shape[-1] % self.factor:
            raise InputError("x", tuple(x.shape), f"expected a length that is a multiple of {self.factor}")
        level = self.embed(t, labels, embedding)
        x = self.conv_in(x)
        kept = [x]
        for step in self.down:
            x = step(x, level)
            kept.append(x)
        for step in self.middle:
            x = step(x, level)
        for step in self.up:
            x = step(torch.cat([x, kept.pop()], dim=1), level)
        return self.conv_out(F.silu(self.norm_out(x)))

    def steps(self) -> Iterator[tuple[str, Step]]:
        """The steps in order, with the names of their modules."""
        for part, steps in (("down", self.down), ("middle", self.middle), ("up", self.up)):
            for place, step in enumerate(steps):
                assert isinstance(step, Step)
                yield f"{part}.{place}", step


def _resampled(x: Tensor, way: str) -> Tensor:
    return F.avg_pool1d(x, 2) if way == "halve" else F.interpolate(x, scale_factor=2, mode="nearest")


def _zeroed(conv: nn.Conv1d) -> nn.Conv1d:
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None, "built with a bias"
    nn.init.zeros_(conv.bias)
    return conv
