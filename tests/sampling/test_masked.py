"""The masked sampler against Gaussian views whose conditional is known (see gaussian_toy.py)."""

from __future__ import annotations

import itertools

import pytest
import torch
from gaussian_toy import VIEWS, WIDTH, GaussianToy
from torch import Tensor

from manyview.sampling.masked import sample_masked
from manyview.sampling.noise import item_noise
from manyview.sampling.solvers import Prediction, Solver, build_solver

SUBSETS = [bits for bits in itertools.product([False, True], repeat=VIEWS) if not all(bits)]
STRICT = [bits for bits in SUBSETS if any(bits)]


def run(
    toy: GaussianToy,
    latents: Tensor,
    noise: Tensor,
    subset: tuple[bool, ...],
    solver: Solver = "ddim",
    steps: int = 200,
    **options: object,
) -> Tensor:
    observed = torch.tensor(subset).expand(len(latents), -1)
    made = build_solver(toy.scheduler, solver, steps)
    return sample_masked(toy, made, latents, observed, noise, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("subset", [(True, False, False), (False, True, True), (True, False, True)])
def test_samples_follow_the_conditional(prediction: Prediction, subset: tuple[bool, ...]) -> None:
    """20,000 answers to one observation have the mean and covariance of the Schur complement.

    Deviation of a sample mean: sqrt(S_ii / N) = 0.7 % of the deviation; of a covariance: at most
    sqrt(2 / N) = 1 % of the product of deviations. Five of these, and 1 % for 200 steps; with epsilon the
    start is off by sqrt(a_T) = 6.8 % of the conditional mean (Stable Diffusion's schedule), times S^1/2.
    """
    toy, count = GaussianToy(prediction), 20_000
    latents = toy.draw(1).float().expand(count, -1, -1, -1, -1)
    noise = item_noise(0, range(count), latents.shape[1:])
    drawn = run(toy, latents, noise, subset).double().flatten(1)
    m, c, gain, offset, cov = toy.conditional(torch.tensor(subset))
    mean = offset + gain @ latents[0].double().flatten()[c]
    scale = cov.diagonal().sqrt()
    start = 0.0 if prediction == "v_prediction" else 0.07 * float(mean.abs().max())
    assert ((drawn[:, m].mean(dim=0) - mean) / scale).abs().max() < 5 * 0.0071 + 0.01 + start
    error = (torch.cov(drawn[:, m].T) - cov) / (scale[:, None] * scale)
    assert error.abs().max() < 5 * 0.01 + 0.01
    # The test can tell: the unconditional covariance is far away.
    joint = toy.cov[m][:, m]
    assert ((joint - cov) / (scale[:, None] * scale)).abs().max() > 0.2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("solver", "steps"), [("ddim", 200), ("dpm", 100), ("unipc", 100)])
def test_map_from_noise_is_the_exact_flow(prediction: Prediction, solver: Solver, steps: int) -> None:
    """For every subset. A Gaussian flow is affine in the noise: no sampling error, every direction counts."""
    for subset in SUBSETS:
        toy = GaussianToy(prediction)
        latents = toy.draw(16)
        noise = item_noise(1, range(16), latents.shape[1:]).double()
        drawn = run(toy, latents, noise, subset, solver, steps)
        exact = toy.exact(latents, noise, torch.tensor(subset))
        assert (drawn - exact).abs().max() < 0.03, subset


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_error_falls_with_steps_and_order(prediction: Prediction) -> None:
    toy = GaussianToy(prediction)
    latents, subset = toy.draw(64), (False, True, False)
    noise = item_noise(2, range(64), latents.shape[1:]).double()
    exact = toy.exact(latents, noise, torch.tensor(subset))

    def error(solver: Solver, steps: int) -> float:
        return float((run(toy, latents, noise, subset, solver, steps) - exact).square().mean().sqrt())

    ddim = [error("ddim", steps) for steps in (10, 20, 50, 100, 200)]
    assert all(later < 0.7 * earlier for earlier, later in itertools.pairwise(ddim)), ddim
    assert error("dpm", 15) < 0.6 * error("ddim", 15)
    assert error("unipc", 15) < 0.6 * error("ddim", 15)
    assert error("dpm", 15) < error("ddim", 30)


def test_observed_slots_come_back_bit_for_bit() -> None:
    toy = GaussianToy("v_prediction")
    latents = toy.draw(5).float()
    noise = item_noise(3, range(5), latents.shape[1:])
    for subset in STRICT:
        drawn = run(toy, latents, noise, subset, "dpm", 8)
        known = torch.tensor(subset)
        assert torch.equal(drawn[:, known], latents[:, known])
        assert bool(torch.isfinite(drawn).all())  # the toy answers NaN there


def test_unobserved_latents_are_never_read() -> None:
    toy = GaussianToy("epsilon")
    latents = toy.draw(3)
    noise = item_noise(4, range(3), latents.shape[1:]).double()
    spoilt = latents.clone()
    spoilt[:, 1:] = 1e6
    for options in ({}, {"guidance": 3.0}):
        expected = run(toy, latents, noise, (True, False, False), "ddim", 10, **options)
        # The renoised state shows only observed slots' latents, the others as drawn so far.
        answer = run(toy, spoilt, noise, (True, False, False), "ddim", 10, **options)
        assert torch.equal(answer, expected)


def test_an_item_does_not_depend_on_its_batch() -> None:
    toy = GaussianToy("v_prediction")
    latents = toy.draw(8).float()
    noise = item_noise(6, range(8), latents.shape[1:])
    together = run(toy, latents, noise, (True, False, True), "dpm", 12)
    for index in range(8):
        part = slice(index, index + 1)
        alone = run(toy, latents[part], noise[part], (True, False, True), "dpm", 12)
        torch.testing.assert_close(alone, together[part], atol=1e-6, rtol=0)


def test_guidance_of_one_is_no_guidance() -> None:
    toy = GaussianToy("epsilon")
    latents = toy.draw(2)
    noise = item_noise(7, range(2), latents.shape[1:]).double()
    run(toy, latents, noise, (True, False, False), "ddim", 10, guidance=1.0)
    assert len(toy.calls) == 10  # one call a step
    plain = run(toy, latents, noise, (True, False, False), "ddim", 10)
    nearly = run(toy, latents, noise, (True, False, False), "ddim", 10, guidance=1.0 + 1e-9)
    assert len(toy.calls) == 40
    # Guided steps with scale 1 + 1e-9 take the branch and give the same.
    assert (nearly - plain).abs().max() < 1e-6


def test_guidance_extrapolates_from_the_unconditional_answer() -> None:
    """One step, written out: prediction = base + g (conditional - base)."""
    subset, g = (True, False, False), 3.0
    toy = GaussianToy("v_prediction")
    latents = toy.draw(4)
    noise = item_noise(8, range(4), latents.shape[1:]).double()
    guided = run(toy, latents, noise, subset, "ddim", 1, guidance=g)
    conditional = run(toy, latents, noise, subset, "ddim", 1)
    # At the last timestep a = 0: the state of training without references is pure noise, its answer the
    # joint mean. One DDIM step goes to z = a^.5 x - (1 - a)^.5 v, which is affine in v.
    free = run(toy, latents, noise, (False, False, False), "ddim", 1)
    missing = ~torch.tensor(subset)
    expected = free[:, missing] + g * (conditional - free)[:, missing]
    torch.testing.assert_close(guided[:, missing], expected, atol=1e-6, rtol=0)


def test_renoised_branch_sees_what_training_without_references_saw() -> None:
    toy = GaussianToy("v_prediction")
    latents, subset = toy.draw(2), torch.tensor([True, False, True])
    noise = item_noise(9, range(2), latents.shape[1:]).double()
    run(toy, latents, noise, tuple(subset.tolist()), "ddim", 4, guidance=2.0, unconditional="renoised")
    for conditional, free in zip(toy.calls[::2], toy.calls[1::2], strict=True):
        timestep = conditional["timestep"]
        assert torch.equal(free["timestep"], timestep)
        assert bool((conditional["observed"] == subset).all())
        assert bool((conditional["described"] == subset).all())
        assert torch.equal(conditional["latents"][:, subset], latents[:, subset])
        assert not bool(free["observed"].any())
        assert not bool(free["described"].any())
        # Observed slots at the noise level of the others, with the item's own noise ...
        level = timestep.expand(2)
        noisy = toy.scheduler.add_noise(latents, noise, level)  # type: ignore[arg-type]
        torch.testing.assert_close(free["latents"][:, subset], noisy[:, subset])
        # ... and the missing ones as they are.
        assert torch.equal(free["latents"][:, ~subset], conditional["latents"][:, ~subset])


def test_clean_branch_sees_clean_slots_without_embedding() -> None:
    toy = GaussianToy("v_prediction")
    latents, subset = toy.draw(2), torch.tensor([True, False, True])
    noise = item_noise(9, range(2), latents.shape[1:]).double()
    run(toy, latents, noise, tuple(subset.tolist()), "ddim", 4, guidance=2.0, unconditional="clean")
    for conditional, free in zip(toy.calls[::2], toy.calls[1::2], strict=True):
        assert torch.equal(free["latents"], conditional["latents"])
        assert torch.equal(free["observed"], conditional["observed"])
        assert not bool(free["described"].any())


def test_steps_are_reported() -> None:
    toy, seen = GaussianToy("epsilon"), []
    latents = toy.draw(1)
    run(toy, latents, torch.zeros_like(latents), (True, False, False), "unipc", 7, on_step=seen.append)
    assert seen == list(range(1, 8))
    assert latents.shape == (1, VIEWS, 1, 1, WIDTH)
