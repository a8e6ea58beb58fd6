"""SparseFusion's own tensors: the epipolar transformer, the denoiser, the released sampler, release names.

The grid and the field are compared in tests/lift/test_field_sparsefusion.py; the field as this method builds
it is compared here as well, so that the method's own defaults are what the published weights need.
Tolerances are those suggested beside the tensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from manyview.lift.field.neural import sparsefusion_field
from manyview.methods.sparsefusion.convert import from_published, our_name, published_name, to_published
from manyview.methods.sparsefusion.eft import EpipolarTransformer, build_eft
from manyview.methods.sparsefusion.epipolar import (
    depth_range,
    ray_pixels,
    read_maps,
    relative_transforms,
    sample_rays,
    spread_depths,
)
from manyview.methods.sparsefusion.noise_levels import (
    add_noise,
    cosine_log_snr,
    p2_weight,
    remove_noise,
    signal_and_noise,
    step_back,
)
from manyview.methods.sparsefusion.released_sampler import ReleasedStep, sample_as_released
from manyview.methods.sparsefusion.unet import VldmUnet, build_vldm
from manyview.methods.sparsefusion.vldm import denoising_loss, guided_noise, sample_latents
from manyview.types import Cameras

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (GOLDENS / "sparsefusion_eft.safetensors").is_file(),
        reason="no reference tensors beside the checkout",
    ),
]
NET = {"atol": 1e-4, "rtol": 0}
PLMS = {"atol": 3e-4, "rtol": 0}


def load(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    tensors = load_file(GOLDENS / f"sparsefusion_{name}.safetensors")
    mark = "weight."
    weights = {key.removeprefix(mark): value for key, value in tensors.items() if key.startswith(mark)}
    return weights, {key: value for key, value in tensors.items() if not key.startswith(mark)}


@pytest.fixture(scope="module")
def eft() -> tuple[EpipolarTransformer, dict[str, torch.Tensor], Cameras]:
    weights, reference = load("eft")
    net = EpipolarTransformer(stem=8, width=32, feedforward=32)
    net.load_state_dict(from_published("eft", weights))
    cameras = Cameras(
        world_from_cam=reference["cv.scene_world_from_cam"],
        K=reference["cv.K_pixels"],
        sizes=torch.tensor([[64, 64]] * 5),
    )
    return net.eval(), reference, cameras


@pytest.fixture(scope="module")
def vldm() -> tuple[VldmUnet, dict[str, torch.Tensor]]:
    weights, reference = load("vldm")
    unet = VldmUnet(
        latent_channels=4,
        condition_channels=16,
        width=16,
        multipliers=(1, 1, 2, 2),
        num_blocks=(2, 2, 1, 2),
        num_heads=4,
        head_dim=16,
    )
    unet.load_state_dict(from_published("unet", weights))
    return unet.eval(), reference


def test_samples_along_rays(eft):
    _, reference, cameras = eft
    ranges = depth_range(cameras, 5.0, center=torch.zeros(3))
    assert_close(ranges, reference["out.depth_range"], atol=1e-5, rtol=0)
    depths = spread_depths(ranges[None], 20)
    assert_close(depths[0], reference["out.depths"][0], atol=1e-5, rtol=0)
    relative = relative_transforms(cameras[0], cameras[1:4], 1)
    pixels = ray_pixels(4, 4, 64, 64, "published")
    samples = sample_rays(pixels, cameras[0], cameras[1:4], depths, relative)
    assert_close(samples.query_rays[0, 0], reference["out.query_plucker"], atol=2e-4, rtol=0)
    own = samples.context_rays[0, 0, :, :, ::5]
    assert_close(own, reference["out.reference_plucker"], atol=2e-4, rtol=0)
    # NDC has x to the left and y up, 1 at the border of the 64-pixel image: u = 32 (1 - x).
    where = 32 * (1 - reference["out.projected_ndc"])
    assert_close(samples.pixels[0, 0], where, atol=2e-3, rtol=1e-5)
    maps = reference["out.encoder_latent"][None]
    read = read_maps(maps, samples.pixels, 64, 64, "published")
    assert_close(read[0, 0], reference["out.sampled_features"], **NET)
    read = read_maps(reference["in.context_images"][None], samples.pixels, 64, 64, "published")
    assert_close(read[0, 0], reference["out.sampled_rgb"], **NET)


@torch.no_grad()
def test_epipolar_transformer(eft):
    net, reference, cameras = eft
    ranges = net.depth_range(cameras, center=torch.zeros(3))
    context = net.encode(reference["in.context_images"][None], cameras[1:4], ranges[None])
    assert_close(context.maps[0], reference["out.encoder_latent"], **NET)
    answer = net(context, cameras[0], 4, 4, attention=True)
    assert_close(answer.attention.over_depths[0, 0].flatten(1, 2), reference["out.t2_weights"], **NET)
    assert_close(answer.attention.over_views[0, 0].flatten(1, 2), reference["out.t3_weights"], **NET)
    assert_close(answer.features[0, 0].permute(1, 2, 0), reference["out.features"], **NET)
    assert_close(answer.colors[0, 0].permute(1, 2, 0), reference["out.rgb"], **NET)


def test_noise_levels(vldm):
    _, reference = vldm
    levels = cosine_log_snr(reference["in.times"])
    assert_close(levels, reference["out.log_snr"], **NET)
    alpha, sigma = signal_and_noise(levels)
    assert_close(alpha, reference["out.alpha"], **NET)
    assert_close(sigma, reference["out.sigma"], **NET)
    assert_close(p2_weight(levels), reference["out.p2_weight"], **NET)
    level, after = cosine_log_snr(reference["in.t"]), cosine_log_snr(reference["in.t_next"])
    noisy = add_noise(reference["in.x0"], reference["in.noise"], level)
    assert_close(noisy, reference["out.q_sample"], **NET)
    clean = remove_noise(noisy, reference["out.unet_out"], level)
    assert_close(clean, reference["out.x0_from_noise"], **NET)
    mean, variance = step_back(noisy, reference["in.x0"], level, after)
    assert_close(mean, reference["out.posterior_mean"], **NET)
    assert_close(variance, reference["out.posterior_var"], **NET)


@torch.no_grad()
def test_denoiser(vldm):
    unet, reference = vldm
    x, level, condition = reference["in.x"], cosine_log_snr(reference["in.t"]), reference["in.cond"]
    assert_close(unet(x, level, condition), reference["out.unet_out"], **NET)
    blind = unet(x, level, condition, torch.zeros(2, dtype=torch.bool))
    assert_close(blind, reference["out.unet_out_uncond"], **NET)
    assert_close(guided_noise(unet, condition, 2.0)(x, level), reference["out.unet_out_cfg2"], **NET)


@torch.no_grad()
def test_stages_of_the_denoiser(vldm):
    unet, reference = vldm
    heard: dict[str, torch.Tensor] = {}

    def listen(name, module):
        return module.register_forward_hook(lambda _, __, answer: heard.update({name: answer}))

    hooks = [
        listen("init_conv", unet.stem),
        listen("level", unet.noise_level),
        listen("down3", unet.down[3].attention),
        listen("mid", unet.middle_second),
        listen("up0", unet.up[0].attention),
        listen("up3", unet.up[3].blocks[-1]),
        listen("down0", unet.down[0].blocks[-1]),
    ]
    unet(reference["in.x"], cosine_log_snr(reference["in.t"]), reference["in.cond"])
    for hook in hooks:
        hook.remove()
    vector, tokens = heard.pop("level")
    assert_close(vector, reference["out.stage.time_cond"], **NET)
    # Theirs are noted before the layer norm that is part of our module.
    assert_close(tokens, unet.noise_level.token_norm(reference["out.stage.time_tokens"]), **NET)
    for name, value in heard.items():
        assert_close(value, reference[f"out.stage.{name}"], **NET)


@torch.no_grad()
@pytest.mark.parametrize(("mask", "name"), [(None, "loss_plain"), ("in.loss_mask", "loss_masked")])
def test_losses(vldm, mask, name):
    unet, reference = vldm
    loss = denoising_loss(
        unet,
        reference["in.x0"],
        reference["in.cond"],
        reference["in.t"],
        reference["in.noise"],
        mask=None if mask is None else reference[mask],
    )
    assert_close(loss, reference[f"out.{name}"], **NET)


@pytest.mark.parametrize(("name", "t_max", "num_steps"), [("plms", 0.6, 5), ("plms_hi", 0.99, 4)])
@torch.no_grad()
def test_released_sampler(vldm, name, t_max, num_steps):
    unet, reference = vldm
    condition, noise = reference["in.cond"][:1], reference[f"in.noise_{name}"]
    left = iter(noise)
    steps: list[ReleasedStep] = []
    made = sample_as_released(
        guided_noise(unet, condition),
        reference["in.latent"],
        lambda: next(left)[None],
        t_max=t_max,
        num_steps=num_steps,
        clip=10.0,
        on_step=steps.append,
    )
    assert list(left) == []  # every draw was used, in their order
    part = f"out.{name}"
    assert_close(torch.tensor([s.time for s in steps]), reference[f"{part}.t"])
    assert_close(torch.tensor([s.next_time for s in steps]), reference[f"{part}.t_next"])
    assert_close(torch.cat([s.estimate for s in steps]), reference[f"{part}.e_t"], **PLMS)
    assert_close(torch.cat([s.clean for s in steps]), reference[f"{part}.pred_x0"], **PLMS)
    assert_close(torch.cat([s.x for s in steps]), reference[f"{part}.x_after"], **PLMS)
    assert_close(made, reference[f"{part}.out"], **PLMS)
    # By its name, as the pipeline asks for it.
    rest = iter(noise[1:])
    named = sample_latents(
        unet,
        condition,
        noise[:1],
        start=reference["in.latent"],
        t_max=t_max,
        num_steps=num_steps,
        solver="released",
        draw=lambda: next(rest)[None],
    )
    assert_close(named, made, atol=0, rtol=0)


def test_field_of_the_method():
    weights, reference = load("ngp_field")
    field = sparsefusion_field()
    field.encoding.backend = "torch"  # the compiled one and the rendering: tests/lift
    # The file gives the table by a formula: entry k is ((k * 2654435761 mod 2^32) / 2^32 * 2 - 1) / 2.
    k = torch.arange(field.encoding.table.numel(), dtype=torch.int64)
    values = 0.5 * (2 * ((k * 2654435761) % 2**32).double() / 2**32 - 1)
    state = {
        f"{2 * i}.{kind}": weights[f"sigma_net.net.{i}.{kind}"]
        for i in range(3)
        for kind in ("weight", "bias")
    }
    field.network.load_state_dict(state)
    with torch.no_grad():
        field.encoding.table.copy_(values.float().view(-1, 2))
        density, color = field.query(reference["in.points"])
    assert_close(density, reference["out.field.sigma"], atol=1e-3, rtol=1e-2)
    assert_close(color, reference["out.field.albedo"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("part", ["eft", "unet"])
def test_every_release_name_and_shape(part):
    file = "eft" if part == "eft" else "vldm"
    stored = json.loads((GOLDENS / f"keys_sparsefusion_{file}_release.json").read_text())
    shapes = {name: tuple(shape) for name, shape in stored["keys"].items()}
    with torch.device("meta"):
        ours = (build_eft("paper") if part == "eft" else build_vldm("paper")).state_dict()
    named = {name: our_name(part, name) for name in shapes}
    read = {new: shapes[old] for old, new in named.items() if new is not None}
    # Each of ours comes from exactly one of theirs, of its shape, and leads back to it.
    assert read == {name: tuple(value.shape) for name, value in ours.items()}
    assert all(published_name(part, new) == old for old, new in named.items() if new is not None)
    assert set(to_published(part, ours)) == {old for old, new in named.items() if new is not None}
    # What is left is what no output depends on.
    unread = sorted(old for old, new in named.items() if new is None)
    if part == "unet":
        assert unread == ["null_conditional_embed", "null_conditional_hidden"]
    else:
        assert all(name.startswith(("encoder_model.layer4.", "encoder_model.fc.")) for name in unread)
