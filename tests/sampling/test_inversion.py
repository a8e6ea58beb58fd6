"""The inversion pair: exact with an oracle, convergent with a model, diffusers' numbers on its list."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from gaussian_toy import GaussianToy
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.sampling.inversion import (
    Levels,
    NoiseModel,
    even_timesteps,
    invert,
    sample,
    split_terms,
)
from manyview.sampling.solvers import Prediction, build_scheduler

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")


def levels_of(prediction: Prediction, timesteps: tuple[int, ...]) -> Levels:
    return Levels.of(build_scheduler(prediction), timesteps)


def toy_model(toy: GaussianToy) -> NoiseModel:
    """The exact answer to all slots missing."""
    return lambda x, t: toy(x, t, torch.zeros(len(x), 3, dtype=torch.bool), torch.zeros(len(x), 3).bool())


def round_trip(toy: GaussianToy, x: Tensor, count: int, **how: Any) -> float:
    """The largest error of sample(invert(x))."""
    levels, model = Levels.of(toy.scheduler, even_timesteps(600, count)), toy_model(toy)
    back = sample(invert(x, model, levels, **how).latents[-1], model, levels)
    return float((back - x).abs().max())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("guess", ["carried", "previous"])
def test_oracle_comes_back_exactly(prediction: Prediction, guess: Any) -> None:
    # Its answer depends on the timestep, so the two directions have to ask at the same ones.
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=draws, dtype=torch.float64)
    table = torch.randn(1000, 2, 3, 4, 4, generator=draws, dtype=torch.float64)
    levels = levels_of(prediction, (7, 60, 300, 301, 640, 990))
    asked: list[int] = []

    def oracle(latents: Tensor, timestep: Tensor) -> Tensor:
        asked.append(int(timestep))
        return table[timestep]

    trajectory = invert(x, oracle, levels, guess=guess)
    back = sample(trajectory.latents[-1], oracle, levels)
    assert asked == [*levels.timesteps, *reversed(levels.timesteps)]
    assert_close(back, x, rtol=0, atol=1e-11)


def test_oracle_comes_back_in_single_precision() -> None:
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    levels = levels_of("epsilon", even_timesteps(600, 30))
    assert_close(
        sample(invert(x, lambda *_: noise, levels).latents[-1], lambda *_: noise, levels),
        x,
        rtol=0,
        atol=2e-5,
    )


def test_zero_snr_can_be_passed() -> None:
    levels = levels_of("v_prediction", (200, 400, 600, 800, 999))
    assert levels.alphas[-1] < 1e-12
    x, answer = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    back = sample(invert(x, lambda *_: answer, levels).latents[-1], lambda *_: answer, levels)
    assert_close(back, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_refinements_converge(prediction: Prediction) -> None:
    toy = GaussianToy(prediction)
    x = toy.draw(32)
    errors = [round_trip(toy, x, 30, refinements=count) for count in (0, 1, 3, 12)]
    for worse, better in itertools.pairwise(errors):
        assert better < worse / 3
    assert errors[-1] < 1e-9


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("count", [10, 30])
def test_carried_guess_is_more_accurate_for_as_many_calls(prediction: Prediction, count: int) -> None:
    toy = GaussianToy(prediction)
    x = toy.draw(32)
    assert round_trip(toy, x, count, guess="carried") < 0.8 * round_trip(toy, x, count, guess="previous")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_terms_sum_to_the_latent(prediction: Prediction) -> None:
    toy = GaussianToy(prediction)
    levels = Levels.of(toy.scheduler, even_timesteps(600, 6, beyond=999))
    trajectory = invert(toy.draw(4), toy_model(toy), levels)
    for timestep in levels.timesteps:
        alpha = float(toy.scheduler.alphas_cumprod[timestep].double())
        total = trajectory.mean(timestep) + trajectory.noise_term(timestep)
        assert_close(total, trajectory.latent(timestep), rtol=0, atol=1e-12)
        assert_close(trajectory.mean(timestep), math.sqrt(alpha) * trajectory.estimate(timestep))
        assert_close(trajectory.noise_term(timestep), math.sqrt(1 - alpha) * trajectory.noise(timestep))


@pytest.mark.parametrize("count", [50, 200])
def test_inversion_follows_the_flow(count: int) -> None:
    # The toy knows where the probability-flow ODE takes a noise; DDIM is its method of order 1.
    toy = GaussianToy("v_prediction")
    levels, x = Levels.of(toy.scheduler, even_timesteps(999, count)), toy.draw(16)
    noise = invert(x, toy_model(toy), levels, refinements=1).latents[-1]
    error = toy.exact(noise, noise, torch.zeros(3, dtype=torch.bool)) - x
    assert float(error.abs().max()) < 10 / count


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sampling_is_diffusers_ddim(prediction: Prediction) -> None:
    scheduler = build_scheduler(prediction)
    scheduler.set_timesteps(10)
    steps = tuple(int(step) for step in reversed(scheduler.timesteps))
    toy = GaussianToy(prediction)
    model, noise = toy_model(toy), torch.randn(3, 3, 1, 1, 2, dtype=torch.float64)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(x, timestep), int(timestep), x).prev_sample  # type: ignore[attr-defined]
    assert_close(sample(noise, model, Levels.of(scheduler, steps)), x, rtol=1e-5, atol=1e-6)


def test_previous_guess_is_diffusers_inversion() -> None:
    shared: dict[str, Any] = {
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "beta_schedule": "scaled_linear",
    }
    inverse = DDIMInverseScheduler(beta_start=0.00085, beta_end=0.012, **shared)
    inverse.set_timesteps(50)
    steps = [int(step) for step in inverse.timesteps][:31]
    toy = GaussianToy("epsilon")
    model, x = toy_model(toy), toy.draw(5)
    theirs = x
    for timestep in steps:
        theirs = inverse.step(model(theirs, torch.tensor(timestep)), timestep, theirs).prev_sample
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, **shared)
    levels = Levels.of(scheduler, steps)
    ours = invert(x, model, levels, guess="previous")
    assert_close(ours.latents[-1], theirs, rtol=1e-5, atol=1e-6)
    assert_close(ours.latent(steps[-1]), theirs, rtol=1e-5, atol=1e-6)


def test_an_item_does_not_depend_on_its_batch() -> None:
    toy = GaussianToy("epsilon")
    levels, x = Levels.of(toy.scheduler, even_timesteps(600, 5)), toy.draw(6)
    together = invert(x, toy_model(toy), levels).latents
    alone = invert(x[2:3], toy_model(toy), levels).latents
    assert_close(together[:, 2:3], alone)


def test_timesteps() -> None:
    assert even_timesteps(600, 30) == tuple(range(20, 601, 20))
    assert even_timesteps(600, 10)[-1] == 600
    assert even_timesteps(600, 6, beyond=999) == (100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
    assert even_timesteps(600, 6, beyond=600) == even_timesteps(600, 6)
    for last, count in ((600, 0), (600, 601)):
        with pytest.raises(InputError, match="--mean-steps"):
            even_timesteps(last, count)


def test_levels_refuse_what_does_not_fit() -> None:
    scheduler = build_scheduler("epsilon")
    for steps in ((), (5, 5), (9, 3), (0, 1000)):
        with pytest.raises(InputError, match="timesteps"):
            Levels.of(scheduler, steps)
    levels = Levels.of(scheduler, (10, 20, 30))
    assert levels.until(20).timesteps == (10, 20)
    with pytest.raises(InputError, match="timestep"):
        sample(torch.zeros(1, 1), lambda x, t: x, levels, start=15)
    with pytest.raises(InputError, match="refinements"):
        invert(torch.zeros(1, 1), lambda x, t: x, levels, refinements=-1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_terms_of_known_latents(prediction: Prediction) -> None:
    clean, noise = torch.tensor([2.0]), torch.tensor([-1.0])
    alpha = 0.36  # c = 0.6, s = 0.8
    latents = 0.6 * clean + 0.8 * noise
    answer = noise if prediction == "epsilon" else 0.6 * noise - 0.8 * clean
    for found, wanted in zip(split_terms(latents, answer, alpha, prediction), (clean, noise), strict=True):
        assert_close(found, wanted)
