"""The means of inverted trajectories: known values with an oracle, kept on disk, gone on with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from tunet_sets import CHANNELS, posed

from manyview.errors import InputError
from manyview.methods.tunet.means import MeanOptions, cache_estimates, clean_estimates, latents_identity
from manyview.sampling.inversion import sample
from manyview.sampling.solvers import build_scheduler

OPTIONS = MeanOptions(t_star=600, steps=5)


class Gaussian:
    """The best noise model for latents that are normal with variance `spread`^2: of a latent x at level
    alpha_bar it tells s x / (alpha_bar spread^2 + s^2), s^2 = 1 - alpha_bar."""

    def __init__(self, scheduler, spread: float) -> None:
        self.alphas, self.spread, self.calls = scheduler.alphas_cumprod, spread, 0

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        alpha = float(self.alphas[int(timestep)])
        return latents * math.sqrt(1 - alpha) / (alpha * self.spread**2 + 1 - alpha)


def test_estimates_shrink_as_the_gaussian_says() -> None:
    """x0 = E[x0 | x] = sqrt(a) d^2 x / (a d^2 + 1 - a), and inversion keeps x at sqrt(a d^2 + 1 - a) / d of
    the clean latent; together sqrt(a) d / sqrt(a d^2 + 1 - a), approached as the steps get small."""
    scheduler = build_scheduler("epsilon")
    spread = 1.5
    clean = spread * torch.randn(4, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha = float(scheduler.alphas_cumprod[600])
    wanted = math.sqrt(alpha) * spread / math.sqrt(alpha * spread**2 + 1 - alpha)
    errors = []
    for steps in (10, 100):
        options = MeanOptions(t_star=600, steps=steps)
        model, levels = Gaussian(scheduler, spread), options.levels(scheduler)
        found = clean_estimates(clean, model, levels, options)
        errors.append(float((found / clean).mean() - wanted))
        assert model.calls == steps
    assert abs(errors[1]) < 0.005
    assert abs(errors[1]) < 0.3 * abs(errors[0])


def test_caches_are_found_again_and_gone_on_with(tmp_path: Path) -> None:
    scheduler = build_scheduler("epsilon")
    network = nn.Linear(2, 2)
    levels = OPTIONS.levels(scheduler)
    sets = posed([80, 60])

    def made(model, options=OPTIONS, net=network, data=sets):
        return cache_estimates(
            data, tmp_path, net, model, options.levels(scheduler), options, device=torch.device("cpu")
        )

    class Stopping(Gaussian):
        def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
            if self.calls >= 7:  # in the second shard of 64 views
                raise KeyboardInterrupt
            return super().__call__(latents, timestep)

    with pytest.raises(KeyboardInterrupt):
        made(Stopping(scheduler, 1.0))
    (folder,) = tmp_path.iterdir()
    first = next(folder.glob("latents_000000000_*"))
    before = first.stat().st_mtime_ns
    model = Gaussian(scheduler, 1.0)
    kept = made(model)
    assert first.stat().st_mtime_ns == before
    assert model.calls == 2 * 5  # the other two shards
    expected = clean_estimates(sets.latents.float(), Gaussian(scheduler, 1.0), levels, OPTIONS)
    torch.testing.assert_close(kept.latents.float(), expected, atol=1e-3, rtol=1e-3)
    assert kept.latents.dtype == torch.float16
    assert torch.equal(kept.starts, sets.starts)
    again = Gaussian(scheduler, 1.0)
    assert torch.equal(made(again).latents, kept.latents)
    assert again.calls == 0
    # Other weights, another t*, other data: caches of their own.
    made(again, net=nn.Linear(2, 2))
    made(again, MeanOptions(t_star=500, steps=5))
    made(again, MeanOptions(t_star=600, steps=4))
    made(again, data=posed([80, 60], mark=1.0))
    assert len(list(tmp_path.iterdir())) == 5


def test_identity_of_latents() -> None:
    latents = torch.randn(10, 2, 2, 2).half()
    changed = latents.clone()
    changed[9, 1, 1, 1] += 1
    assert latents_identity(latents) == latents_identity(latents.clone())
    assert latents_identity(latents) != latents_identity(changed)
    assert latents_identity(latents) != latents_identity(latents.reshape(5, 4, 2, 2))


def test_levels_end_at_t_star() -> None:
    levels = OPTIONS.levels(build_scheduler("epsilon"))
    assert levels.timesteps == (120, 240, 360, 480, 600)
    clean = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    zero = lambda latents, timestep: torch.zeros_like(latents)  # noqa: E731
    # A model that sees no noise: the estimate is the clean latent itself, and sampling gives it back.
    torch.testing.assert_close(clean_estimates(clean, zero, levels, OPTIONS), clean)
    scaled = math.sqrt(levels.alphas[-1]) * clean
    torch.testing.assert_close(sample(scaled, zero, levels), clean)


@pytest.mark.parametrize(("changes", "flag"), [({"t_star": 0}, "--t-star"), ({"steps": 601}, "--mean-steps")])
def test_refusals(changes: dict[str, int], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        MeanOptions(**changes)
