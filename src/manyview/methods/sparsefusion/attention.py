"""Attention of the view-conditioned denoiser: with learned null tokens and gain-only layer norms.

The pieces are those of Imagen's public U-Net (Saharia et al. 2022), which SparseFusion's weights were trained
with. Shapes: B items, L tokens, M context tokens, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GainNorm(nn.Module):
    """Layer norm over one dimension with a gain and no shift; `shape` is the gain's."""

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(shape))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, of the shape of `x`."""
        variance, mean = torch.var_mean(x, dim=self.dim, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.gain


class TokenAttention(nn.Module):
    """Tokens look at themselves and, where there is a context, at its tokens; all heads share keys and values
    (Shazeer 2019, "Fast transformer decoding")."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GainNorm((channels,), -1)
        self.to_query = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.to_key_value = nn.Linear(channels, 2 * head_dim, bias=False)
        self.null_key_value = nn.Parameter(torch.randn(2, head_dim))
        self.context_norm = self.context_key_value = None
        if context_dim is not None:
            self.context_norm = nn.LayerNorm(context_dim)
            self.context_key_value = nn.Linear(context_dim, 2 * head_dim)
        self.leave = nn.Linear(num_heads * head_dim, channels, bias=False)
        self.leave_norm = GainNorm((channels,), -1)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, L, C] from tokens [B, L, C] and context [B, M, context_dim]."""
        x = self.norm(tokens)
        key_value = [self.null_key_value.reshape(1, 1, -1).expand(len(x), -1, -1), self.to_key_value(x)]
        if self.context_key_value is not None and self.context_norm is not None and context is not None:
            key_value.append(self.context_key_value(self.context_norm(context)))
        key, value = torch.cat(key_value, dim=1).unsqueeze(1).chunk(2, dim=-1)
        query = self.to_query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        shape = (-1, self.num_heads, -1, -1)
        answer = F.scaled_dot_product_attention(query, key.expand(shape), value.expand(shape))
        return self.leave_norm(self.leave(answer.transpose(1, 2).flatten(2)))


class ContextAttention(nn.Module):
    """Tokens look at context tokens, every head with its own keys and values."""

    def __init__(self, channels: int, context_dim: int, num_heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GainNorm((channels,), -1)
        self.to_query = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.to_key_value = nn.Linear(context_dim, 2 * num_heads * head_dim, bias=False)
        self.null_key_value = nn.Parameter(torch.randn(2, head_dim))
        self.leave = nn.Linear(num_heads * head_dim, channels, bias=False)
        self.leave_norm = GainNorm((channels,), -1)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """[B, L, C] from tokens [B, L, C] and context [B, M, context_dim]."""
        query = self._heads(self.to_query(self.norm(tokens)))
        key, value = (self._heads(part) for part in self.to_key_value(context).chunk(2, dim=-1))
        nulls = self.null_key_value.reshape(2, 1, 1, 1, -1).expand(-1, len(tokens), self.num_heads, -1, -1)
        key, value = torch.cat([nulls[0], key], dim=2), torch.cat([nulls[1], value], dim=2)
        answer = F.scaled_dot_product_attention(query, key, value)
        return self.leave_norm(self.leave(answer.transpose(1, 2).flatten(2)))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def as_tokens(picture: Tensor) -> Tensor:
    """[B, h w, C] of [B, C, h, w]."""
    return picture.flatten(2).mT


def as_picture(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_tokens` for the height and width of `like`."""
    return tokens.mT.unflatten(2, tuple(like.shape[-2:]))


class AttentionBlock(nn.Module):
    """Self-attention with context tokens, then a per-cell network of twice the width."""

    def __init__(self, channels: int, num_heads: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.attention = TokenAttention(channels, num_heads, head_dim, context_dim)
        self.enter_norm = GainNorm((1, channels, 1, 1), 1)
        self.enter = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.leave_norm = GainNorm((1, 2 * channels, 1, 1), 1)
        self.leave = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, C, h, w] of x [B, C, h, w] and context [B, M, context_dim]."""
        x = x + as_picture(self.attention(as_tokens(x), context), x)
        return x + self.leave(self.leave_norm(F.gelu(self.enter(self.enter_norm(x)))))
