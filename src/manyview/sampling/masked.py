"""Masked diffusion sampling: some slots of a joint latent are known and stay clean, the others are drawn.

The joint latent is [B, V, C, h, w]; `observed` [B, V] says which slots are known. The method is that of
Bounoua et al. 2024 (multi-modal latent diffusion) in discrete time, as DiMViS section 2 (Eqs. 3 and 4)
uses it: the reverse process moves only the missing slots, given the clean observed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

Unconditional = Literal["renoised", "clean"]


class JointDenoiser(Protocol):
    """The network's answer for every slot, in the parameterisation of the scheduler."""

    def __call__(self, latents: Tensor, timestep: Tensor, observed: Tensor, described: Tensor, /) -> Tensor:
        """latents [B, V, C, h, w]; timestep scalar int64; observed [B, V] says which slots are clean,
        described [B, V] which of them may also be read through their image embedding. With guidance a call
        has 2 B rows: the B items, then the same items for the unconditional answer."""
        ...


class Scheduler(Protocol):
    """What is used of a diffusers scheduler."""

    timesteps: Tensor

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@torch.inference_mode()
def sample_masked(
    denoise: JointDenoiser,
    scheduler: Scheduler,
    latents: Tensor,
    observed: Tensor,
    noise: Tensor,
    guidance: float = 1.0,
    unconditional: Unconditional = "renoised",
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """[B, V, C, h, w] with the missing slots drawn from their distribution given the observed ones.

    latents: clean latents, read only where `observed`; noise: standard normal of the same shape, the
    start of the missing slots; `scheduler`: a diffusers scheduler with its timesteps set (DDIM for the
    paper's sampler, any multistep solver for fewer steps). Deterministic: schedulers that draw noise
    themselves are not for this function.

    guidance: classifier-free guidance scale (1 = none). The paper does not say what the unconditional
    branch sees in the observed slots; `renoised` shows them at the noise level of the others with no
    embedding (the C = {} state of training), `clean` shows them clean with no embedding. Both answers
    come from one call of the denoiser.
    """
    known = observed[:, :, None, None, None]
    nothing = torch.zeros_like(observed)
    x = torch.where(known, latents, noise)
    for number, timestep in enumerate(scheduler.timesteps):
        if guidance == 1.0:
            prediction = denoise(scheduler.scale_model_input(x, timestep), timestep, observed, observed)
        else:
            free, clean = x, observed
            if unconditional == "renoised":
                level = timestep.expand(x.shape[0])
                free, clean = torch.where(known, scheduler.add_noise(latents, noise, level), x), nothing
            both = denoise(
                scheduler.scale_model_input(torch.cat([x, free]), timestep),
                timestep,
                torch.cat([observed, clean]),
                torch.cat([observed, nothing]),
            )
            prediction, base = both.chunk(2)
            prediction = base + guidance * (prediction - base)
        moved = scheduler.step(prediction, timestep, x).prev_sample  # type: ignore[attr-defined]
        x = torch.where(known, latents, moved)
        if on_step is not None:
            on_step(number + 1)
    return x
