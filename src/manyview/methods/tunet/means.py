"""The means of inverted trajectories, computed once for all training views and kept.

What is kept is the clean estimate x0 at t*, in float16; the paper's mean is sqrt(alpha_bar) times that
(`Trajectory.mean`), and TUNet works on the estimate (see `model`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from manyview.data.latents import LatentKey, cache_latents, weights_identity
from manyview.errors import InputError
from manyview.methods.tunet.examples import PosedLatents
from manyview.progress import Progress, silent
from manyview.sampling.inversion import Guess, Levels, NoiseModel, even_timesteps, invert

_AT_ONCE = 64
"""Views in one shard of the cache, which are inverted together."""


@dataclass(frozen=True, kw_only=True)
class MeanOptions:
    """How far views are inverted, and how. Raises `InputError` for values out of range."""

    t_star: int = 600
    steps: int = 10
    """Levels from the clean latent to t*; the paper has 30, a stride of 20."""
    refinements: int = 0
    guess: Guess = "carried"

    def __post_init__(self) -> None:
        if not 1 <= self.t_star <= 999:
            raise InputError("--t-star", self.t_star, "expected 1 to 999")
        if not 1 <= self.steps <= self.t_star:
            raise InputError("--mean-steps", self.steps, f"expected 1 to {self.t_star}")

    def levels(self, scheduler: object) -> Levels:
        """The trajectory's levels on a diffusers scheduler."""
        return Levels.of(scheduler, even_timesteps(self.t_star, self.steps))


def clean_estimates(latents: Tensor, model: NoiseModel, levels: Levels, options: MeanOptions) -> Tensor:
    """[B, C, h, w] x0 at t* of the trajectories of latents [B, C, h, w]."""
    chosen = {"refinements": options.refinements, "guess": options.guess}
    return invert(latents, model, levels, **chosen).estimate(options.t_star)


def cache_estimates(
    posed: PosedLatents,
    root: Path,
    network: nn.Module,
    model: NoiseModel,
    levels: Levels,
    options: MeanOptions,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> PosedLatents:
    """A data set with the clean estimates of its views in place of their latents.

    `model`: `network` bound to what it is told, on `device`, the same for every view; the weights of
    `network` and the levels are what the cache is found by. A stopped run goes on, a finished cache is
    loaded.
    """
    told = {
        "t_star": options.t_star,
        "refinements": options.refinements,
        "guess": options.guess,
        "timesteps": " ".join(map(str, levels.timesteps)),
        "alphas": " ".join(f"{alpha:.9g}" for alpha in levels.alphas),
        "clean_alpha": levels.clean_alpha,
        "prediction": levels.prediction,
    }
    key = LatentKey(data=latents_identity(posed.latents), encoder=weights_identity(network), options=told)

    def estimate(part: Tensor) -> Tensor:
        return clean_estimates(part.to(device).float(), model, levels, options)

    parts = posed.latents.split(_AT_ONCE)
    cache = cache_latents(parts, estimate, root, key, progress=progress, num_batches=len(parts))
    return replace(posed, latents=cache.load())


def latents_identity(latents: Tensor) -> str:
    """A hash of latents by shape and value."""
    digest = hashlib.sha256(f"means 1 {tuple(latents.shape)} {latents.dtype}".encode())
    for part in latents.split(4096):
        digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
