"""Named solvers: diffusers schedulers with their timesteps set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.noise import item_integers, item_uniform

Solver = Literal["ddim", "dpm", "unipc"]
Prediction = Literal["epsilon", "v_prediction"]
NUM_TRAIN_STEPS = 1000
SOLVERS: tuple[Solver, ...] = ("ddim", "dpm", "unipc")


def build_scheduler(prediction: Prediction) -> DDIMScheduler:
    """Stable Diffusion's schedule. With v-prediction the last step is pure noise (zero terminal SNR), so
    that sampling starts where training ended."""
    zero_snr = prediction == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_STEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing",
    )


def draw_timesteps(
    seed: int, items: Sequence[int] | Tensor, shape: Sequence[int], stream: int, exponent: float = 1.0
) -> Tensor:
    """[len(items), *shape] int64 training times, row i from items[i] alone: 1000 u^exponent for uniform u.

    1 is uniform, as DDPM trains; with less the density of a time t grows as t^(1 / exponent - 1).
    """
    if exponent == 1.0:
        return item_integers(seed, items, NUM_TRAIN_STEPS, shape, stream)
    drawn = item_uniform(seed, items, shape, stream).double() ** exponent * NUM_TRAIN_STEPS
    return drawn.long().clamp(max=NUM_TRAIN_STEPS - 1)


def build_solver(
    scheduler: DDIMScheduler, solver: Solver, num_steps: int, device: torch.device | str = "cpu"
) -> Any:
    """A fresh deterministic scheduler on the noise schedule of `scheduler`.

    `ddim` is the paper's; `dpm` (DPM-Solver++ 2M, Lu et al. 2022) and `unipc` (Zhao et al. 2023) need
    fewer steps for the same result. A new object each call: multistep solvers carry state.
    Raises `InputError` for an unknown name or a step count outside 1 .. 1000.
    """
    if solver not in SOLVERS:
        raise InputError("--solver", solver, f"expected one of {', '.join(SOLVERS)}")
    limit = int(scheduler.config["num_train_timesteps"])
    if not 1 <= num_steps <= limit:
        raise InputError("--steps", num_steps, f"expected 1 to {limit}")
    if solver == "ddim" and limit % num_steps == 0:
        made: Any = DDIMScheduler.from_config(scheduler.config)
    elif solver in ("ddim", "dpm"):
        # diffusers' DDIM steps by `limit // num_steps`: where that leaves a rest it misses the next timestep
        # by one and ends at a noisy one. DPM-Solver++ of order 1 is DDIM (its section 4) from level to level.
        made = DPMSolverMultistepScheduler.from_config(
            scheduler.config,
            algorithm_type="dpmsolver++",
            solver_order=1 if solver == "ddim" else 2,
            final_sigmas_type="zero",
        )
    else:
        made = UniPCMultistepScheduler.from_config(scheduler.config, solver_order=2, final_sigmas_type="zero")
    made.set_timesteps(num_steps, device=device)
    if len(made.timesteps) == num_steps + 1:
        # A float range of 61 steps has 62 numbers (and so for 103, 121, ...); the last timestep is -1.
        made.timesteps, made.num_inference_steps = made.timesteps[:num_steps], num_steps
        made.sigmas = torch.cat([made.sigmas[:num_steps], made.sigmas[-1:]])
    return made
