"""What the orbit's network is shown of the input along its rays, and how it copies from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_dimvis import CHANNELS, DIM
from tiny_hi3d import tiny_hi3d, tiny_orbits, tiny_unet
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.projection import project, unproject
from manyview.geometry.trajectories import orbit
from manyview.methods.hi3d.initial import load_initial
from manyview.methods.hi3d.input_rays import InputRays, blend_shown, count_candidates
from manyview.methods.hi3d.noise_levels import scalings, velocity
from manyview.methods.hi3d.train import Hi3dOptions, Hi3dTask, vector_of
from manyview.methods.hi3d.unet import OrbitUNet, build_unet
from manyview.types import Views

FRAMES, CELLS, DEPTHS = 8, 16, 5


@pytest.mark.parametrize(("elevation", "place"), [(0.0, 1), (30.0, 1), (30.0, 7)])
def test_a_surface_is_found_at_its_depth(elevation: float, place: int) -> None:
    """The input's latents are the points of a plane that faces frame `place` in its middle distance: there
    the sweep's middle plane holds the very points of that plane."""
    cameras = orbit(FRAMES, elevation, size=CELLS)
    pixels = torch.stack(torch.meshgrid(*[torch.arange(CELLS) + 0.5] * 2, indexing="xy"), -1)[None]
    surface = unproject(pixels, torch.full((1, CELLS, CELLS), 1.5), cameras[[place]])[0]
    center, forward = cameras.centers[0], cameras.world_from_cam[place, :3, 2]
    ends = unproject(pixels, torch.ones(1, CELLS, CELLS), cameras[[0]])[0] - center
    # The plane goes through the origin: (center + along * ends) . forward = 0.
    along = -(center @ forward) / (ends @ forward)
    given = (center + along[..., None] * ends).permute(2, 0, 1)[None]
    places = torch.arange(FRAMES)[None]
    seen, inside = InputRays(3, DEPTHS, 360 / FRAMES).look(given, torch.tensor([elevation]), places)
    where, _ = project(surface[None], cameras[[0]])
    well_inside = ((where > 1) & (where < CELLS - 1)).all(-1)[0]
    assert bool(inside[0, place, 2][well_inside].all())
    assert_close(seen[0, place, :3, 2].permute(1, 2, 0)[well_inside], surface[well_inside], atol=0.02, rtol=0)
    off = seen[0, place, :3, 0].permute(1, 2, 0)[well_inside] - surface[well_inside]
    assert float(off.abs().mean()) > 0.1
    assert_close(seen[0, 0, :3, 4], given[0], atol=1e-4, rtol=0)  # frame 0 sees itself


def test_an_input_left_out_leaves_no_mark() -> None:
    given = torch.stack([torch.ones(3, CELLS, CELLS), torch.zeros(3, CELLS, CELLS)])
    rays = InputRays(3, DEPTHS, 45.0)
    seen, inside = rays.look(given, torch.tensor([10.0, 10.0]), torch.arange(FRAMES).expand(2, -1))
    assert not seen[1].any()
    outside = (~inside[0])[:, None].expand(-1, 4, -1, -1, -1)
    assert 0 < float(outside.float().mean()) < 0.5
    assert float(seen[0][outside].max()) < 0.51  # bilinear: half a cell over the border it is a half at most
    logits = torch.randn(2, FRAMES, count_candidates(DEPTHS), CELLS, CELLS)
    shown = given[:, None].expand(-1, FRAMES, -1, -1, -1)
    assert not blend_shown(shown, (seen, inside), logits)[1].any()


@pytest.mark.parametrize("chosen", [0, 1, 2 + 3])
def test_a_certain_choice_copies(chosen: int) -> None:
    given = torch.randn(1, 3, CELLS, CELLS)
    looked = InputRays(3, DEPTHS, 45.0).look(given, torch.zeros(1), torch.arange(FRAMES)[None])
    logits = torch.zeros(1, FRAMES, count_candidates(DEPTHS), CELLS, CELLS)
    logits[:, :, chosen] = 200
    shown = torch.randn(1, FRAMES, 3, CELLS, CELLS)
    made = blend_shown(shown, looked, logits)
    if chosen < 2:
        assert_close(made, shown * chosen)
    else:
        inside = looked[1][:, :, 3, None].expand_as(made)
        assert_close(made[inside], looked[0][:, :, :3, 3][inside])
        assert bool((~inside).any())


@torch.no_grad()
@pytest.mark.parametrize("turn", [1, 5])
def test_frames_rolled_with_their_places_are_answered_rolled(turn: int) -> None:
    unet = tiny_unet(closed=True, sweep_depths=3, blend=True)
    noisy, shown = torch.randn(1, FRAMES, CHANNELS, 4, 4), torch.randn(1, 1, CHANNELS, 4, 4)
    sample = torch.cat([noisy, shown.expand(-1, FRAMES, -1, -1, -1)], dim=2)
    told = (
        torch.tensor(0.1),
        torch.randn(1, 1, DIM),
        torch.cat([torch.randn(1, 16), torch.tensor([[20.0]])], 1),
    )
    made = unet(sample, *told)
    rolled = unet(sample.roll(turn, 1), *told, places=torch.arange(FRAMES).roll(turn))
    assert_close(rolled, made.roll(turn, 1), atol=1e-4, rtol=0)
    # The elevation counts beyond its sinusoids: the rays are others.
    higher = unet(sample, *told[:2], torch.cat([told[2][:, :-1], torch.tensor([[40.0]])], 1))
    assert float((higher - made).abs().max()) > 1e-3


@torch.no_grad()
def test_a_network_that_only_copies_is_right_about_copies() -> None:
    """Every frame equals the input and the residual's velocity is exact: then so is the answer."""
    unet = tiny_unet(blend=True)
    clean = torch.randn(2, 1, CHANNELS, 4, 4).expand(-1, FRAMES, -1, -1, -1)
    noise, sigma = torch.randn(2, FRAMES, CHANNELS, 4, 4), torch.tensor([0.5, 20.0])
    _, _, _, level = scalings(sigma)
    for weight in (unet.conv_out.weight, unet.conv_out.bias):
        weight.zero_()
    unet.conv_out.bias[CHANNELS + 1] = 200
    told = level, torch.zeros(2, 1, DIM), torch.zeros(2, 16)
    answer = unet(torch.cat([noise, clean], dim=2), *told)
    # With an answer of zero beside it the velocity is that of clean = input and no noise.
    assert_close(answer, velocity(clean, torch.zeros_like(noise), sigma), atol=1e-5, rtol=0)


def test_presets_with_and_without() -> None:
    with torch.device("meta"):
        plain = build_unet("compact", "orbit")
        full = build_unet("compact", "orbit", sweep_depths=12, blend=True).to("meta")
        sample, vector = torch.zeros(1, 16, 16, CELLS, CELLS), torch.zeros(1, 129)
        made = full(sample, torch.zeros(1), torch.zeros(1, 1, 128), vector)
        refiner = build_unet("compact", "refine", sweep_depths=12, blend=True)
    assert made.shape == (1, 16, 8, CELLS, CELLS)
    assert plain.rays is None
    assert refiner.rays is None
    assert refiner.config["blend"]
    assert full.config["in_channels"] == plain.config["in_channels"] == 16
    assert full.config["out_channels"] == 8
    vectors = [vector_of(one.config, torch.tensor([20.0]), torch.tensor([0.02])) for one in (plain, full)]
    assert torch.equal(vectors[1][:, :-1], vectors[0])
    assert float(vectors[1][0, -1]) == 20


def test_a_refiner_begins_with_a_first_stage_that_looks_along_rays(tmp_path: Path) -> None:
    """Its depth begins at nothing; the rest is the first stage's, but for what looks along rays."""
    first = tiny_unet(closed=True, sweep_depths=3, blend=True)
    first.save_pretrained(tmp_path / "unet")
    second = tiny_unet(2 * CHANNELS + 2, closed=True, blend=True)
    load_initial(second, tmp_path / "unet")
    given, kept = first.state_dict(), second.state_dict()
    assert torch.equal(kept["conv_in.weight"][:, :CHANNELS], given["conv_in.weight"][:, :CHANNELS])
    assert not kept["conv_in.weight"][:, CHANNELS : CHANNELS + 2].any()
    condition = given["conv_in.weight"][:, CHANNELS : 2 * CHANNELS]
    assert torch.equal(kept["conv_in.weight"][:, CHANNELS + 2 :], condition)
    assert torch.equal(kept["conv_out.weight"], given["conv_out.weight"][: CHANNELS + 2])
    with pytest.raises(InputError, match="rays"):
        load_initial(tiny_unet(sweep_depths=3), save(tiny_unet(), tmp_path / "plain"))


def save(unet: OrbitUNet, folder: Path) -> Path:
    unet.save_pretrained(folder)
    return folder


def test_training_and_drawing_with_it(tmp_path: Path) -> None:
    """A fresh network that begins with copies errs less, at much noise, on orbits that all are copies."""
    torch.manual_seed(0)
    latents = torch.randn(2, 1, CHANNELS, 4, 4).expand(-1, FRAMES, -1, -1, -1).contiguous()
    losses = []
    for blend in (True, False):
        options = Hi3dOptions(closed=True, sweep_depths=3 * blend, blend=blend, log_sigma=(3.0, 0.1), drop=0)
        task = Hi3dTask(tiny_orbits(2, latents=latents), options=options)
        torch.manual_seed(1)
        model, items = task.build(), torch.arange(8)
        loss, _ = task.loss(model, task.batch(items), items, 0)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] < 0.5 * losses[1]
    pipe = tiny_hi3d(unet=tiny_unet(closed=True, sweep_depths=3, blend=True))
    pipe.unet.save_pretrained(tmp_path)
    again = tiny_hi3d(unet=OrbitUNet.from_pretrained(tmp_path, local_files_only=True).eval())
    views = Views(images=torch.rand(1, 3, 16, 16))
    drawn = [one.orbit(views, elevation_deg=10.0)[0].images for one in (pipe, again)]
    assert_close(*drawn, atol=1e-4, rtol=0)
    assert bool(torch.isfinite(drawn[0]).all())
