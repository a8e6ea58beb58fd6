"""The second stage, elevations found, cameras kept, memory planned: the real classes at toy size."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_hi3d import tiny_hi3d, tiny_parts, tiny_unet, write_tiny_bundle
from torch import Tensor, nn
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.orbits import elevation_of, is_on_orbit
from manyview.geometry.trajectories import orbit, sphere_cameras, spherical_angles
from manyview.methods.hi3d.cameras import orbit_cameras
from manyview.methods.hi3d.degradation import enlarge
from manyview.methods.hi3d.depth import DepthOptions, depth_channels
from manyview.methods.hi3d.frames import encode_frames, noised_latents
from manyview.methods.hi3d.kept import read_orbit, write_orbit
from manyview.methods.hi3d.memory import measure_peak, meta_components, meta_like, profile_memory
from manyview.methods.hi3d.networks import orbits_at_once
from manyview.methods.hi3d.noise_levels import LOG_SIGMA, build_scheduler, scalings
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.refine import refined_input
from manyview.methods.hi3d.sweep import frame_error, sweep, training_levels
from manyview.methods.hi3d.train import Hi3dOptions
from manyview.nets.autoencoder import decode, encode, raw_latents
from manyview.types import Cameras, Views
from manyview.weights import open_bundle


@pytest.fixture(scope="module")
def pipe() -> Hi3dPipeline:
    return tiny_hi3d(**tiny_parts())


def picture(seed: int = 0, size: int = 32) -> Views:
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Views(images=images, cameras=orbit(4, 25.0, size=size)[1])


def coarse_orbit(seed: int = 7) -> Views:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Views(images=images, cameras=orbit(8, 10.0, size=16), observed=torch.arange(8) == 0)


def test_twice_the_size_with_the_same_cameras(pipe: Hi3dPipeline) -> None:
    coarse, given = coarse_orbit(), picture()
    (fine,) = pipe.refine(coarse, given)
    assert fine.images.shape == (8, 3, 32, 32)
    assert fine.observed.tolist() == [True] + [False] * 7
    # The real picture, at its full size, is view 0.
    assert torch.equal(fine.images[0], given.images[0])
    assert_close(fine.cameras.world_from_cam, coarse.cameras.world_from_cam)
    assert_close(fine.cameras.K[:, :2], 2 * coarse.cameras.K[:, :2])
    (drawn,) = pipe.refine(coarse, given, keep_input=False)
    assert not torch.equal(drawn.images[0], given.images[0])
    assert torch.equal(drawn.images[1:], fine.images[1:])


def test_every_choice_of_the_second_stage_counts(pipe: Hi3dPipeline) -> None:
    coarse, given = coarse_orbit(), picture()
    (base,) = pipe.refine(coarse, given)
    (again,) = pipe.refine(coarse, given, elevation_deg=10.0, blend=True, guidance=2.0)
    assert_close(again.images, base.images, atol=1e-4, rtol=0)  # what is recorded, and of the cameras
    changes: list[dict[str, Any]] = [
        {"elevation_deg": 40.0},
        {"seed": 1},
        {"num_steps": 2},
        {"guidance": (1.0, 6.0)},
        {"blend": False},
        {"depth": False},
    ]
    for changed in changes:
        (other,) = pipe.refine(coarse, given, **changed)
        assert float((other.images - base.images)[1:].abs().max()) > 1e-4, changed
    for other_coarse, other_given in ((coarse_orbit(8), given), (coarse, picture(1))):
        (other,) = pipe.refine(other_coarse, other_given)
        assert float((other.images - base.images)[1:].abs().max()) > 1e-4
    (pieces,) = pipe.refine(coarse, given, decode_at_once=3)
    assert_close(pieces.images, base.images, atol=1e-4, rtol=0)
    # Orbit k of a batch has the noise of item k.
    two = pipe.refine([coarse, coarse], given)
    assert_close(two[0].images, base.images, atol=1e-4, rtol=0)
    (second,) = pipe.refine(coarse, given, items=[1])
    assert_close(two[1].images, second.images, atol=1e-4, rtol=0)


def test_what_the_refiner_is_shown(pipe: Hi3dPipeline) -> None:
    """Noisy latents, depth of the enlarged frames, latents of the same with their noise, in this order."""
    heard: list[Tensor] = []
    hook = pipe.refiner.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    coarse, given = coarse_orbit(), picture()
    pipe.refine(coarse, given, num_steps=1)
    pipe.refine(coarse, given, num_steps=1, depth=False)
    hook.remove()
    clip = enlarge(coarse.images, 32, 32)
    clip[0] = given.images[0]
    assert torch.equal(refined_input(coarse.images[None], given.images)[0], clip)
    with torch.no_grad():
        depth = depth_channels(pipe.depth.estimate(clip)[None], 4, 4, DepthOptions())
        shown = noised_latents(pipe.vae, clip[None], "latents", 0.02, items=[0], seed=0, stream=4)
        clean = encode_frames(pipe.vae, clip[None], 3)
        assert_close(clean[0], encode(pipe.vae, clip), atol=1e-5, rtol=0)
    # The first row is the unguided one.
    assert not heard[0][0, :, 4:].any()
    assert_close(heard[0][1, :, 4:13], depth[0], atol=1e-5, rtol=0)
    assert_close(heard[0][1, :, 13:], shown[0], atol=1e-5, rtol=0)
    # 8 x 4 x 4 x 4 numbers of deviation .02: their own is off by 4 % one time in twenty.
    assert float((shown - clean).std()) == pytest.approx(0.02, rel=0.15)
    assert not heard[1][1, :, 4:13].any()
    assert torch.equal(heard[1][1, :, 13:], heard[0][1, :, 13:])


def test_noise_on_pixels_as_published(pipe: Hi3dPipeline) -> None:
    frames = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        found = noised_latents(pipe.vae, frames, "pixels", 0.0, items=[0], seed=0, stream=2)
        assert_close(found[0], raw_latents(pipe.vae, frames[0]), atol=1e-5, rtol=0)
        some = noised_latents(pipe.vae, frames, "pixels", 0.1, items=[5], seed=0, stream=2, at_once=1)
        same = noised_latents(pipe.vae, frames, "pixels", 0.1, items=[5], seed=0, stream=2)
    assert_close(some, same, atol=1e-5, rtol=0)
    assert float((some - found).abs().max()) > 1e-3


def test_both_stages_in_one_call(pipe: Hi3dPipeline) -> None:
    result = pipe(picture(), num_samples=2, seed=3)
    assert result.views.images.shape == (8, 3, 32, 32)
    assert result.coarse is not None
    assert result.samples is not None
    assert torch.equal(result.samples[0], result.views.images)
    options = result.manifest["options"]
    assert options["refined"] is True
    assert options["refine_guidance"] == [1.0, 2.0]
    assert (options["resolution"], options["blend"], options["depth"]) == (32, True, True)
    # The same as its two halves, of which the first is given the picture at its own size.
    halves = pipe.refine(pipe.orbit(picture(), seed=3, num_samples=2), picture(), seed=3)
    assert torch.equal(halves[1].images, result.samples[1])
    coarse = pipe(picture(), refine=False)
    assert coarse.views.size == (16, 16)
    assert coarse.coarse is None


def test_refused_before_any_work(pipe: Hi3dPipeline) -> None:
    bare = tiny_hi3d()
    for call, said in (
        (lambda: bare(picture(), refine=True), "no refiner"),
        (lambda: pipe(picture(), refine_steps=0), "--refine-steps"),
        (lambda: pipe.refine(coarse_orbit(), refined_picture(24, 32)), "square"),
        (lambda: pipe.refine(coarse_orbit()[[0, 1]], picture()), "coarse"),
        (lambda: pipe.refine([], picture()), "coarse"),
        (lambda: pipe.refine(Views(images=torch.rand(8, 3, 16, 16)), picture()), "no cameras"),
        (lambda: pipe(Views(images=picture().images), find_elevation="guess"), "--elevation"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    blind = tiny_hi3d(refiner=tiny_unet(17, closed=True))
    with pytest.raises(InputError, match="reads depth"):
        blind(picture())
    assert blind(picture(), depth=False).views.size == (32, 32)


def refined_picture(height: int, width: int) -> Views:
    return Views(images=torch.rand(1, 3, height, width))


def test_kept_to_the_last_bit(pipe: Hi3dPipeline, tmp_path: Path) -> None:
    made = pipe(picture(), num_samples=2, find_elevation="estimate")
    write_orbit(tmp_path / "orbit.safetensors", made)
    again = read_orbit(tmp_path / "orbit.safetensors")
    assert torch.equal(again.views.images, made.views.images)
    assert torch.equal(again.samples, made.samples)
    assert torch.equal(again.coarse.cameras.K, made.coarse.cameras.K)
    assert again.elevation == made.elevation
    assert again.manifest["options"] == made.manifest["options"]
    assert dataclasses.replace(again, splats=None).views.observed.tolist() == [True] + [False] * 7


def test_bundles_hold_all_components(tmp_path: Path, pipe: Hi3dPipeline) -> None:
    write_tiny_bundle(tmp_path / "w")
    again = Hi3dPipeline.from_bundle(open_bundle(tmp_path / "w", "hi3d"))
    assert again.choose_refinement().num_steps == 2
    assert again.elevation is not None
    one = again.refine(coarse_orbit(), picture(), num_steps=3, guidance=2.0)[0].images
    # The bundle's shape of guidance is another.
    assert float((one - pipe.refine(coarse_orbit(), picture())[0].images).abs().max()) > 1e-5
    pipe.save_pretrained(tmp_path / "hub")
    hub = Hi3dPipeline.from_bundle(open_bundle(tmp_path / "hub", "hi3d"))
    two = hub.refine(coarse_orbit(), picture())[0].images
    assert_close(two, pipe.refine(coarse_orbit(), picture())[0].images, atol=1e-4, rtol=0)


def test_a_depth_network_of_transformers(tmp_path: Path) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    pipe = tiny_hi3d(
        **{**tiny_parts(), "depth": DPTForDepthEstimation(config).eval()}, depth_normalize="frame"
    )
    (made,) = pipe.refine(coarse_orbit(), picture())
    (without,) = pipe.refine(coarse_orbit(), picture(), depth=False)
    assert float((made.images - without.images)[1:].abs().max()) > 1e-5
    pipe.save_pretrained(tmp_path / "w")
    again = Hi3dPipeline.from_bundle(open_bundle(tmp_path / "w", "hi3d"))
    assert_close(again.refine(coarse_orbit(), picture())[0].images, made.images, atol=1e-4, rtol=0)
    assert set(meta_components(open_bundle(tmp_path / "w", "hi3d"))) >= {"depth", "unet", "vae"}


def test_cameras_of_the_input() -> None:
    def put(camera: Cameras) -> Cameras:
        return orbit_cameras(Views(images=torch.rand(1, 3, 32, 32), cameras=camera), 20.0, 8, 16)

    on = sphere_cameras([70.0], 20.0, 1.6, size=32)
    assert is_on_orbit(on)
    azimuth, elevation, distance = spherical_angles(put(on).centers)
    assert_close(azimuth, (70 + 45.0 * torch.arange(8)) % 360, atol=1e-3, rtol=0)
    assert_close(elevation, torch.full((8,), 20.0), atol=1e-3, rtol=0)
    assert_close(distance, torch.full((8,), 1.6))
    # The first of them is the input's own.
    assert_close(put(on).world_from_cam[0], on.world_from_cam[0], atol=1e-5, rtol=0)
    far = sphere_cameras([70.0], 20.0, 3.0, size=32)
    zoomed = dataclasses.replace(on, K=on.K * torch.tensor([1.5, 1.5, 1.0])[:, None])
    turned = on.world_from_cam.clone()
    turned[:, :3, :3] = turned[:, :3, :3] @ torch.linalg.matrix_exp(
        torch.tensor([[0.0, -0.2, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]])
    )
    for other in (far, zoomed, dataclasses.replace(on, world_from_cam=turned)):
        assert not is_on_orbit(other)
        found = spherical_angles(put(other).centers[0])
        assert float(found[0]) == pytest.approx(0, abs=1e-3)
        assert float(found[2]) == pytest.approx(1.5)
    assert elevation_of(far) == pytest.approx(20.0, abs=1e-3)
    assert elevation_of(dataclasses.replace(on, world_from_cam=turned)) is None


def test_where_elevations_are_from(pipe: Hi3dPipeline) -> None:
    plain = Views(images=torch.ones(1, 3, 32, 32))
    plain.images[..., 8:24, 10:22] = 0.3
    assert pipe.find_elevation(plain, 12.0).source == "given"
    posed = dataclasses.replace(plain, cameras=orbit(4, 25.0, size=32)[1])
    assert pipe.find_elevation(posed).source == "camera"
    assert pipe.find_elevation(posed).degrees == pytest.approx(25.0, abs=1e-3)
    told = pipe.find_elevation(plain)
    assert told.source == "estimated"
    # Cut out of the white, it is the same as with its mask.
    masked = dataclasses.replace(plain, masks=(plain.images.amin(dim=1, keepdim=True) < 1).float())
    assert pipe.find_elevation(masked).degrees == pytest.approx(told.degrees, abs=1e-3)
    with pytest.raises(InputError, match="no camera"):
        tiny_hi3d().find_elevation(plain)
    swept = tiny_hi3d().find_elevation(plain, how="sweep")
    assert swept.source == "swept"
    assert len(swept.scores) == 6


class KnowsElevation(nn.Module):
    """Answers the true velocity of clips whose frame 0 is `first` and whose others are what it drew (zero),
    plus how far the elevation it is told is from its own, as the vectors differ."""

    dtype = torch.float32

    def __init__(self, config: Any, first: Tensor, vector: Tensor) -> None:
        super().__init__()
        self.config, self.first, self.vector = config, first, vector
        self.shown: list[Tensor] = []

    def forward(self, sample: Tensor, timestep: Tensor, token: Tensor, vector: Tensor) -> Tensor:
        sigma = (4 * timestep.flatten()[0]).exp()
        c_skip, c_out, c_in, _ = scalings(sigma)
        noisy, shown = sample.chunk(2, dim=2)
        self.shown.append(shown)
        clean = torch.zeros_like(noisy)
        clean[:, 0] = self.first
        return (clean - c_skip * noisy / c_in) / c_out + (vector - self.vector).square().mean()


@torch.no_grad()
def test_the_sweep_measures_surprise_in_frame_0(pipe: Hi3dPipeline) -> None:
    networks = pipe.orbit_networks
    given = picture(size=16).images
    with torch.no_grad():
        first = encode(pipe.vae, given)
    known = KnowsElevation(networks.unet.config, first, networks.vector(torch.tensor([20.0])))
    stage = dataclasses.replace(networks, unet=known)  # pyright: ignore[reportArgumentType]
    found = sweep(stage, given[0], (0.0, 10.0, 20.0, 30.0), num_steps=2)
    assert min(found.scores, key=found.scores.__getitem__) == 20.0
    assert found.scores[20.0] == pytest.approx(0, abs=1e-6)
    # An answer off by d everywhere has the squared error d^2, at every level and draw.
    off = float((networks.vector(torch.tensor([30.0])) - known.vector).square().mean())
    assert found.scores[30.0] == pytest.approx(off**2, rel=1e-3)
    # Scored without the condition's latents, drawn with them.
    known.shown.clear()
    frame_error(stage, given, torch.zeros(1, 8, 4, 2, 2), torch.tensor([20.0]), seed=0, draws=1)
    assert len(known.shown) == 4
    assert not torch.stack(known.shown).any()


def test_levels_of_training_are_read_off_the_sampler(pipe: Hi3dPipeline) -> None:
    for log_sigma in (LOG_SIGMA, (-0.4, 1.1)):
        low, high = Hi3dOptions(log_sigma=log_sigma).sigma_range()
        stage = dataclasses.replace(pipe.orbit_networks, scheduler=build_scheduler(high, low))
        assert training_levels(stage) == pytest.approx(log_sigma, abs=1e-6)


def test_peaks_are_counted() -> None:
    """Three layers of 100 x 1000 float32 in a row: at most two of them, input and output, are alive."""
    layers = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(3))).to("meta")
    one = 100 * 1000 * 4

    def work() -> Tensor:
        return layers(torch.zeros(100, 1000, device="meta"))

    # The caller's own input stays to the end.
    assert measure_peak(work, {"layers": layers}) == 3 * one
    attention = torch.zeros(1, 2, 4096, 8, device="meta")
    used = measure_peak(
        lambda: nn.functional.scaled_dot_product_attention(attention, attention, attention), {}
    )
    assert used == attention.nbytes  # no matrix of 4096 x 4096


def test_the_plan_of_a_run(pipe: Hi3dPipeline, tmp_path: Path) -> None:
    profile = profile_memory(
        meta_components(open_bundle(write_tiny_bundle(tmp_path / "w"), "hi3d")), resolution=16
    )
    plan = profile.plan(at_once=2)
    steps = {step.name: step for step in plan.steps}
    assert list(steps)[2:5] == ["orbit: denoise", "orbit: decode", "refine: depth"]
    assert list(steps)[5:] == ["refine: embed", "refine: encode", "refine: denoise", "refine: decode"]
    modules = [one for one in pipe.components.values() if isinstance(one, nn.Module)]
    assert plan.weights == sum(p.nbytes for module in modules for p in module.parameters())
    assert plan.offloaded_peak < plan.peak
    # The codec works on four times the pixels.
    ratio = steps["refine: decode"].activations / steps["orbit: decode"].activations
    assert ratio == pytest.approx(4, rel=0.02)
    # What is counted for one frame holds for several: everything in the codec has a row a frame.
    vae = meta_like({"vae": pipe.vae})
    nn.Module.to(vae["vae"], "meta")
    two = measure_peak(lambda: decode(vae["vae"], torch.zeros(2, 4, 4, 4, device="meta")), vae)
    assert steps["refine: decode"].activations == pytest.approx(two, rel=0.01)
    # Four samples are at work at once at most, and two in the second stage.
    more = {step.name: step for step in profile.plan(num_orbits=orbits_at_once(9), at_once=2).steps}
    assert more["orbit: denoise"].activations == 4 * steps["orbit: denoise"].activations
    assert more["refine: denoise"].activations == 2 * steps["refine: denoise"].activations
    assert more["refine: decode"].activations == steps["refine: decode"].activations
    assert math.isclose(plan.as_json()["peak"], plan.peak)
    assert len(profile.plan(refine=False).steps) == 4


def test_networks_that_look_along_rays() -> None:
    """They are told the elevation beside the vector, in both stages and in the sweep."""
    torch.manual_seed(0)
    sweeping: dict[str, Any] = {"closed": True, "sweep_depths": 4, "blend": True}
    parts = {**tiny_parts(), "refiner": tiny_unet(17, **sweeping)}
    pipe = tiny_hi3d(**{**parts, "unet": tiny_unet(**sweeping)})
    made = pipe(picture(), elevation_deg=10.0)
    assert made.views.size == (32, 32)
    assert float((made.views.images - pipe(picture(), elevation_deg=40.0).views.images).abs().max()) > 1e-4
    assert len(pipe.find_elevation(picture(), how="sweep").scores) > 1
    assert pipe.estimate_memory() > 0
