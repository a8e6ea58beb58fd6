"""The named solvers: their schedules, and that each ends at clean latents."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.solvers import (
    SOLVERS,
    Prediction,
    Solver,
    build_scheduler,
    build_solver,
    draw_timesteps,
)


def walk(solver: object, start: Tensor, answer: object) -> Tensor:
    x = start
    for timestep in solver.timesteps:  # type: ignore[attr-defined]
        x = solver.step(answer(x, timestep), timestep, x).prev_sample  # type: ignore[attr-defined, operator]
    return x


def test_schedule_is_stable_diffusions() -> None:
    # beta_t = (linspace(0.00085^.5, 0.012^.5, 1000))^2, a_t = prod (1 - beta)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    expected = (1 - betas).cumprod(0)
    torch.testing.assert_close(
        build_scheduler("epsilon").alphas_cumprod.double(), expected, atol=1e-6, rtol=1e-4
    )


def test_velocity_training_ends_in_pure_noise() -> None:
    levels = build_scheduler("v_prediction").alphas_cumprod
    assert float(levels[-1]) == 0
    assert abs(float(levels[0]) - float(build_scheduler("epsilon").alphas_cumprod[0])) < 1e-4
    assert bool((levels.diff() < 0).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_any_step_count_is_kept(prediction: Prediction, solver: Solver) -> None:
    # 61, 103, 121 and 122 are counts at which a float range has a number too many (timestep -1).
    scheduler = build_scheduler(prediction)
    for steps in (*range(1, 32), 50, 61, 103, 121, 122, 333, 999, 1000):
        made = build_solver(scheduler, solver, steps)
        assert len(made.timesteps) == steps
        assert int(made.timesteps[0]) == 999  # starts where training ends
        assert int(made.timesteps[-1]) >= 0
        assert bool((made.timesteps.diff() < 0).all())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 4, 7, 15, 20, 30, 50, 61])
def test_a_perfect_network_gives_its_picture_exactly(solver: Solver, steps: int) -> None:
    """If the answer always points at one picture z, every solver must end at z, with no noise left."""
    scheduler = build_scheduler("v_prediction")
    picture, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()

    def answer(x: Tensor, timestep: Tensor) -> Tensor:
        a = scheduler.alphas_cumprod[timestep].double()
        estimate = (x - a.sqrt() * picture) / (1 - a).sqrt()
        return (a.sqrt() * estimate - (1 - a).sqrt() * picture).float()

    drawn = walk(build_solver(scheduler, solver, steps), noise, answer)
    assert (drawn - picture).abs().max() < 2e-3


def test_ddim_of_uneven_steps_is_the_same_solver() -> None:
    """Counts that do not divide 1000 go through DPM-Solver++ of order 1; where both exist they agree."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = build_scheduler("epsilon")
    ddim = build_solver(scheduler, "ddim", 50)
    assert isinstance(ddim, DDIMScheduler)
    first = build_solver(scheduler, "ddim", 15)
    assert isinstance(first, DPMSolverMultistepScheduler)
    first.set_timesteps(50)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(2)) / 4

    def answer(x: Tensor, timestep: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", mix, x) * (timestep / 1000) + 0.5 * x

    torch.testing.assert_close(walk(first, noise, answer), walk(ddim, noise, answer), atol=1e-3, rtol=1e-3)


def test_every_call_gives_a_solver_without_memory() -> None:
    scheduler = build_scheduler("v_prediction")
    noise = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    once = walk(build_solver(scheduler, "dpm", 6), noise, lambda x, t: x * 0.3)
    assert torch.equal(walk(build_solver(scheduler, "dpm", 6), noise, lambda x, t: x * 0.3), once)
    assert not scheduler.num_inference_steps  # the weights' own scheduler is left alone


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(InputError, match=rf"--steps: {steps}: expected 1 to 1000"):
        build_solver(build_scheduler("epsilon"), "ddim", steps)


def test_unknown_solvers_are_refused() -> None:
    with pytest.raises(InputError, match="--solver: euler: expected one of ddim, dpm, unipc"):
        build_solver(build_scheduler("epsilon"), "euler", 10)  # type: ignore[arg-type]


def test_training_times_follow_their_density() -> None:
    """P(t < 1000 x) = x^(1 / exponent): of 4000 draws at exponent 0.5 a quarter lies below 500, +-3 sigma."""
    for exponent, below in ((1.0, 0.5), (0.5, 0.25), (2.0, 0.5**0.5)):
        times = draw_timesteps(3, range(4000), (), 1, exponent)
        assert times.dtype == torch.int64
        assert int(times.min()) >= 0
        assert int(times.max()) <= 999
        assert abs(float((times < 500).float().mean()) - below) < 3 * (below * (1 - below) / 4000) ** 0.5
    assert torch.equal(draw_timesteps(3, [7], (2,), 1, 0.5)[0], draw_timesteps(3, [5, 7], (2,), 1, 0.5)[1])
