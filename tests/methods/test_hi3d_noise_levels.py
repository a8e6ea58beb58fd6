"""Noise levels, guidance over frames, blending and the vector of conditions, by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.hi3d.conditions import sinusoids, vector_condition
from manyview.methods.hi3d.guidance import blend_coarse, blend_share, frame_guidance, guide
from manyview.methods.hi3d.noise_levels import (
    add_noise,
    build_scheduler,
    draw_log_normal,
    loss_weight,
    scalings,
    start_solver,
    velocity,
)


def test_sigmas_have_even_seventh_roots():
    solver = start_solver(build_scheduler(80.0, 0.01), 10)
    assert len(solver.sigmas) == 11
    assert_close(solver.sigmas[[0, 9, 10]], torch.tensor([80.0, 0.01, 0.0]))
    steps = solver.sigmas[:10].double().pow(1 / 7).diff()
    assert_close(steps, steps[:1].expand(9), atol=1e-5, rtol=0)
    assert_close(solver.timesteps, solver.sigmas[:10].log() / 4)
    assert float(solver.init_noise_sigma) == pytest.approx(math.hypot(80, 1))


@pytest.mark.parametrize("number", [0, 1001])
def test_refused_steps(number):
    with pytest.raises(InputError, match="--steps"):
        start_solver(build_scheduler(), number)
    with pytest.raises(InputError, match="sigma_max"):
        build_scheduler(0.001, 0.002)


def test_velocity_leads_back_to_the_clean_values():
    sigma = torch.tensor([0.002, 0.7, 700.0], dtype=torch.float64)
    clean, noise = torch.randn(2, 3, 5, 2, dtype=torch.float64).unbind()
    noisy, answer = add_noise(clean, noise, sigma), velocity(clean, noise, sigma)
    c_skip, c_out, c_in, _ = (part[:, None, None] for part in scalings(sigma))
    assert_close(c_skip * noisy + c_out * answer, clean)
    # Unit data and unit noise give the network inputs and targets of unit variance.
    wide = torch.randn(2, 3, 200_000)
    read = add_noise(*wide, sigma) * c_in[:, 0].float()
    assert_close(read.std(dim=1), torch.ones(3), atol=0.02, rtol=0)
    assert_close(velocity(*wide, sigma).std(dim=1), torch.ones(3), atol=0.02, rtol=0)
    # An error of the velocity is the weighted error of the clean values.
    wrong = answer + 0.3
    error = (c_skip * noisy + c_out * wrong - clean).square() * loss_weight(sigma)[:, None, None]
    assert_close(error, torch.full_like(error, 0.09))


def test_euler_steps_find_what_a_perfect_network_knows():
    """If all data are one tensor, the denoised answer is it at every level, and so the steps end there."""
    known = torch.randn(1, 4, 2, 2, 2)
    solver = start_solver(build_scheduler(), 7)
    x = torch.randn(1, 4, 2, 2, 2) * solver.init_noise_sigma
    for step, time in enumerate(solver.timesteps):
        c_skip, c_out, _, _ = scalings(solver.sigmas[step])
        solver.scale_model_input(x, time)
        x = solver.step((known - c_skip * x) / c_out, time, x, return_dict=False)[0]
    assert_close(x, known, atol=1e-4, rtol=0)


def test_log_normal_draws():
    items = torch.arange(4000)
    drawn = draw_log_normal(0, items, 3, -3.0, 0.5)
    assert float(drawn.log().mean()) == pytest.approx(-3, abs=0.03)
    assert float(drawn.log().std()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(draw_log_normal(0, items[7:9], 3, -3.0, 0.5), drawn[7:9])


def test_guidance_shapes():
    assert_close(frame_guidance(16, 1.0, 2.5), torch.linspace(1, 2.5, 16))
    bent = frame_guidance(16, 1.0, 3.0, "triangular")
    assert float(bent[0]) == 1
    assert float(bent.max()) == float(bent[8]) == 3
    # Round the closed orbit no step is larger than another, and both ways from the input are alike.
    assert_close((bent - bent.roll(1)).abs(), torch.full((16,), 0.25))
    assert_close(bent[1:], bent[1:].flip(0))
    assert frame_guidance(3, 1.0, 2.0, "constant").tolist() == [1, 2, 2]
    assert frame_guidance(1, 1.0, 2.0).tolist() == [1]
    with pytest.raises(InputError, match="guidance-shape: wave"):
        frame_guidance(16, 1.0, 2.0, "wave")
    with pytest.raises(InputError, match="--guidance"):
        frame_guidance(16, -1.0, 2.0)


def test_guide_and_blend():
    blind, seeing = torch.randn(2, 2, 3, 4, 2, 2).unbind()
    made = guide(blind, seeing, torch.tensor([0.0, 1.0, 2.0]))
    assert_close(made[:, 0], blind[:, 0])
    assert_close(made[:, 1], seeing[:, 1])
    assert_close(made[:, 2], 2 * seeing[:, 2] - blind[:, 2])
    shares = [blend_share(step, 25) for step in range(25)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    # The published schedule: .67 at step 5, .20 at 10, .03 at 15, about nothing from 20 on.
    assert [round(shares[step], 2) for step in (5, 10, 15, 20)] == [0.67, 0.2, 0.03, 0.0]
    x, coarse, noise = torch.randn(3, 5).unbind()
    assert_close(blend_coarse(x, coarse, noise, 2.0, 0.25), 0.75 * x + 0.25 * coarse + 0.5 * noise)


def test_vector_of_conditions():
    told = torch.tensor([30.0, -10.0]), torch.tensor([0.02, 0.5])
    both = vector_condition(*told, 8)
    assert both.shape == (2, 16)
    assert_close(both, torch.cat([sinusoids(told[0], 8), sinusoids(told[1], 8)], dim=1))
    # cos and sin of the value itself come first in their halves.
    assert_close(both[0, [0, 4]], torch.tensor([math.cos(30), math.sin(30)]))
    slotted = vector_condition(*told, 8, slots=3)
    assert_close(slotted, torch.cat([torch.zeros(2, 8), both], dim=1))
    scored = vector_condition(*told, 8, slots=3, aesthetic=torch.tensor([5.0, 6.0]))
    assert scored[:, 0].tolist() == [5, 6]
    assert_close(scored[:, 8:], both)
    with pytest.raises(InputError, match="no slot for a score"):
        vector_condition(*told, 8, aesthetic=torch.tensor([5.0, 6.0]))
    with pytest.raises(InputError, match="vector slots"):
        vector_condition(*told, 8, slots=4)
