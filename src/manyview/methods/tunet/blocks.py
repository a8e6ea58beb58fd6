"""The parts TUNet is made of: residual blocks that know cameras and class, and attention with rays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from manyview.methods.tunet.cameras import CAMERA_NUMBERS


@dataclass(frozen=True, kw_only=True)
class Told:
    """What residual blocks are told, for N pictures."""

    time: Tensor
    """[N, T] the embedded timestep."""
    cameras: tuple[Tensor, ...] = ()
    """Vectors [N, 19] of one camera, or of two in the middle; none where they are maps beside the input."""
    classes: Tensor | None = None
    """[N] int64."""


class ConditionedResnet(nn.Module):
    """diffusers' residual block after its own projection of time, cameras and class to the time's size
    (the paper's Proj_combined). Every block owns its embeddings of cameras and class."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        *,
        num_cameras: int,
        camera_dim: int,
        class_dim: int,
        num_classes: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.cameras = nn.ModuleList(nn.Linear(CAMERA_NUMBERS, camera_dim) for _ in range(num_cameras))
        self.classes, self.mix = None, None
        if num_cameras:
            self.classes = nn.Embedding(num_classes + 1, class_dim)
            self.mix = nn.Linear(time_dim + num_cameras * camera_dim + class_dim, time_dim)
        self.resnet = ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=time_dim,
            groups=groups,
            groups_out=groups,
            eps=1e-5,
        )

    def forward(self, x: Tensor, told: Told) -> Tensor:
        """[N, out_channels, h, w] from [N, in_channels, h, w]."""
        time = told.time
        if self.mix is not None:
            assert self.classes is not None, "made together"
            assert told.classes is not None, "told with the cameras"
            views = [embed(vector) for embed, vector in zip(self.cameras, told.cameras, strict=True)]
            time = self.mix(torch.cat([time, *views, self.classes(told.classes)], dim=-1))
        return self.resnet(x, time)


class RayAttention(nn.Module):
    """Equation 2: queries of target rays and features, keys of reference rays and latents, values of
    latents. All three projections exist from the start, so an optimiser made then trains them."""

    def __init__(self, channels: int, key_channels: int, ray_channels: int, dim: int, head_dim: int) -> None:
        super().__init__()
        self.heads = dim // head_dim
        self.to_q = nn.Linear(channels + ray_channels, dim, bias=False)
        self.to_k = nn.Linear(key_channels + ray_channels, dim, bias=False)
        self.to_v = nn.Linear(key_channels, dim, bias=False)
        self.to_out = nn.Linear(dim, channels)

    def forward(self, features: Tensor, rays: Tensor, keys: Tensor, key_rays: Tensor) -> Tensor:
        """[B, N, channels] from features [B, N, channels] and rays [B, N, r] of the target's tokens, latents
        [B, M, key_channels] and rays [B, M, r] of the reference's."""
        q = self.to_q(torch.cat([features, rays], dim=-1))
        k = self.to_k(torch.cat([keys, key_rays], dim=-1))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, self.to_v(keys)))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class RayTransformer(nn.Module):
    """Self-attention, ray attention and a feed-forward network over the cells of a feature map, each added to
    it (the order of diffusers' transformer blocks). Without ray attention the other two stay."""

    def __init__(
        self,
        channels: int,
        key_channels: int,
        ray_channels: int,
        *,
        cross_dim: int,
        head_dim: int,
        groups: int,
        cross_attention: bool,
    ) -> None:
        super().__init__()
        heads = max(1, channels // head_dim)
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, dim_head=channels // heads)
        self.norm2, self.attn2 = None, None
        if cross_attention:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = RayAttention(channels, key_channels, ray_channels, cross_dim, head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, rays: Tensor, keys: Tensor, key_rays: Tensor) -> Tensor:
        """[B, channels, h, w] from the same; rays [B, r, h, w] of its cells, keys [B, k, h', w'] and
        key_rays [B, r, h', w'] of the reference."""
        height, width = x.shape[-2:]
        tokens = self.proj_in(_tokens(self.norm(x)))
        tokens = tokens + self.attn1(self.norm1(tokens))
        if self.attn2 is not None:
            assert self.norm2 is not None, "made together"
            told = (_tokens(part) for part in (rays, keys, key_rays))
            tokens = tokens + self.attn2(self.norm2(tokens), *told)
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, (height, width))


def self_attention(channels: int, head_dim: int, groups: int) -> Attention:
    """Self-attention over the cells of a feature map [N, channels, h, w], added to it."""
    heads = max(1, channels // head_dim)
    return Attention(
        channels,
        heads=heads,
        dim_head=channels // heads,
        bias=True,
        norm_num_groups=groups,
        residual_connection=True,
    )


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
