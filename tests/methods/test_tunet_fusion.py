"""Fusion: with the truth it is the DDIM reconstruction; its identities; and the choice among candidates."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_dimvis import codec_and_encoder
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.tunet.fusion import (
    Candidate,
    agreement,
    draw_source,
    fuse,
    make_candidate,
    parse_candidate,
)
from manyview.methods.tunet.select import encoder_distance, lowest, pick
from manyview.sampling.inversion import Levels, NoiseModel, Trajectory, even_timesteps, invert, sample
from manyview.sampling.solvers import Prediction, build_scheduler

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")
T_STAR = 600
SOURCES = ("latent_t", "latent_T", "eps_t", "gaussian")


def draw(seed: int, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 3, generator=generator, dtype=torch.float64)


def gaussian_base(prediction: Prediction) -> tuple[Levels, NoiseModel]:
    """The exact answer for data of variance 0.25 about 0: s x / P for eps, with P the variance of x there."""
    scheduler = build_scheduler(prediction)
    table = scheduler.alphas_cumprod.double()

    def answer(x: Tensor, timestep: Tensor) -> Tensor:
        a = table[timestep]
        variance = 0.25 * a + 1 - a
        noise, clean = (1 - a).sqrt() * x / variance, 0.25 * a.sqrt() * x / variance
        return noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean

    return Levels.of(scheduler, even_timesteps(T_STAR, 10, beyond=999)), answer


def inverted(prediction: Prediction = "epsilon", count: int = 2) -> tuple[Trajectory, NoiseModel]:
    levels, base = gaussian_base(prediction)
    return invert(0.5 * draw(1, count), base, levels, refinements=40), base


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_true_mean_and_true_noise_give_the_reconstruction(prediction: Prediction) -> None:
    levels, base = gaussian_base(prediction)
    target = 0.5 * draw(2)
    true = invert(target, base, levels, refinements=40)
    estimate = true.estimate(T_STAR)
    # B with the target's own noise: the target's latent at t*, and from there the target.
    again = fuse(estimate, true, base, Candidate(fusion="B", noise_source="eps_t"), t_star=T_STAR)
    assert_close(again, true.latent(T_STAR), rtol=0, atol=1e-9)
    assert_close(sample(again, base, levels, start=T_STAR), target, rtol=0, atol=1e-8)
    # A asks the base about that very latent, so its own answer comes back.
    first = fuse(estimate, true, base, Candidate(fusion="A", noise_source="eps_t"), t_star=T_STAR)
    assert_close(first, true.latent(T_STAR), rtol=0, atol=1e-8)
    assert_close(sample(first, base, levels, start=T_STAR), target, rtol=0, atol=1e-8)
    assert_close(agreement(first, estimate, base, levels, T_STAR), torch.zeros(4).double(), rtol=0, atol=1e-8)


def test_a_reaches_the_target_from_the_references_noise_with_an_oracle() -> None:
    # A base that knows the target's noise: whatever noise stands there first, A puts the target's own back.
    reference, base = inverted(count=4)
    target = 0.5 * draw(5)
    levels = reference.levels
    true = invert(target, base, levels, refinements=40)

    def oracle(x: Tensor, timestep: Tensor) -> Tensor:
        return true.noise(int(timestep))

    for source in SOURCES:
        way = Candidate(fusion="A", noise_source=source)  # pyright: ignore
        found = fuse(true.estimate(T_STAR), reference, oracle, way, t_star=T_STAR, noise=draw(9))
        assert_close(found, true.latent(T_STAR), rtol=0, atol=1e-9)
        assert_close(sample(found, oracle, levels, start=T_STAR), target, rtol=0, atol=1e-8)


@pytest.mark.parametrize("source", SOURCES)
def test_b_adds_the_source_with_one_coefficient(source: str) -> None:
    trajectory, base = inverted()
    estimate, of, noise = draw(3, 5), torch.tensor([0, 1, 1, 0, 1]), draw(4, 5)
    way = make_candidate("B", source)
    found = fuse(estimate, trajectory, base, way, t_star=T_STAR, reference_of=of, noise=noise)
    alpha = float(build_scheduler("epsilon").alphas_cumprod[T_STAR].double())
    level = trajectory.levels.index(T_STAR)
    taken = {
        "latent_t": trajectory.latents[level][of],
        "latent_T": trajectory.latents[-1][of],
        "eps_t": trajectory.noises[level][of],
        "gaussian": noise,
    }[source]
    assert_close(found, math.sqrt(alpha) * estimate + math.sqrt(1 - alpha) * taken)


def test_sources_are_about_white_and_the_misprint_is_not_there() -> None:
    trajectory, _ = inverted(count=64)
    for source in ("latent_T", "eps_t"):
        assert float(draw_source(trajectory, source, T_STAR).std()) == pytest.approx(1, abs=0.3)  # pyright: ignore
    # 1 + alpha in place of 1 - alpha would put this much more noise on the latent.
    alpha = trajectory.levels.alpha(T_STAR)
    assert math.sqrt((1 + alpha) / (1 - alpha)) == pytest.approx(1.176, abs=0.001)


def test_candidates_are_read_as_they_are_named() -> None:
    for text in ("A:eps_t", "A:gaussian", "B:latent_T", "B:latent_t", "mean"):
        assert parse_candidate(text).name == text
    assert parse_candidate("A") == parse_candidate("A:eps_t")
    assert parse_candidate(" B ") == parse_candidate("B:latent_T")
    for text in ("C", "A:white", "mean:eps_t", "", "a"):
        with pytest.raises(InputError, match="--candidates"):
            parse_candidate(text)
    with pytest.raises(InputError, match="--fusion"):
        make_candidate("D")
    with pytest.raises(InputError, match="--noise-source"):
        make_candidate("A", "pink")


def test_refuses_what_has_no_latent() -> None:
    trajectory, base = inverted()
    with pytest.raises(InputError, match="mean"):
        fuse(draw(0, 2), trajectory, base, make_candidate("mean"), t_star=T_STAR)
    with pytest.raises(InputError, match="timestep"):
        fuse(draw(0, 2), trajectory, base, make_candidate("A"), t_star=601)
    with pytest.raises(InputError, match="noise"):
        fuse(draw(0, 2), trajectory, base, make_candidate("B", "gaussian"), t_star=T_STAR)


def test_agreement_prefers_the_latent_that_keeps_the_estimate() -> None:
    trajectory, base = inverted(count=3)
    estimate, levels = trajectory.estimate(T_STAR), trajectory.levels
    good = trajectory.latent(T_STAR)
    scores = torch.stack(
        [agreement(x, estimate, base, levels, T_STAR) for x in (good + 0.5, good, good + draw(8, 3))]
    )
    assert lowest(scores).tolist() == [1, 1, 1]
    assert_close(scores[1], torch.zeros(3).double(), rtol=0, atol=1e-6)


def test_pick_takes_row_by_row() -> None:
    table = torch.arange(6).reshape(3, 2)
    assert pick(table, torch.tensor([2, 0])).tolist() == [4, 1]
    assert lowest(torch.tensor([[1.0, 2.0], [1.0, 0.5]])).tolist() == [0, 1]


@torch.no_grad()
def test_encoder_distance_is_lowest_for_the_same_picture() -> None:
    torch.manual_seed(0)
    _, encoder = codec_and_encoder()
    images = torch.rand(3, 3, 16, 16)
    same, other = encoder_distance(encoder, images, images), encoder_distance(encoder, images.flip(0), images)
    assert_close(same, torch.zeros(3), rtol=0, atol=1e-5)
    assert float(other[0]) > 1e-4
