"""Which of several candidates is a target's view, without looking at the true one.

The paper takes the candidate with the lowest LPIPS to the truth. That is an oracle: here it is only a bound
that benches report (`lowest` of a perceptual metric's numbers).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.nets.image_encoder import embed

Selection = Literal["agreement", "encoder"]
"""agreement: the fused latent that keeps the predicted view best (`fusion.agreement`). encoder: the picture
whose embedding is most like the reference's, for an encoder that tells objects apart from any side."""


def encoder_distance(encoder: CLIPVisionModelWithProjection, images: Tensor, references: Tensor) -> Tensor:
    """[B] one minus the cosine between embeddings of images [B, 3, H, W] and their references [B, 3, H', W'],
    all in [0, 1]."""
    pairs = (embed(encoder, part.to(encoder.device, encoder.dtype)).float() for part in (images, references))
    return 1 - torch.cosine_similarity(*pairs, dim=-1)


def lowest(scores: Tensor) -> Tensor:
    """[B] the candidate with the lowest of scores [K, B]; the first of equal ones."""
    return scores.argmin(dim=0)


def pick(candidates: Tensor, chosen: Tensor) -> Tensor:
    """[B, *] candidate `chosen[b]` of candidates [K, B, *] in row b."""
    rows = torch.arange(len(chosen), device=candidates.device)
    return candidates[chosen.to(candidates.device), rows]
