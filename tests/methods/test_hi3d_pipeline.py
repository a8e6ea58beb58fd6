"""The first stage as a pipeline: cameras, repeatable noise, batches, and folders of weights."""

from __future__ import annotations

import pytest
import torch
from tiny_hi3d import tiny_hi3d, tiny_unet
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.methods.hi3d.frames import decode_frames
from manyview.methods.hi3d.noise_levels import start_solver, starting_at
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.sampler import sample_clips
from manyview.nets.autoencoder import decode, encode, raw_latents
from manyview.types import Views
from manyview.weights import open_bundle, write_bundle


@pytest.fixture(scope="module")
def pipe() -> Hi3dPipeline:
    return tiny_hi3d()


def picture(seed: int = 0, size: int = 16) -> Views:
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Views(images=images, cameras=orbit(4, 25.0, size=size)[2])


def test_an_orbit_with_its_cameras(pipe):
    given = picture()
    (views,) = pipe.orbit(given, elevation_deg=10.0)
    assert views.images.shape == (8, 3, 16, 16)
    assert views.observed.tolist() == [True] + [False] * 7
    azimuth, elevation, distance = spherical_angles(views.cameras.centers)
    # The input's camera stands at azimuth 180, and so does view 0.
    off = (azimuth - torch.arange(8) * 45.0) % 360
    assert_close(off, torch.full((8,), 180.0), atol=1e-3, rtol=0)
    assert_close(elevation, torch.full((8,), 10.0), atol=1e-3, rtol=0)
    assert_close(distance, torch.full((8,), 1.5))
    assert torch.equal(views.images[0], given.images[0])
    (drawn,) = pipe.orbit(given, elevation_deg=10.0, keep_input=False)
    assert not torch.equal(drawn.images[0], given.images[0])
    assert torch.equal(drawn.images[1:], views.images[1:])


def test_same_seed_same_bits_and_other_seeds_other_orbits(pipe):
    one, again, other = (pipe.orbit(picture(), seed=seed)[0].images for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert float((one - other)[1:].abs().mean()) > 1e-3
    # Sample k is the same however many are drawn, up to the order of sums in a batch.
    three = pipe.orbit(picture(), seed=3, num_samples=3)
    assert_close(three[0].images, one, atol=1e-4, rtol=0)
    assert float((three[1].images - three[2].images)[1:].abs().mean()) > 1e-3


def test_every_input_counts(pipe):
    base = pipe.predict(picture().images, torch.tensor([10.0]), items=[0])
    for changed in (
        pipe.predict(picture(1).images, torch.tensor([10.0]), items=[0]),
        pipe.predict(picture().images, torch.tensor([40.0]), items=[0]),
        pipe.predict(picture().images, torch.tensor([10.0]), items=[0], num_steps=2),
        pipe.predict(picture().images, torch.tensor([10.0]), items=[0], guidance=(1.0, 6.0)),
        pipe.predict(picture().images, torch.tensor([10.0]), items=[0], guidance_shape="triangular"),
    ):
        assert float((changed - base).abs().max()) > 1e-4
    same = pipe.predict(picture().images, torch.tensor([10.0]), items=[0], guidance=2.5)
    assert torch.equal(same, base)  # 1 to 2.5 is the default
    pieces = pipe.predict(picture().images, torch.tensor([10.0]), items=[0], decode_frames=3)
    assert_close(pieces, base, atol=1e-5, rtol=0)


def test_call_gives_a_result(pipe):
    result = pipe(picture(), num_samples=2, seed=1)
    assert result.samples.shape == (2, 8, 3, 16, 16)
    assert float(result.spread[0].max()) == 0  # the input is in both
    options = result.manifest["options"]
    assert options["elevation"]["degrees"] == pytest.approx(25.0, abs=1e-3)
    assert options["elevation"]["source"] == "camera"
    assert options["refined"] is False
    assert result.coarse is None
    assert options["guidance"] == [1.0, 2.5]
    assert options["steps"] == 3


def test_conditions_of_both_kinds():
    heard: list[torch.Tensor] = []
    pixels = picture().images
    for kind, expected in (("latents", encode), ("pixels", raw_latents)):
        pipe = tiny_hi3d(condition=kind, augmentation=0.0)
        # So that normalised and raw latents differ.
        pipe.vae.register_to_config(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
        pipe.unet.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        pipe.predict(pixels, torch.tensor([0.0]), items=[0], num_steps=1)
        with torch.no_grad():
            latents = expected(pipe.vae, pixels)
        # First the unguided row, then the one that sees.
        assert not heard[-1][0, :, 4:].any()
        assert_close(heard[-1][1, :, 4:], latents.expand(8, -1, -1, -1), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="condition"):
        tiny_hi3d(condition="depth")


@torch.no_grad()
def test_sampler_of_the_refiner():
    """A network that answers zero calls x / (sigma^2 + 1) clean, so without the blend nothing of the coarse
    latents would come in, and with it the result is nearer to them."""
    pipe, unet = tiny_hi3d(), tiny_unet(10)
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    noise, coarse = torch.randn(2, 1, 8, 4, 2, 2).unbind()
    told = (coarse, torch.zeros(1, 8), torch.zeros(1, 16), torch.ones(8))
    depth = torch.randn(1, 8, 2, 2, 2)
    free = sample_clips(unet, pipe.scheduler, noise, *told, num_steps=3, depth=depth)
    pulled = sample_clips(unet, pipe.scheduler, noise, *told, num_steps=3, depth=depth, coarse=coarse)
    assert float((pulled - coarse).abs().mean()) < float((free - coarse).abs().mean())
    steps: list[int] = []
    sample_clips(unet, pipe.scheduler, noise, *told, num_steps=3, depth=depth, on_step=steps.append)
    assert steps == [1, 1, 1]


def test_saved_as_folders_and_bundles(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "w")
    parts = {name: name for name in ("vae", "image_encoder", "unet", "scheduler")}
    settings = {"steps": 3, "guidance_shape": "triangular"}
    write_bundle(tmp_path / "w", name="t", method="hi3d", licence="none", components=parts, settings=settings)
    again = Hi3dPipeline.from_bundle(open_bundle(tmp_path / "w", "hi3d"))
    assert again.refiner is None
    assert again.config["default_shape"] == "triangular"
    one = again.orbit(picture(), guidance_shape="linear")[0].images
    assert_close(one, pipe.orbit(picture())[0].images, atol=1e-4, rtol=0)
    latents = torch.randn(1, 3, 4, 2, 2)
    with torch.no_grad():
        assert_close(
            decode_frames(again.vae, latents, 2)[0], decode(again.vae, latents[0]), atol=1e-5, rtol=0
        )


def test_noise_to_begin_with(pipe, tmp_path):
    """Recorded with the weights, it is the first of both stages' sigmas; the lowest stays."""
    pipe.save_pretrained(tmp_path / "w")
    parts = {name: name for name in ("vae", "image_encoder", "unet", "scheduler")}
    for settings, first in (({}, 700.0), ({"sigma_max": 20.0}, 20.0)):
        write_bundle(
            tmp_path / "w", name="t", method="hi3d", licence="none", components=parts, settings=settings
        )
        again = Hi3dPipeline.from_bundle(open_bundle(tmp_path / "w", "hi3d"))
        sigmas = start_solver(again.orbit_networks.scheduler, 5).sigmas
        assert float(sigmas[0]) == pytest.approx(first, rel=1e-4)
        assert float(sigmas[4]) == pytest.approx(0.002, rel=1e-3)
    other = again.orbit(picture())[0].images
    assert float((other - pipe.orbit(picture())[0].images).abs().max()) > 1e-4
    lower = starting_at(pipe.scheduler, 3.0)
    assert float(start_solver(lower, 2).sigmas[0]) == pytest.approx(3.0)
    with pytest.raises(InputError, match=r"sigma_max: 0\.001: expected more than sigma_min"):
        starting_at(pipe.scheduler, 0.001)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_steps": 0}, "--steps"),
        ({"num_samples": 0}, "--samples"),
        ({"elevation_deg": 91.0}, "--elevation"),
        ({"guidance": -1.0}, "--guidance"),
        ({"guidance_shape": "wave"}, "--guidance-shape"),
    ],
)
def test_refused_before_any_work(pipe, options, said):
    with pytest.raises(InputError, match=said):
        pipe.orbit(picture(), **options)


def test_refused_pictures(pipe):
    with pytest.raises(InputError, match="--elevation: not given"):
        pipe.orbit(Views(images=torch.rand(1, 3, 16, 16)))
    with pytest.raises(InputError, match="square"):
        pipe.orbit(Views(images=torch.rand(1, 3, 16, 12)), elevation_deg=0.0)
    hidden = Views(images=torch.rand(1, 3, 16, 16), observed=torch.zeros(1, dtype=torch.bool))
    with pytest.raises(InputError, match="no observed view"):
        pipe.orbit(hidden, elevation_deg=0.0)
