"""Hi3D against tensors of the published code: the video U-Net, its noise levels, guidance and blending.

The tensors lie beside the checkout and never in it; without them these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from manyview.methods.hi3d.conditions import aesthetic_slot, sinusoids, vector_condition
from manyview.methods.hi3d.convert import from_published, published_names
from manyview.methods.hi3d.guidance import blend_coarse, blend_share, frame_guidance, guide
from manyview.methods.hi3d.noise_levels import (
    LOG_SIGMA,
    add_noise,
    build_scheduler,
    loss_weight,
    scalings,
    start_solver,
    velocity,
)
from manyview.methods.hi3d.unet import OrbitUNet, build_unet

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (GOLDENS / "hi3d_videounet.safetensors").is_file(),
        reason="no reference tensors beside the checkout",
    ),
]
NET = {"atol": 1e-4, "rtol": 0}
NUMBERS = {"atol": 1e-5, "rtol": 1e-5}
SHOWN = [0, 1, 7, 15]


def load(name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(GOLDENS / f"hi3d_{name}.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    return load("numerics")


@pytest.fixture(scope="module")
def video() -> tuple[OrbitUNet, dict[str, torch.Tensor]]:
    reference = load("videounet")
    unet = OrbitUNet(
        in_channels=17,
        out_channels=4,
        block_out_channels=(32, 32),
        attention=(False, True),
        num_attention_heads=(2, 2),
        layers_per_block=1,
        cross_attention_dim=24,
        vector_dim=48,
        vector_slots=2,
    )
    mark = "weight."
    weights = {name.removeprefix(mark): value for name, value in reference.items() if name.startswith(mark)}
    unet.load_state_dict(from_published(unet, weights))
    return unet.eval(), reference


def inputs(reference: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    sample = torch.cat([reference["in.noisy"], reference["in.concat"]], dim=1)[None]
    vector = vector_condition(reference["in.elevation"], reference["in.cond_aug"], 24)
    return sample, reference["in.timesteps"][:1], reference["in.crossattn"][0], vector


@torch.no_grad()
def test_video_network_and_its_stages(video):
    unet, reference = video
    sample, level, tokens, vector = inputs(reference)
    assert_close(vector, reference["out.vector"], **NUMBERS)
    heard: dict[str, torch.Tensor] = {}

    def listen(name, module):
        def note(_, __, answer):
            answer = answer[0] if isinstance(answer, tuple) else answer
            heard[name] = answer[SHOWN] if len(answer) == 16 else answer

        return module.register_forward_hook(note)

    stages = {
        "time_embed": unet.time_embedding,
        "label_emb": unet.add_embedding,
        "input_blocks.0": unet.conv_in,
        "input_blocks.1": unet.down_blocks[0].resnets[0],
        "input_blocks.3.0": unet.down_blocks[1].resnets[0],
        "input_blocks.3.1": unet.down_blocks[1].attentions[0],
        "middle_block": unet.mid_block,
        "output_blocks.3": unet.up_blocks[1].resnets[1],
    }
    hooks = [listen(name, module) for name, module in stages.items()]
    made = unet(sample, level, tokens[None], vector)
    for hook in hooks:
        hook.remove()
    assert set(heard) == set(stages)
    for name, value in heard.items():
        assert_close(value, reference[f"out.stage.{name}"], **NET)
    assert_close(made[0], reference["out.unet"], **NET)
    alone = torch.ones(1, 16)
    still = unet(sample, level, tokens[None], vector, image_only=alone)
    assert_close(still[0], reference["out.unet_image_only"], **NET)
    some = torch.zeros(1, 16)
    some[0, [0, 5]] = 1
    mixed = unet(sample, level, tokens[None], vector, image_only=some)
    assert_close(mixed[0], reference["out.unet_mixed_indicator"], **NET)


@torch.no_grad()
def test_denoised_and_one_guided_step(video):
    unet, reference = video
    _, _, tokens, vector = inputs(reference)
    sigma = reference["in.sigma"]
    c_skip, c_out, c_in, c_noise = scalings(sigma)
    assert_close(c_noise, reference["in.timesteps"][:1], **NUMBERS)
    noisy, concat = reference["in.noisy_sigma"], reference["in.concat"]
    answer = unet(torch.cat([noisy * c_in, concat], dim=1)[None], c_noise, tokens[None], vector)[0]
    assert_close(c_out * answer + c_skip * noisy, reference["out.denoiser"], **NET)

    solver = start_solver(build_scheduler(), 25)
    assert_close(solver.sigmas, reference["out.sigmas"], **NUMBERS)
    solver.set_begin_index(12)
    x = (reference["in.noisy"] * (solver.sigmas[12] ** 2 + 1).sqrt())[None]
    time = solver.timesteps[12]
    read = solver.scale_model_input(x, time)
    rows = torch.cat([read, read])
    shown = torch.stack([torch.zeros_like(concat), concat])
    both = unet(
        torch.cat([rows, shown], dim=2),
        time,
        torch.cat([torch.zeros_like(tokens), tokens])[:, None],
        vector.repeat(2, 1),
    )
    output = guide(both[:1], both[1:], frame_guidance(16, 1.0, 2.0))
    x = solver.step(output, time, x, return_dict=False)[0]
    # Latents are of order 20 there.
    assert_close(x[0], reference["out.euler_step12"], atol=1e-4, rtol=1e-5)


def test_noise_levels(numbers):
    sigma = numbers["in.sigma_list"]
    for name, value in zip(("c_skip", "c_out", "c_in", "c_noise"), scalings(sigma), strict=True):
        assert_close(value, numbers[f"out.{name}"], **NUMBERS)
    assert_close(loss_weight(sigma), numbers["out.loss_weight"], **NUMBERS)
    solver = start_solver(build_scheduler(), 25)
    assert_close(solver.sigmas, numbers["out.sigmas"], **NUMBERS)
    mean, std = LOG_SIGMA
    assert_close((mean + std * numbers["in.train_rand"]).exp(), numbers["out.train_sigma"], **NUMBERS)


def toy(x: torch.Tensor, c_noise: torch.Tensor, concat: torch.Tensor) -> torch.Tensor:
    """The network that the reference's chains were made with."""
    return torch.tanh(0.7 * x + 0.5 * concat + 0.1 * c_noise)


def test_training_loss(numbers):
    mean, std = LOG_SIGMA
    sigma = (mean + std * numbers["in.loss_rand"]).exp()
    clean, noise = numbers["in.loss_x0"][None], numbers["in.loss_noise"][None]
    _, _, c_in, c_noise = scalings(sigma)
    answer = toy(c_in * add_noise(clean, noise, sigma), c_noise, numbers["in.concat"])
    error = (answer - velocity(clean, noise, sigma)).square().mean(dim=(2, 3, 4))
    assert_close(error[0], numbers["out.loss"], **NUMBERS)


@pytest.mark.parametrize(("stage", "high"), [("stage1", 2.5), ("stage2", 2.0)])
def test_guidance_over_frames(numbers, stage, high):
    scale = frame_guidance(16, 1.0, high)
    assert_close(scale, numbers[f"out.{stage}.guider_scale"], **NUMBERS)
    made = guide(numbers["in.x_u"][None], numbers["in.x_c"][None], scale)
    assert_close(made[0], numbers[f"out.{stage}.guided"], **NUMBERS)


@pytest.mark.parametrize(("stage", "high"), [("stage1", 2.5), ("stage2", 2.0)])
def test_chains_of_25_steps(numbers, stage, high):
    solver = start_solver(build_scheduler(), 25)
    noise, concat = numbers["in.init"][None], numbers["in.concat"][None]
    scale = frame_guidance(16, 1.0, high)
    x = noise * solver.init_noise_sigma
    for step, time in enumerate(solver.timesteps):
        if stage == "stage2":
            share = blend_share(step, 25)
            assert_close(torch.tensor(share), numbers["out.stage2.alpha"][step], **NUMBERS)
            coarse = numbers["in.z_coarse"][None]
            x = blend_coarse(x, coarse, noise, solver.sigmas[step], share)
            assert_close(x[0], numbers["out.stage2.blended"][step], **NUMBERS)
        read = solver.scale_model_input(x, time)
        blind, seeing = toy(read, time, torch.zeros_like(concat)), toy(read, time, concat)
        x = solver.step(guide(blind, seeing, scale), time, x, return_dict=False)[0]
        assert_close(x[0], numbers[f"out.{stage}.chain"][step], **NUMBERS)


def test_vectors(numbers):
    elevation, augmentation = numbers["in.elevation"], numbers["in.cond_aug"]
    assert_close(sinusoids(elevation, 256), numbers["out.elevation_embedding"], **NUMBERS)
    assert_close(sinusoids(augmentation, 256), numbers["out.cond_aug_embedding"], **NUMBERS)
    score = numbers["in.aesthetic"]
    assert_close(aesthetic_slot(score, 256), numbers["out.aesthetic_embedding"], **NUMBERS)
    told = torch.tensor([20.0]), torch.tensor([0.02])
    first = vector_condition(*told, 256, slots=3, aesthetic=score[:1])
    assert_close(first, numbers["out.stage1.vector"], **NUMBERS)
    assert_close(vector_condition(*told, 256), numbers["out.stage2.vector"], **NUMBERS)


@pytest.mark.parametrize(("stage", "number"), [("orbit", 1), ("refine", 2)])
def test_every_release_name_and_shape(stage, number):
    stored = json.loads((GOLDENS / f"keys_hi3d_stage{number}_unet_release.json").read_text())
    theirs = {name: tuple(shape) for name, shape in stored["keys"].items()}
    with torch.device("meta"):
        unet = build_unet("paper", stage)
    ours = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    assert sum(value.numel() for value in unet.state_dict().values()) == stored["n_params"]
    names = published_names(unet)
    # One of theirs for each of ours, of its shape, and none left over.
    assert {published: ours[own] for own, published in names.items()} == theirs
