"""How far codes are turned where it is known from which yaws the pictures were taken.

Outlines tell turns only roughly (coarse_pose.py), and hardly where a generator lets one side fade into the
other. But along the direction that turns, a drawn code's rank among all others is the rank of its yaw among
all yaws: where those are spread evenly within a known range, that is its yaw. One number about the pictures,
as a lens is, and no picture's own yaw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.generator import CodeGenerator

_DRAWN = 4096


class EvenYaws:
    """Yaws of a generator's codes, which are spread evenly within +-`most_deg` along a direction."""

    def __init__(
        self, generator: CodeGenerator, basis: SweepBasis, most_deg: float, *, first_seed: int = 0
    ) -> None:
        self.basis, self.most_deg = basis, most_deg
        drawn = generator.sample(range(first_seed, first_seed + _DRAWN))
        self.ranked = basis.places(drawn).sort().values.contiguous()
        """[N] where drawn codes lie along the direction, rising."""

    def yaw_deg(self, codes: Tensor, amounts: Tensor) -> Tensor:
        """[B, F] degrees of codes [B, L, D] turned by amounts [B, F] deviations, at most the
        range."""
        ranked = self.ranked.to(codes.device)
        places = (self.basis.places(codes)[:, None] + amounts).to(ranked).contiguous()
        right = torch.searchsorted(ranked, places).clamp(1, len(ranked) - 1)
        low, high = ranked[right - 1], ranked[right]
        within = ((places - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
        return (2 * (right - 1 + within) / (len(ranked) - 1) - 1) * self.most_deg
