"""View-conditioned latent diffusion: the training loss, and sampling with diffusers' schedulers.

The denoiser is told the log signal-to-noise ratio, so any table of noise levels will do to sample with.
Shapes: B items, C channels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.sparsefusion.noise_levels import add_noise, cosine_log_snr, level_times, p2_weight
from manyview.methods.sparsefusion.released_sampler import Estimate, sample_as_released
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.sampling.noise import item_uniform

VldmSolver = Literal["ddim", "plms", "released"]
CLIP = 10.0
"""No latent is larger: answers are clamped to it, as the published sampler does."""


def keep_condition(seed: int, items: Sequence[int], drop: float = 0.1, stream: int = 0) -> Tensor:
    """bool [B] which items see their condition in this step of training, row i from items[i] alone."""
    return item_uniform(seed, items, stream=stream) >= drop


def denoising_loss(
    unet: VldmUnet,
    clean: Tensor,
    condition: Tensor,
    times: Tensor,
    noise: Tensor,
    *,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    gamma: float = 0.5,
) -> Tensor:
    """[] the p2-weighted squared error of the predicted noise at `times` [B]; the plain one of the velocity
    where `unet` tells that (`gamma` is then not used).

    `mask` [B, 1, h, w] multiplies both sides; the mean still goes over all cells. `keep` as in `VldmUnet`.
    """
    log_snr = cosine_log_snr(times)
    predicted = unet(add_noise(clean, noise, log_snr), log_snr, condition, keep)
    error = predicted.float() - noise
    if mask is not None:
        error = error * mask
    # An error of the velocity shows in the noise alpha times as large.
    of_velocity = unet.config["prediction"] == "v_prediction"
    weight = 1 / log_snr.sigmoid() if of_velocity else p2_weight(log_snr, gamma)
    return (error.square().flatten(1).mean(dim=1) * weight).mean()


def published_steps(t_max: float) -> int:
    """As many sampling steps as SparseFusion takes from t_max: one for each hundredth, at most 50."""
    return max(1, min(int(100 * t_max), 50))


def build_scheduler(
    solver: VldmSolver, num_steps: int, t_max: float = 0.99, *, clip: float = CLIP
) -> DDIMScheduler | PNDMScheduler:
    """A diffusers scheduler whose timesteps 0 ... num_steps - 1 are `level_times(num_steps, t_max)`.

    It goes through all of them, from t_max to 0. `ddim` is deterministic and clamps its guess of the clean
    latent to +- clip; `plms` (Liu et al. 2022, "Pseudo numerical methods", without the Runge-Kutta start)
    does not clamp. Raises `InputError` for another solver, a step count outside 1 ... 1000, or t_max outside
    (0, 0.999].
    """
    check_sampling(solver, num_steps, t_max)
    kept = cosine_log_snr(level_times(num_steps, t_max)).sigmoid()
    ratios = kept / torch.cat([kept.new_ones(1), kept[:-1]])
    options: dict[str, Any] = {
        "num_train_timesteps": num_steps,
        "trained_betas": (1 - ratios).tolist(),
        "set_alpha_to_one": True,
        "timestep_spacing": "leading",
    }
    if solver == "ddim":
        made = DDIMScheduler(clip_sample=True, clip_sample_range=clip, **options)
    elif solver == "plms":
        made = PNDMScheduler(skip_prk_steps=True, **options)
    else:
        raise InputError("--solver", solver, "expected ddim or plms, which diffusers has")
    # The product of float32 betas loses digits where the signal is small.
    made.alphas_cumprod = kept.float()
    made.set_timesteps(num_steps)
    return made


def check_sampling(solver: str, num_steps: int, t_max: float) -> None:
    """Raises `InputError` for a solver, a step count or a t_max that `sample_latents` does not take."""
    if solver not in ("ddim", "plms", "released"):
        raise InputError("--solver", solver, "expected one of ddim, plms, released")
    if not 1 <= num_steps <= 1000:
        raise InputError("--steps", num_steps, "expected 1 to 1000")
    if not 0 < t_max <= 0.999:
        raise InputError("t_max", t_max, "expected more than 0 and at most 0.999")


def guided_noise(unet: VldmUnet, condition: Tensor, guidance: float = 1.0) -> Estimate:
    """The denoiser bound to its condition: uncond + guidance (cond - uncond), in one call of the network."""

    def estimate(x: Tensor, log_snr: Tensor) -> Tensor:
        if guidance == 1.0:
            return unet(x, log_snr, condition)
        keep = torch.arange(2 * len(x), device=x.device) < len(x)
        both = unet(torch.cat([x, x]), log_snr.repeat(2), torch.cat([condition, condition]), keep)
        seeing, blind = both.chunk(2)
        return blind + guidance * (seeing - blind)

    return estimate


@torch.no_grad()
def sample_latents(
    unet: VldmUnet,
    condition: Tensor,
    noise: Tensor,
    *,
    start: Tensor | None = None,
    t_max: float = 0.99,
    num_steps: int = 50,
    solver: VldmSolver = "ddim",
    guidance: float = 1.0,
    clip: float = CLIP,
    draw: Callable[[], Tensor] | None = None,
) -> Tensor:
    """[B, C, h, w] clean latents drawn from `noise` [B, C, h, w] given `condition`; same noise, same result.

    `start` [B, C, h, w]: clean latents that are noised to t_max first (SparseFusion's multi-step denoising of
    a render); without it `noise` is the start at t_max. `solver="released"` is the published sampler with its
    quirks (`released_sampler`): it needs `start` and, for the noise after the first, `draw`.
    Raises `InputError` for options that it cannot sample with, before the network runs.
    """
    check_sampling(solver, num_steps, t_max)
    estimate = guided_noise(unet, condition, guidance)
    if solver == "released":
        if start is None or draw is None:
            raise InputError("--solver", solver, "expected a start and a source of noise with it")
        given = [noise]
        more = draw
        return sample_as_released(
            estimate,
            start,
            lambda: given.pop() if given else more(),
            t_max=t_max,
            num_steps=num_steps,
            clip=clip,
        )
    scheduler = build_scheduler(solver, num_steps, t_max, clip=clip)
    levels = cosine_log_snr(level_times(num_steps, t_max)).to(noise.device, noise.dtype)
    x = noise if start is None else add_noise(start, noise, levels[-1].expand(len(noise)))
    timesteps = scheduler.timesteps
    assert timesteps is not None, "the scheduler was made with its timesteps set"
    for timestep in timesteps.tolist():
        predicted = estimate(x, levels[timestep].expand(len(x)))
        x = scheduler.step(predicted, timestep, x, return_dict=False)[0]
    return x.clamp(-clip, clip)
