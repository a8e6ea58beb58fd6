"""Noise levels of the orbit diffusion: EDM's sigmas (Karras et al. 2022) with a network that tells
velocities.

Noisy latents are clean + sigma noise, where clean latents have about unit variance. The network reads them
times c_in and is told c_noise; what it answers, F, stands for the clean latents c_skip noisy + c_out F.
Shapes: B clips, T frames, C channels, h x w latent cells; sigmas [B] or [].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.hi3d.spec import PAPER_DIFFUSION, PAPER_SAMPLING
from manyview.sampling.noise import item_noise

LOG_SIGMA = (float(PAPER_DIFFUSION["log_sigma_mean"]), float(PAPER_DIFFUSION["log_sigma_std"]))
LOG_AUGMENTATION = (
    float(PAPER_DIFFUSION["log_augmentation_mean"]),
    float(PAPER_DIFFUSION["log_augmentation_std"]),
)
SIGMA_MAX, SIGMA_MIN = float(PAPER_SAMPLING["sigma_max"]), float(PAPER_SAMPLING["sigma_min"])


def build_scheduler(sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN) -> EulerDiscreteScheduler:
    """diffusers' Euler scheduler with rho = 7, whose timesteps are c_noise. Sampling starts from unit noise
    times its `init_noise_sigma` = sqrt(sigma_max^2 + 1)."""
    if not 0 < sigma_min < sigma_max:
        raise InputError("sigma_max", sigma_max, f"expected more than sigma_min = {sigma_min} > 0")
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
    )


def starting_at(scheduler: EulerDiscreteScheduler, sigma_max: float | None) -> EulerDiscreteScheduler:
    """The same scheduler from another highest sigma down; itself for None. Raises `InputError` for one that
    is not above its lowest."""
    if sigma_max is None:
        return scheduler
    if sigma_max <= scheduler.config["sigma_min"]:
        line = f"expected more than sigma_min = {scheduler.config['sigma_min']}"
        raise InputError("sigma_max", sigma_max, line)
    return cast(
        EulerDiscreteScheduler, EulerDiscreteScheduler.from_config(scheduler.config, sigma_max=sigma_max)
    )


def start_solver(
    scheduler: EulerDiscreteScheduler, num_steps: int, device: torch.device | str = "cpu"
) -> Any:
    """A fresh scheduler with its sigmas set, as it counts its steps. Raises `InputError` for a number of
    steps outside 1 ... 1000."""
    if not 1 <= num_steps <= 1000:
        raise InputError("--steps", num_steps, "expected 1 to 1000")
    made: Any = EulerDiscreteScheduler.from_config(scheduler.config)
    made.set_timesteps(num_steps, device=device)
    # By number, since looking a timestep up compares floats.
    made.set_begin_index(0)
    return made


def scalings(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip = 1 / (s^2 + 1), c_out = -s / sqrt(s^2 + 1), c_in = 1 / sqrt(s^2 + 1), c_noise = ln(s) / 4, each
    of the shape of `sigma`."""
    total = sigma**2 + 1
    return 1 / total, -sigma / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


def loss_weight(sigma: Tensor) -> Tensor:
    """(s^2 + 1) / s^2: the squared error of the clean latents times this is that of the velocity."""
    return (sigma**2 + 1) / sigma**2


def velocity(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """[B, ...] what the network has to answer for clean + sigma noise: (noise - s clean) / sqrt(s^2 + 1).

    It is (clean - c_skip noisy) / c_out with the difference of large numbers taken by hand.
    """
    s = as_items(sigma, clean)
    return (noise - s * clean) / (s**2 + 1).sqrt()


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """[B, ...] clean + s noise, with s of [B]."""
    return clean + as_items(sigma, clean) * noise


def as_items(values: Tensor, like: Tensor) -> Tensor:
    """[B, 1, ...] values of [B] (or []) to go with [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like)


def draw_log_normal(seed: int, items: Sequence[int] | Tensor, stream: int, mean: float, std: float) -> Tensor:
    """[B] exp(N(mean, std^2)), entry i from items[i] alone: the sigmas and augmentations of training."""
    return (mean + std * item_noise(seed, items, (), stream)).exp()
