"""The numbers a clip comes with, as vectors of sinusoids: elevation, noise of the condition, and a slot for
an aesthetic score that the published first stage has.

Shapes: B clips.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from manyview.errors import InputError


def sinusoids(values: Tensor, width: int) -> Tensor:
    """[B, width] cosines, then sines, of values [B] times 10000^(-k / (width // 2)), k = 0, 1, ...; an odd
    width ends with a zero."""
    return get_timestep_embedding(values.flatten(), width, flip_sin_to_cos=True, downscale_freq_shift=0)


def aesthetic_slot(score: Tensor, width: int) -> Tensor:
    """[B, width] a score [B] itself, then the sinusoids of 100 times it."""
    score = score.flatten().float()
    return torch.cat([score[:, None], sinusoids(100 * score, width - 1)], dim=-1)


def vector_condition(
    elevation_deg: Tensor,
    augmentation: Tensor,
    width: int,
    *,
    slots: int = 2,
    aesthetic: Tensor | None = None,
) -> Tensor:
    """[B, slots * width] what the network adds to its noise level: elevation in degrees [B], deviation of the
    condition's noise [B], each as `width` sinusoids.

    With `slots` = 3 they come after the aesthetic slot, zeros without a score: the published first stage kept
    Stable Video Diffusion's three slots. Raises `InputError` for another number of slots, and for a score
    that has none.
    """
    if slots not in (2, 3):
        raise InputError(
            "vector slots", slots, "expected 2 (elevation, augmentation) or 3 (a score before them)"
        )
    if aesthetic is not None and slots == 2:
        raise InputError("aesthetic", "given", "this network has no slot for a score")
    parts = [sinusoids(elevation_deg.float(), width), sinusoids(augmentation.float(), width)]
    if slots == 3:
        empty = parts[0].new_zeros(parts[0].shape)
        parts.insert(0, empty if aesthetic is None else aesthetic_slot(aesthetic, width))
    return torch.cat(parts, dim=-1)
