"""The view-conditioned diffusion model: noise levels, loss, samplers, the denoiser's options."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_sparsefusion import tiny_unet
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.sparsefusion.noise_levels import (
    add_noise,
    cosine_log_snr,
    level_times,
    p2_weight,
    remove_noise,
    signal_and_noise,
    step_back,
)
from manyview.methods.sparsefusion.unet import VldmUnet, build_vldm
from manyview.methods.sparsefusion.vldm import (
    build_scheduler,
    denoising_loss,
    keep_condition,
    published_steps,
    sample_latents,
)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_levels():
    # alpha^2 = cos^2((t + .008) / 1.008 pi / 2): a half at t = 0.496, where the angle is pi / 4.
    times = torch.tensor([0.496, 0.2], dtype=torch.float64)
    expected = math.cos(0.208 / 1.008 * math.pi / 2) ** 2
    alpha, sigma = signal_and_noise(cosine_log_snr(times))
    assert_close(alpha**2, torch.tensor([0.5, expected], dtype=torch.float64))
    assert_close(alpha**2 + sigma**2, torch.ones(2, dtype=torch.float64))
    assert_close(p2_weight(torch.tensor([0.0])), torch.tensor([2**-0.5]))


def test_noise_comes_off_again():
    clean, noise, level = draws(2, 3, 4), draws(2, 3, 4, seed=1), torch.tensor([1.0, -2.0])
    assert_close(remove_noise(add_noise(clean, noise, level), noise, level), clean, atol=1e-5, rtol=1e-5)


def test_a_step_back_has_the_right_mean_and_variance():
    # x at a level has mean alpha clean and variance sigma^2; after the step the same holds one level on.
    level, after = torch.tensor([-1.0]), torch.tensor([0.7])
    (alpha, sigma), (next_alpha, next_sigma) = signal_and_noise(level), signal_and_noise(after)
    zero, one = torch.zeros(1), torch.ones(1)
    from_noisy, variance = step_back(one, zero, level, after)
    from_clean, _ = step_back(zero, one, level, after)
    assert_close(from_noisy * alpha + from_clean, next_alpha)
    assert_close(from_noisy**2 * sigma**2 + variance, next_sigma**2)


@pytest.mark.parametrize("solver", ["ddim", "plms"])
def test_the_schedulers_levels_are_ours(solver):
    made = build_scheduler(solver, 7, 0.7)
    # Seven levels at 0.1, 0.2 ... 0.7; PLMS visits the second twice (its Heun start).
    assert_close(level_times(7, 0.7), torch.arange(1, 8, dtype=torch.float64) / 10)
    angle = (level_times(7, 0.7) + 0.008) / 1.008 * math.pi / 2
    assert_close(made.alphas_cumprod, (angle.cos() ** 2).float())
    visited = made.timesteps.tolist()
    assert visited == [6, 5, 4, 3, 2, 1, 0] if solver == "ddim" else [6, 5, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("solver", ["ddim", "plms"])
@pytest.mark.parametrize(("t_max", "num_steps"), [(0.99, 1), (0.99, 13), (0.999, 5), (0.31, 2)])
def test_a_known_latent_is_found(solver, t_max, num_steps):
    # Where all mass is on one latent the exact noise is (x - alpha clean) / sigma, and every step is exact.
    clean, noise = draws(1, 2, 4, 4), draws(3, 2, 4, 4, seed=1)

    def exact(x, log_snr, condition, keep=None):
        alpha, sigma = signal_and_noise(log_snr.double())
        wide = (-1, 1, 1, 1)
        return ((x - alpha.view(wide) * clean) / sigma.view(wide)).float()

    found = sample_latents(exact, noise, noise, t_max=t_max, num_steps=num_steps, solver=solver)
    # Rounding of x grows by sigma / alpha on the way to the clean latent: up to 640 times at 0.999.
    tolerance = 1e-4 if t_max < 0.9 else 3e-2
    assert_close(found, clean.expand(3, -1, -1, -1), atol=tolerance, rtol=0)


def test_ddim_on_standard_normal_latents():
    # For clean latents N(0, 1) the best guess of the noise is sigma x, of the clean latent alpha x; a DDIM
    # step multiplies by alpha' alpha + sigma' sigma, and the last one (to alpha' = 1) by alpha.
    noise = draws(2, 2, 4, 4)

    def exact(x, log_snr, condition, keep=None):
        return signal_and_noise(log_snr)[1].view(-1, 1, 1, 1) * x

    alpha, sigma = signal_and_noise(cosine_log_snr(level_times(4, 0.8)))
    factor = alpha[0] * torch.prod(alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:])
    assert_close(sample_latents(exact, noise, noise, t_max=0.8, num_steps=4), noise * factor.float())
    # In the limit of many steps the map is the identity: the noise has the latents' own distribution.
    for solver, steps, tolerance in (("ddim", 200, 0.02), ("plms", 40, 0.02)):
        found = sample_latents(exact, noise, noise, t_max=0.99, num_steps=steps, solver=solver)
        assert_close(found, noise, atol=tolerance * float(noise.abs().max()), rtol=0)


def test_a_start_is_noised_to_t_max():
    unet, condition = tiny_unet(), draws(2, 8, 4, 4, seed=2)
    start, noise = draws(2, 2, 4, 4), draws(2, 2, 4, 4, seed=1)
    level = cosine_log_snr(torch.tensor([0.4, 0.4]))
    given = sample_latents(unet, condition, noise, start=start, t_max=0.4, num_steps=3)
    by_hand = sample_latents(unet, condition, add_noise(start, noise, level), t_max=0.4, num_steps=3)
    assert_close(given, by_hand, atol=1e-5, rtol=0)
    # A little noise takes little away: the start comes back nearly as it was.
    near = sample_latents(unet, condition, noise, start=start, t_max=0.004, num_steps=2)
    assert_close(near, start, atol=0.1, rtol=0)


def test_guidance():
    unet, condition, noise = tiny_unet(), draws(2, 8, 4, 4), draws(2, 2, 4, 4, seed=1)
    level = cosine_log_snr(level_times(1, 0.5)).float().expand(2)
    with torch.no_grad():
        seeing = unet(noise, level, condition)
        blind = unet(noise, level, condition, torch.zeros(2, dtype=torch.bool))
    assert_close(blind, unet(noise, level, torch.zeros_like(condition)))
    assert float((seeing - blind).abs().max()) > 1e-3
    guided = blind + 3.0 * (seeing - blind)
    expected = remove_noise(noise, guided, level).clamp(-10, 10)
    found = sample_latents(unet, condition, noise, t_max=0.5, num_steps=1, guidance=3.0)
    assert_close(found, expected.detach(), atol=1e-5, rtol=0)


def test_an_items_result_does_not_depend_on_its_batch():
    unet, condition, noise = tiny_unet(), draws(3, 8, 4, 4), draws(3, 2, 4, 4, seed=1)
    together = sample_latents(unet, condition, noise, num_steps=4, solver="plms")
    alone = sample_latents(unet, condition[1:2], noise[1:2], num_steps=4, solver="plms")
    assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_the_released_sampler_is_behind_its_name():
    unet, condition, start = tiny_unet(), draws(1, 8, 4, 4), draws(1, 2, 4, 4, seed=1)
    first, others = draws(1, 2, 4, 4, seed=2), draws(1, 2, 4, 4, seed=3)
    options = {"start": start, "t_max": 0.5, "num_steps": 3, "solver": "released"}
    one = sample_latents(unet, condition, first, draw=lambda: first, **options)
    two = sample_latents(unet, condition, first, draw=lambda: others, **options)
    assert float((one - two).abs().max()) > 1e-3  # noise of every step shows, unlike in DDIM and PLMS
    # From 0.99 on it starts at the clean latent: the first noise no longer matters.
    options["t_max"] = 0.99
    one = sample_latents(unet, condition, first, draw=lambda: others, **options)
    two = sample_latents(unet, condition, 2 * first, draw=lambda: others, **options)
    assert_close(one, two, atol=0, rtol=0)
    with pytest.raises(InputError, match="a start and a source of noise"):
        sample_latents(unet, condition, first, solver="released")


def test_loss():
    unet, condition = tiny_unet(), draws(2, 8, 4, 4).requires_grad_(True)
    clean, noise, times = draws(2, 2, 4, 4), draws(2, 2, 4, 4, seed=1), torch.tensor([0.3, 0.8])
    level = cosine_log_snr(times)
    error = (unet(add_noise(clean, noise, level), level, condition) - noise).square()
    expected = (error.mean(dim=(1, 2, 3)) / (1 + level.exp()).sqrt()).mean()
    loss = denoising_loss(unet, clean, condition, times, noise)
    assert_close(loss, expected)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    expected = ((error * mask).mean(dim=(1, 2, 3)) / (1 + level.exp()).sqrt()).mean()
    assert_close(denoising_loss(unet, clean, condition, times, noise, mask=mask), expected)
    # Joint training: the loss reaches the feature map, except of an item whose condition was dropped.
    denoising_loss(unet, clean, condition, times, noise, keep=torch.tensor([True, False])).backward()
    slopes = condition.grad.abs().amax(dim=(1, 2, 3))
    assert slopes[0] > 0
    assert slopes[1] == 0


def test_conditions_are_dropped_by_item():
    kept = keep_condition(7, range(2000), 0.1)
    # 2000 draws with probability 0.1: mean 200, standard deviation 13.4.
    assert abs(int((~kept).sum()) - 200) < 54
    assert_close(keep_condition(7, [5, 1999]), kept[[5, 1999]])
    assert bool(keep_condition(7, range(50), 0.0).all())


def test_a_finer_condition_is_folded():
    unet, latents, level = tiny_unet(), draws(2, 2, 4, 4), torch.zeros(2)
    fine = draws(2, 2, 8, 8, seed=1)
    with torch.no_grad():
        assert_close(unet(latents, level, fine), unet(latents, level, F.pixel_unshuffle(fine, 2)))


def test_saved_and_loaded(tmp_path):
    unet, latents, condition = tiny_unet(), draws(1, 2, 4, 4), draws(1, 8, 4, 4)
    unet.save_pretrained(tmp_path)
    again = VldmUnet.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        level = torch.zeros(1)
        assert_close(again(latents, level, condition), unet(latents, level, condition))


def test_a_velocity_is_told_as_noise():
    # A last layer of zeros says velocity 0. Of z = alpha x + sigma e that leaves e' = sigma (z - alpha b) for
    # the guess b, whose clean latent is x' = alpha z + sigma^2 b: the guess where all is noise, z where none.
    net = tiny_unet(condition_channels=10, prediction="v_prediction", blended=True)
    torch.nn.init.zeros_(net.head.weight)
    noisy, condition, level = draws(3, 2, 4, 4), draws(3, 10, 4, 4, seed=1), torch.tensor([-12.0, 0.3, 12.0])
    with torch.no_grad():
        noise = net(noisy, level, condition)
    guess = condition[:, 8:]
    alpha, sigma = (part[:, None, None, None] for part in signal_and_noise(level))
    assert_close(noise, sigma * (noisy - alpha * guess))
    clean = remove_noise(noisy, noise, level)
    assert_close(clean, alpha * noisy + sigma**2 * guess, atol=1e-4, rtol=1e-4)
    assert_close(clean[0], guess[0], atol=0.02, rtol=0)
    assert_close(clean[2], noisy[2], atol=0.02, rtol=0)
    # Without its condition it has no guess either.
    with torch.no_grad():
        blind = net(noisy, level, condition, torch.zeros(3, dtype=torch.bool))
    assert_close(blind, sigma * noisy)


def test_the_loss_of_a_velocity_is_its_squared_error():
    # Velocity 0 is told: the loss is the mean square of alpha e - sigma x, whatever the level.
    net = tiny_unet(prediction="v_prediction")
    torch.nn.init.zeros_(net.head.weight)
    clean, noise, times = draws(4, 2, 4, 4), draws(4, 2, 4, 4, seed=1), torch.tensor([0.01, 0.3, 0.7, 0.99])
    alpha, sigma = (part[:, None, None, None] for part in signal_and_noise(cosine_log_snr(times)))
    with torch.no_grad():
        loss = denoising_loss(net, clean, draws(4, 8, 4, 4, seed=2), times, noise)
    assert_close(loss, (alpha * noise - sigma * clean).square().mean(), atol=1e-5, rtol=1e-4)


def test_presets_and_steps():
    with torch.device("meta"):
        compact, paper = build_vldm("compact"), build_vldm("paper")
    assert 3.5e6 < sum(p.numel() for p in compact.parameters()) < 5e6
    # The published file holds 400,675,357 numbers, of which 256 x 256 + 1024 are the two unused ones.
    assert sum(p.numel() for p in paper.parameters()) == 400_675_357 - 256 * 256 - 1024
    assert [published_steps(t) for t in (0.005, 0.2, 0.31, 0.9)] == [1, 20, 31, 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "euler"}, "--solver: euler: expected one of ddim, plms, released"),
        ({"num_steps": 0}, "--steps: 0"),
        ({"t_max": 1.0}, "t_max: 1.0"),
        ({"condition": draws(1, 4, 4, 4)}, "condition.*expected 8 channels over 4 x 4"),
        ({"noise": draws(1, 2, 5, 4)}, "latents.*sides divisible by 2"),
    ],
)
def test_errors(options, message):
    given = {"condition": draws(1, 8, 4, 4), "noise": draws(1, 2, 4, 4), **options}
    with pytest.raises(InputError, match=message):
        sample_latents(tiny_unet(), **given)
