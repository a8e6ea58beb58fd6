"""Data sets of TUNet at toy size: latents that say which view they are, and networks of a few thousand
weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from manyview.geometry.trajectories import orbit
from manyview.methods.tunet.cameras import scene_focus
from manyview.methods.tunet.examples import UNKNOWN, PosedLatents
from manyview.methods.tunet.options import TUNetOptions
from manyview.types import join_cameras

CHANNELS, CELLS = 4, 4


def tiny_sizes(**changes: Any) -> TUNetOptions:
    return TUNetOptions(
        **{
            "latent_channels": CHANNELS,
            "widths": (16, 16),
            "self_attention": (False, True),
            "ray_levels": (False, True),
            "cross_dim": 16,
            "head_dim": 8,
            "groups": 8,
            "camera_dim": 8,
            "class_dim": 8,
            "ray_octaves": 1,
            "sweep_depths": 3,
            **changes,
        }
    )


def posed(counts: list[int], *, ordered: bool = False, mark: float = 0.0, **changes: Any) -> PosedLatents:
    """Scenes of so many views on orbits; latent m is `mark` + m / 64 everywhere, which float16 holds."""
    rigs = [orbit(count, 10.0 + 5 * number, size=32) for number, count in enumerate(counts)]
    total = sum(counts)
    values = mark + torch.arange(total) / 64
    parts: dict[str, Any] = {
        "latents": values[:, None, None, None].expand(total, CHANNELS, CELLS, CELLS).half().contiguous(),
        "cameras": replace(join_cameras(rigs), distortion=None),
        "starts": torch.tensor([0, *counts]).cumsum(0),
        "focus": torch.stack([scene_focus(rig) for rig in rigs]),
        "class_ids": torch.full((len(counts),), UNKNOWN),
        "ordered": ordered,
    }
    return PosedLatents(**{**parts, **changes})


def numbers_of(latents: torch.Tensor, mark: float = 0.0) -> list[int]:
    """Which views these latents are."""
    return ((latents[:, 0, 0, 0].float() - mark) * 64).round().long().tolist()
