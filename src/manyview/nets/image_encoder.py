"""A small image encoder with CLIP's interface, standing where published methods use CLIP's ViT-L/14.

Both are transformers' `CLIPVisionModelWithProjection`; ours is trained to tell objects apart from any
side (two views of one object agree), so its embedding says what the object is, not where the camera is.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

# CLIP's published pixel statistics; the image-variation models keep them.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def build_image_encoder(preset: Literal["compact", "paper"] = "compact") -> CLIPVisionModelWithProjection:
    """An encoder with fresh weights: `compact` (64 px, 128-d) or `paper` (CLIP ViT-L/14, 768-d)."""
    if preset == "paper":
        config = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            projection_dim=768,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        )
    else:
        config = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=384,
            projection_dim=128,
            num_hidden_layers=5,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    return CLIPVisionModelWithProjection(config)


def preprocess(images: Tensor, size: int) -> Tensor:
    """[B, 3, size, size] encoder input from images [B, 3, H, W] in [0, 1].

    Bicubic, stretched (not cropped) and without antialiasing, as the published image-variation weights
    were trained; on enlargement the two are the same.
    """
    if images.shape[-2:] != (size, size):
        images = functional.interpolate(images, (size, size), mode="bicubic", align_corners=False)
    mean = torch.tensor(_CLIP_MEAN, device=images.device, dtype=images.dtype)[:, None, None]
    std = torch.tensor(_CLIP_STD, device=images.device, dtype=images.dtype)[:, None, None]
    return (images - mean) / std


def embed(encoder: CLIPVisionModelWithProjection, images: Tensor) -> Tensor:
    """[B, D] projected image embeddings of images [B, 3, H, W] in [0, 1]."""
    pixels = preprocess(images, cast(int, encoder.config.image_size))
    return encoder(pixel_values=pixels.to(encoder.dtype)).image_embeds


class EncoderFeatures(nn.Module):
    """An image encoder as a network of features."""

    def __init__(self, encoder: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, D] float32 of images [B, 3, H, W] in [0, 1]."""
        return embed(self.encoder, images).float()
