"""The reference's latent along the target's rays, and an output that can copy it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.nets.blending import blend_candidates

HIDDEN, FEATURES = 64, 8
GATE_WIDTH = 0.05
"""How far, in half images, contents must move on average for the residual to count (1 - 1/e of it)."""
_NOTHING = -4.0
"""First logit of the candidate zero, so that a fresh network copies."""


class PlaneFeatures(nn.Module):
    """A small network that looks at the gathered latent on each plane, the same for every plane."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(latent_channels + 1, HIDDEN, 1), nn.SiLU(), nn.Conv2d(HIDDEN, FEATURES, 1)
        )

    def forward(self, gathered: Tensor, inside: Tensor) -> Tensor:
        """[B, D FEATURES, h, w] from what `gather_planes` gives and bool [B, D, h, w]."""
        b, d, _, h, w = gathered.shape
        marked = torch.cat([gathered, inside[:, :, None].to(gathered.dtype)], dim=2)
        return self.mix(marked.flatten(0, 1)).reshape(b, d * FEATURES, h, w)


def gather_planes(latents: Tensor, grid: Tensor, inside: Tensor) -> Tensor:
    """[B, D, C, h, w] latents [B, C, h, w] at the places of a sweep [B, D, h, w, 2], 0 outside the image."""
    b, d, h, w, _ = grid.shape
    # A place behind the camera may lie anywhere; nan and infinity must not reach the interpolation.
    flat = grid.clamp(-2, 2).reshape(b, d * h, w, 2)
    there = F.grid_sample(latents.float(), flat, padding_mode="border", align_corners=False)
    planes = there.reshape(b, -1, d, h, w).transpose(1, 2).to(latents.dtype)
    return torch.where(inside[:, :, None], planes, torch.zeros_like(planes))


def camera_gate(grid: Tensor, cells: tuple[int, int]) -> Tensor:
    """[B] in [0, 1): 0 where target and reference see the same at the same place, near 1 where contents move.

    1 - exp(-(m / GATE_WIDTH)^2) of the root mean square m of the way from every cell to its places on the
    planes of the sweep, in half images, counted up to 1.
    """
    rows, columns = cells
    y = (torch.arange(rows, device=grid.device) + 0.5) * (2 / rows) - 1
    x = (torch.arange(columns, device=grid.device) + 0.5) * (2 / columns) - 1
    own = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    moved = (grid - own).clamp(-1, 1).square().sum(dim=-1).mean(dim=(1, 2, 3))
    return 1 - torch.exp(-moved / GATE_WIDTH**2)


def blend_output(
    latents: Tensor,
    gathered: Tensor | None,
    inside: Tensor | None,
    logits: Tensor,
    residual: Tensor,
    gate: Tensor | None,
) -> Tensor:
    """[B, C, h, w] a mean of candidates, weighed by the softmax of their logits, plus a residual.

    The candidates are zero, the reference's same cell, and its values on the planes of the sweep. latents
    [B, C, h, w] of the reference; gathered [B, D, C, h, w] and inside [B, D, h, w], or None without a sweep;
    logits [B, K, h, w]. gate [B]: residual and the candidate zero vanish with it.
    """
    values = [torch.zeros_like(latents)[:, None], latents[:, None]]
    usable = torch.ones_like(logits[:, :2], dtype=torch.bool)
    if gathered is not None and inside is not None:
        values.append(gathered)
        usable = torch.cat([usable, inside], dim=1)
    if gate is not None:
        share = gate.to(logits)[:, None, None, None]
        nothing = logits[:, :1] + torch.log(share + 1e-6)
        logits, residual = torch.cat([nothing, logits[:, 1:]], dim=1), share * residual
    return blend_candidates(torch.cat(values, dim=1), usable, logits) + residual


def start_blend(head: nn.Conv2d, latent_channels: int) -> None:
    """Let a fresh output layer begin with copies: no residual, all planes and the same cell alike."""
    assert head.bias is not None, "made with a bias"
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[latent_channels] = _NOTHING
