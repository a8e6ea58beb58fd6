"""How noisy a render is made before the diffusion model cleans it, and how much the answer counts.

Distillation takes rounds 0, 1, 2, ...; a round has one noise level for all its pictures.
"""

from __future__ import annotations

from typing import Literal

import torch

from manyview.errors import InputError
from manyview.methods.sparsefusion.noise_levels import cosine_log_snr
from manyview.methods.sparsefusion.vldm import published_steps
from manyview.sampling.noise import item_uniform

Schedule = Literal["annealed", "uniform"]
_LEAST = 0.01
"""Below this time nothing is left to denoise: latents keep 0.9995 of their signal."""


def noise_time(
    schedule: Schedule,
    done: int,
    total: int,
    seed: int,
    *,
    first: float = 0.99,
    last: float = 0.4,
    stream: int = 0,
) -> float:
    """The t_max of diffusion round `done` of `total`.

    `uniform`: drawn from U(0, first), each round anew and from its number alone (SparseFusion). `annealed`:
    evenly from `first` down to `last`, so that early rounds decide what the object is and late ones, which
    stay close to what the field shows, agree on the details. Raises `InputError` for another schedule.
    """
    if schedule == "uniform":
        drawn = float(item_uniform(seed, [done], stream=stream)[0]) * first
    elif schedule == "annealed":
        drawn = first + (last - first) * done / max(1, total - 1)
    else:
        raise InputError("schedule", schedule, "expected annealed or uniform")
    return min(max(drawn, _LEAST), first)


def denoising_steps(t_max: float, most: int = 50) -> int:
    """Steps of the sampler from t_max: SparseFusion's min(100 t_max, 50), at most `most`."""
    return min(published_steps(t_max), most)


def target_weight(t_max: float) -> float:
    """1 - alpha^2 at t_max: what a picture counts that was denoised from there. Near 1 a picture is the
    diffusion model's own, near 0 it repeats the render."""
    return float((-cosine_log_snr(torch.tensor(t_max, dtype=torch.float64))).sigmoid())
