"""The target's latent at t*: the mean that TUNet predicts, and noise of the reference's inversion.

One t* and one coefficient for everything: noise has the weight sqrt(1 - alpha_bar(t*)). The paper prints
1 + alpha in equations 5 and 6, a misprint (it would put 18 % too much noise on the latent), and its scripts
read sigma, the coefficient and the timestep at different places of the list.

With the target's true mean, and a base whose answer is right there, A gives the target's own latent of the
inversion, which DDIM then takes to the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.inversion import Levels, NoiseModel, Trajectory, split_terms

Fusion = Literal["A", "B", "mean"]
"""A (equations 3 to 5): the noise that the base sees in the mean plus the source's. B (equation 6): the
source itself. mean: no noise and no sampling, the clean estimate as it is."""
NoiseSource = Literal["latent_t", "latent_T", "eps_t", "gaussian"]
"""Of the reference's inversion: the latent at t* (it holds the reference's mean too, which shows as a ghost),
the latent at the last level (almost white), the noise estimated at t*; or fresh noise."""
_USUAL: dict[Fusion, NoiseSource] = {"A": "eps_t", "B": "latent_T", "mean": "eps_t"}
_CANDIDATES = "expected A, B or mean, with a source of noise if wanted: A, B:latent_T, B:gaussian"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to a target's view. Raises `InputError` for unknown names."""

    fusion: Fusion
    noise_source: NoiseSource

    def __post_init__(self) -> None:
        if self.fusion not in get_args(Fusion):
            raise InputError("--fusion", self.fusion, f"expected one of {', '.join(get_args(Fusion))}")
        if self.noise_source not in get_args(NoiseSource):
            accepted = f"expected one of {', '.join(get_args(NoiseSource))}"
            raise InputError("--noise-source", self.noise_source, accepted)

    @property
    def name(self) -> str:
        """As `parse_candidate` reads it."""
        return "mean" if self.fusion == "mean" else f"{self.fusion}:{self.noise_source}"


def make_candidate(fusion: str, noise_source: str | None = None) -> Candidate:
    """With the fusion's usual source (the paper's: A eps_t, B latent_T) when none is given."""
    usual = _USUAL.get(fusion, "eps_t")  # type: ignore[arg-type]
    return Candidate(fusion=fusion, noise_source=noise_source or usual)  # type: ignore[arg-type]


def parse_candidate(text: str, argument: str = "--candidates") -> Candidate:
    """`A`, `B`, `mean`, `A:eps_t`, `B:gaussian`, ... Raises `InputError` for anything else."""
    fusion, _, source = text.strip().partition(":")
    known = fusion in get_args(Fusion) and (not source or source in get_args(NoiseSource))
    if not known or (fusion == "mean" and source):
        raise InputError(argument, text, _CANDIDATES)
    return make_candidate(fusion, source or None)


def fuse(
    estimate: Tensor,
    trajectory: Trajectory,
    base: NoiseModel,
    candidate: Candidate,
    *,
    t_star: int,
    reference_of: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """[B, C, h, w] the latents at t* from which DDIM draws the targets.

    estimate [B, C, h, w]: the targets' clean estimates, as TUNet gives them. trajectory: the inversion of R
    references; reference_of [B] says whose target a row is (row by row when not given). noise [B, C, h, w]:
    for the source gaussian. base is bound to the B targets. Raises `InputError` for `mean`, which has no
    latent at t*, and for a t* that the trajectory has not got.
    """
    if candidate.fusion == "mean":
        raise InputError("--fusion", "mean", "has no latent at t*; its view is the decoded estimate")
    alpha = trajectory.levels.alpha(t_star)
    share, mean = math.sqrt(1 - alpha), math.sqrt(alpha) * estimate
    source = draw_source(trajectory, candidate.noise_source, t_star, noise)
    if candidate.noise_source != "gaussian" and reference_of is not None:
        source = source[reference_of]
    latents = mean + share * source.to(mean)
    if candidate.fusion == "B":
        return latents
    answer = base(latents, torch.tensor(t_star, device=latents.device))
    _, found = split_terms(latents, answer, alpha, trajectory.levels.prediction)
    return mean + share * found


def draw_source(
    trajectory: Trajectory, source: NoiseSource, t_star: int, noise: Tensor | None = None
) -> Tensor:
    """[R, C, h, w] the noise of the references that a fusion takes, or `noise` as it is for gaussian."""
    if source == "gaussian":
        if noise is None:
            raise InputError("noise", "not given", "the source gaussian needs some")
        return noise
    if source == "latent_T":
        return trajectory.latents[-1]
    return trajectory.latent(t_star) if source == "latent_t" else trajectory.noise(t_star)


def agreement(latents: Tensor, estimate: Tensor, base: NoiseModel, levels: Levels, t_star: int) -> Tensor:
    """[B] the root mean square difference between what the base sees as clean in `latents` [B, C, h, w] at t*
    and the estimate they were made of: how well a fused latent keeps the predicted view."""
    answer = base(latents, torch.tensor(t_star, device=latents.device))
    seen, _ = split_terms(latents, answer, levels.alpha(t_star), levels.prediction)
    return (seen - estimate).square().mean(dim=(1, 2, 3)).sqrt()
