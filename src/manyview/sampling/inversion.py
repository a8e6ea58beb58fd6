"""DDIM forwards and backwards over one explicit list of timesteps, as an exact pair.

Song, Meng and Ermon 2020 (DDIM), section 4.3; terms as in the TUNet paper, equation 1. With c the root of a
level's alpha_bar and s that of 1 - alpha_bar, a latent is the sum of its mean c x0 and its noise term s eps,
where x0 and eps follow from what the model answers. One step, to another level of the list, keeps x0 and eps
and changes c and s.

What makes the two directions a pair: sampling leaves level k with what the model says *of the latent at level
k, at timestep t_k*. So the step of the inversion that arrives at level k needs the answer at t_k, not at the
level it comes from, and of a latent that it is about to find: x_k = F(x_{k-1}, model(x_k, t_k)), an implicit
equation. Its right side is linear in x_{k-1} and the answer, so given the answer the step is exactly the
inverse of the sampling step; the round trip is off only by what the answer changes between the latent it was
asked about and the latent that comes out. A model whose answer does not depend on the latent (an oracle)
gives x back to float precision; `refinements` ask again about the latent found and converge to it for any
model that is smooth enough; the guess that is asked about first costs nothing to choose well (`Guess`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.solvers import Prediction

Guess = Literal["carried", "previous"]
"""What an inversion step asks about first. `previous`: the latent it comes from, as it is, which is what
diffusers' `DDIMInverseScheduler` asks about. `carried`: that latent carried to the new level by the last
answer, for as many calls of the model and with an error of the next order."""
OnStep = Callable[[int], None]


class NoiseModel(Protocol):
    """A diffusion model, bound to all it is told beside latent and time."""

    def __call__(self, latents: Tensor, timestep: Tensor, /) -> Tensor:
        """[B, *] what `Levels.prediction` names, of latents [B, *] at timestep [] (int64)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The noise levels a trajectory passes, from low to high; below the first one lies the clean latent.

    Raises `InputError` for timesteps that do not rise.
    """

    timesteps: tuple[int, ...]
    """Rising, of the model's training schedule."""
    alphas: tuple[float, ...]
    """alpha_bar of each."""
    prediction: Prediction = "epsilon"
    """What the model answers with: epsilon, or v = c eps - s x0."""
    clean_alpha: float = 1.0
    """alpha_bar of what counts as the clean latent; Stable Diffusion has that of timestep 0."""

    def __post_init__(self) -> None:
        if not self.timesteps or any(b <= a for a, b in itertools.pairwise(self.timesteps)):
            raise InputError("timesteps", list(self.timesteps), "expected one or more, rising")
        if len(self.alphas) != len(self.timesteps):
            raise InputError("alphas", len(self.alphas), f"expected {len(self.timesteps)}")
        if self.prediction not in get_args(Prediction):
            accepted = f"expected one of {', '.join(get_args(Prediction))}"
            raise InputError("prediction", self.prediction, accepted)

    @classmethod
    def of(cls, scheduler: Any, timesteps: Sequence[int]) -> Levels:
        """On the schedule of a diffusers scheduler (`alphas_cumprod`, `prediction_type`,
        `final_alpha_cumprod`).

        Raises `InputError` for timesteps outside it or not rising.
        """
        table = scheduler.alphas_cumprod.double()
        for timestep in timesteps:
            if not 0 <= timestep < len(table):
                raise InputError("timesteps", timestep, f"expected 0 to {len(table) - 1}")
        return cls(
            timesteps=tuple(int(timestep) for timestep in timesteps),
            alphas=tuple(float(table[timestep]) for timestep in timesteps),
            prediction=scheduler.config["prediction_type"],
            clean_alpha=float(getattr(scheduler, "final_alpha_cumprod", 1.0)),
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    def index(self, timestep: int) -> int:
        """Where a timestep stands in the list. Raises `InputError` where it does not."""
        if timestep not in self.timesteps:
            raise InputError("timestep", timestep, f"expected one of {list(self.timesteps)}")
        return self.timesteps.index(timestep)

    def until(self, timestep: int) -> Levels:
        """The levels up to and with this one."""
        stop = self.index(timestep) + 1
        return replace(self, timesteps=self.timesteps[:stop], alphas=self.alphas[:stop])

    def alpha(self, timestep: int) -> float:
        """alpha_bar of a listed timestep."""
        return self.alphas[self.index(timestep)]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One inversion: the latents at all levels and what the model said of them.

    Everything that later steps choose (t*, the source of noise, any number of targets) is read off it.
    """

    levels: Levels
    clean: Tensor
    """[B, *] what was inverted."""
    latents: Tensor
    """[N, B, *] at each level."""
    estimates: Tensor
    """[N, B, *] the clean estimate x0 at each level."""
    noises: Tensor
    """[N, B, *] the estimated noise eps at each level, about unit variance."""

    def latent(self, timestep: int) -> Tensor:
        """[B, *] at a listed timestep; the sum of `mean` and `noise_term` there."""
        return self.latents[self.levels.index(timestep)]

    def estimate(self, timestep: int) -> Tensor:
        """[B, *] the clean estimate x0 at a listed timestep: `mean` / sqrt(alpha_bar)."""
        return self.estimates[self.levels.index(timestep)]

    def noise(self, timestep: int) -> Tensor:
        """[B, *] the estimated noise at a listed timestep."""
        return self.noises[self.levels.index(timestep)]

    def mean(self, timestep: int) -> Tensor:
        """[B, *] sqrt(alpha_bar) x0, the signal term of equation 1."""
        return math.sqrt(self.levels.alpha(timestep)) * self.estimate(timestep)

    def noise_term(self, timestep: int) -> Tensor:
        """[B, *] sqrt(1 - alpha_bar) eps, the variance term of equation 1."""
        return math.sqrt(1 - self.levels.alpha(timestep)) * self.noise(timestep)


def even_timesteps(last: int, count: int, *, beyond: int | None = None) -> tuple[int, ...]:
    """`count` timesteps up to `last` in even steps, of which the first is one step above the clean latent:
    20, 40, ..., 600 for 600 and 30. With `beyond` they go on at the same stride to it, which is the last.

    Raises `InputError` where they would not all differ.
    """
    if not 1 <= count <= last:
        raise InputError("--mean-steps", count, f"expected 1 to {last}, one timestep each")
    steps = [round(last * number / count) for number in range(1, count + 1)]
    if beyond is not None and beyond > last:
        stride = last / count
        more = math.ceil((beyond - last) / stride) - 1
        steps += [round(last + stride * number) for number in range(1, more + 1)]
        steps.append(beyond)
    return tuple(steps)


@torch.no_grad()
def invert(
    clean: Tensor,
    model: NoiseModel,
    levels: Levels,
    *,
    refinements: int = 0,
    guess: Guess = "carried",
    on_step: OnStep | None = None,
) -> Trajectory:
    """The DDIM trajectory from clean latents [B, *] through all `levels`, the inverse of `sample`.

    Every level costs one call of the model, and `refinements` more, each of which asks at the same timestep
    about the latent that the answer before led to (fixed-point iteration of the implicit step). `on_step`
    hears how many calls a level took. Raises `InputError` for fewer than 0 refinements.
    """
    if refinements < 0:
        raise InputError("--refinements", refinements, "expected 0 or more")
    if guess not in get_args(Guess):
        raise InputError("guess", guess, f"expected one of {', '.join(get_args(Guess))}")
    x, alpha = clean, levels.clean_alpha
    answer: Tensor | None = None
    latents, estimates, noises = [], [], []
    for timestep, upper in zip(levels.timesteps, levels.alphas, strict=True):
        time = torch.tensor(timestep, device=clean.device)
        asked = x
        if guess == "carried":
            # Of the first level nothing is known but the clean latent: its share of the level, no noise.
            asked = math.sqrt(upper / alpha) * x
            if answer is not None:
                asked = _ascend(x, answer, alpha, upper, levels.prediction)
        answer = model(asked, time)
        for _ in range(refinements):
            answer = model(_ascend(x, answer, alpha, upper, levels.prediction), time)
        x, alpha = _ascend(x, answer, alpha, upper, levels.prediction), upper
        if on_step is not None:
            on_step(refinements + 1)
        estimate, noise = split_terms(x, answer, alpha, levels.prediction)
        latents.append(x)
        estimates.append(estimate)
        noises.append(noise)
    return Trajectory(
        levels=levels,
        clean=clean,
        latents=torch.stack(latents),
        estimates=torch.stack(estimates),
        noises=torch.stack(noises),
    )


@torch.no_grad()
def sample(
    latents: Tensor,
    model: NoiseModel,
    levels: Levels,
    *,
    start: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """[B, *] the clean latents that deterministic DDIM reaches from `latents` [B, *] at timestep `start`, by
    default the last of `levels`, down the same list.

    The same numbers as diffusers' `DDIMScheduler` (eta 0) where it has this list. Raises `InputError` for a
    start that is not listed.
    """
    first = len(levels) - 1 if start is None else levels.index(start)
    x = latents
    for number in range(first, -1, -1):
        answer = model(x, torch.tensor(levels.timesteps[number], device=x.device))
        lower = levels.alphas[number - 1] if number else levels.clean_alpha
        x = _join(*split_terms(x, answer, levels.alphas[number], levels.prediction), lower)
        if on_step is not None:
            on_step(1)
    return x


def split_terms(
    latents: Tensor, answer: Tensor, alpha: float, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """The clean estimate x0 and the noise eps of latents at a level, of which c x0 + s eps are the latents,
    from the model's answer (epsilon or v)."""
    c, s = math.sqrt(alpha), math.sqrt(1 - alpha)
    if prediction == "epsilon":
        return (latents - s * answer) / c, answer
    return c * latents - s * answer, c * answer + s * latents


def _join(clean: Tensor, noise: Tensor, alpha: float) -> Tensor:
    return math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise


def _ascend(x: Tensor, answer: Tensor, lower: float, upper: float, prediction: Prediction) -> Tensor:
    """The latent at level `upper` from which sampling, given this answer, comes to `x` at level `lower`.

    For epsilon the step down is x = c0 (y - s1 eps) / c1 + s0 eps. For v it is x = cos(d) y - sin(d) v, a
    turn by the angle d between the levels (c = cos, s = sin of their angles); both are solved for y.
    """
    c0, s0 = math.sqrt(lower), math.sqrt(1 - lower)
    c1, s1 = math.sqrt(upper), math.sqrt(1 - upper)
    if prediction == "epsilon":
        return (x - s0 * answer) * (c1 / c0) + s1 * answer
    return (x + (c0 * s1 - s0 * c1) * answer) / (c0 * c1 + s0 * s1)
