"""The plane sweep: a point in space is seen where it is, from every slot, whatever rig; and the blend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_dimvis import CHANNELS, DIM, conditioner_of, spread_weights, tiny_options, tiny_pipeline

from manyview.errors import InputError
from manyview.geometry.projection import project, unproject
from manyview.geometry.sweep import HALF_RANGE
from manyview.geometry.trajectories import orbit
from manyview.methods.dimvis.model import build_denoiser, untile
from manyview.methods.dimvis.sweep import blend, count_candidates, look_along_rays, sweep_points
from manyview.methods.dimvis.train import DimvisTask

CELLS, DEPTHS = 16, 9
OBSERVED = torch.tensor([[True, False, False, True]])


@pytest.mark.parametrize("num_views", [4, 6])
@pytest.mark.parametrize("slot", [0, 2])
def test_a_surface_is_found_at_its_depth(num_views: int, slot: int) -> None:
    """Each slot's latent is the x, y, z of the plane that faces `slot` at depth 1.5 + 0.275, looked up where
    its own rays meet that plane. Seen from `slot`, the sweep's plane 6 of 9 must then hold the very points of
    the plane, from every other slot, and other planes must not."""
    cameras = orbit(num_views, size=CELLS)
    pixels = torch.stack(torch.meshgrid(*[torch.arange(CELLS) + 0.5] * 2, indexing="xy"), -1)[None]
    depth = torch.full((1, CELLS, CELLS), 1.5 + HALF_RANGE / 2)
    surface = unproject(pixels, depth, cameras[[slot]])
    # The plane in slot `slot`'s frame: points p with (p - c) . forward = depth.
    center, forward = cameras.centers[slot], cameras.world_from_cam[slot, :3, 2]
    ends = unproject(pixels, torch.ones(1, CELLS, CELLS), cameras) - cameras.centers[:, None, None]
    along = ((center - cameras.centers) @ forward + depth[0, 0, 0])[:, None, None] / (ends @ forward)
    latents = (cameras.centers[:, None, None] + along[..., None] * ends).permute(0, 3, 1, 2)[None]
    seen = look_along_rays(latents, torch.ones(1, num_views), DEPTHS)[0, slot].unflatten(0, (num_views, 4))
    for turn in range(1, num_views):
        where, _ = project(surface, cameras[[(slot + turn) % num_views]])
        inside = ((where > 1) & (where < CELLS - 1)).all(-1)[0]
        if num_views // 2 == turn or not bool((along[(slot + turn) % num_views] > 0).all()):
            continue  # seen from behind or at infinity: the plane's picture is not smooth there
        found = seen[turn, :3, 6].permute(1, 2, 0)[inside]
        torch.testing.assert_close(found, surface[0][inside], atol=0.02, rtol=0)
        assert float((seen[turn, :3, 1].permute(1, 2, 0)[inside] - surface[0][inside]).abs().mean()) > 0.1
    torch.testing.assert_close(seen[0, :3, 3], latents[0, slot])


def test_outside_the_images_nothing_is_known() -> None:
    seen = look_along_rays(torch.full((1, 4, 2, CELLS, CELLS), 5.0), torch.ones(1, 4), DEPTHS)[0, 0]
    points = sweep_points(4, DEPTHS, CELLS).reshape(3, DEPTHS, CELLS, CELLS, 2)
    far = (points.abs() > 1 + 1 / CELLS).any(-1)
    assert bool(far.any())
    assert not bool(far.all())
    for turn in (1, 2, 3):
        part = seen[3 * turn : 3 * turn + 3]
        assert not part[:, far[turn - 1]].any()
        near = (points[turn - 1].abs() < 1 - 1 / CELLS).all(-1)
        torch.testing.assert_close(part[:2, near], torch.full_like(part[:2, near], 5.0))


@torch.no_grad()
def test_turning_the_rig_turns_the_sweep() -> None:
    torch.manual_seed(0)
    conditioner = conditioner_of(tiny_options(sweep_depths=3, slot_time=True))
    spread_weights(conditioner)
    latents, time = torch.randn(1, 4, CHANNELS, 8, 8), torch.tensor([400])
    before = untile(conditioner.picture(latents, time, OBSERVED, None), (2, 2))
    after = untile(conditioner.picture(latents.roll(1, 1), time, OBSERVED.roll(1, 1), None), (2, 2))
    torch.testing.assert_close(after, before.roll(1, 1))
    assert float(before[:, :, CHANNELS + 1 :].std()) > 0


def test_a_run_goes_on_from_an_export_without_the_sweep(tmp_path: Path) -> None:
    """The grown network answers as the exported one did, and its sweep still learns."""
    torch.manual_seed(0)
    options = {"latent_channels": CHANNELS, "context_dim": DIM, "slot_time": True}
    latents, embeddings = torch.randn(2, 4, CHANNELS, 8, 8), torch.randn(2, 4, DIM)
    old = build_denoiser("compact", tiny_options(**options))
    with torch.no_grad():
        old.unet.conv_out.weight.normal_()
    old.unet.save_pretrained(tmp_path / "unet")
    old.conditioner.save_pretrained(tmp_path / "conditioner")
    task = DimvisTask(latents, embeddings, tiny_options(**options, sweep_depths=2), initial=tmp_path)
    new = task.build()
    inputs = (latents, torch.tensor([3, 800]), OBSERVED.expand(2, -1), embeddings)
    answer = new(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(answer, old(*inputs))
    answer.square().sum().backward()
    gradient = new.get_parameter("unet.conv_in.weight").grad
    assert gradient is not None
    assert bool((gradient[:, -1] != 0).any())


def test_a_pipeline_with_the_sweep_saves_and_loads(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tiny_options(sweep_depths=2))
    pipeline.save_pretrained(tmp_path)
    again = type(pipeline).from_pretrained(tmp_path, local_files_only=True)
    images = torch.rand(1, 4, 3, 16, 16)
    draws = [p.complete(images, OBSERVED, items=[0], num_steps=2) for p in (pipeline, again)]
    torch.testing.assert_close(*draws, atol=1e-4, rtol=0)


def some_latents(num_depths: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return latents, OBSERVED, look_along_rays(latents, OBSERVED.float(), num_depths)


@pytest.mark.parametrize(("chosen", "source"), [(1, 2), (2, 3), (3, 0), (0, None)])
def test_a_certain_choice_copies(chosen: int, source: int | None) -> None:
    """Candidates of slot 1: zero, slots 2, 3 and 0. Slot 2 is not observed: asked for it, the blend takes
    the others alike."""
    latents, observed, seen = some_latents(2)
    logits = torch.zeros(1, 4, count_candidates(4, 2), 8, 8)
    logits[:, :, chosen] = 100
    made = blend(latents, observed, seen, logits)[0, 1]
    if source is None:
        torch.testing.assert_close(made, torch.zeros_like(made))
    elif source == 2:
        assert float((made - latents[0, 2]).abs().max()) > 0.1
    else:
        torch.testing.assert_close(made, latents[0, source])


def test_a_choice_along_the_ray() -> None:
    """Candidate 4 + 3 of slot 1 is slot 3 at the second of two depths, where that depth falls inside it."""
    latents, observed, seen = some_latents(2)
    logits = torch.zeros(1, 4, count_candidates(4, 2), 8, 8)
    logits[:, :, 4 + 3] = 100
    made = blend(latents, observed, seen, logits)[0, 1]
    inside = (sweep_points(4, 2, 8).reshape(3, 2, 8, 8, 2)[1, 1].abs() <= 1).all(-1)
    assert 0.3 < float(inside.float().mean()) <= 1
    there = seen.unflatten(2, (4, 4))[0, 1, 2, :3, 1]
    torch.testing.assert_close(made[:, inside], there[:, inside])


def test_what_is_not_observed_does_not_show() -> None:
    """Changing the missing slots changes no blend, at any logits; with nothing observed it is zero."""
    latents, observed, seen = some_latents(3)
    logits = torch.randn(1, 4, count_candidates(4, 3), 8, 8, generator=torch.Generator().manual_seed(5))
    other = torch.where(observed[..., None, None, None], latents, latents + 7)
    again = blend(other, observed, look_along_rays(other, observed.float(), 3), logits)
    torch.testing.assert_close(again, blend(latents, observed, seen, logits))
    nothing = torch.zeros_like(observed)
    assert not blend(latents, nothing, seen, logits).any()


@torch.no_grad()
def test_a_fresh_network_begins_near_the_mean_of_the_references() -> None:
    """At the last time the velocity is minus x0; the residual's part is a fresh network's small answer."""
    torch.manual_seed(0)
    denoiser = build_denoiser("compact", tiny_options(latent_channels=CHANNELS, context_dim=DIM, blend=True))
    denoiser.unet.conv_out.weight[:CHANNELS] = 0
    assert denoiser.unet.conv_out.bias is not None
    denoiser.unet.conv_out.bias[:CHANNELS] = 0
    latents = torch.randn(1, 4, CHANNELS, 8, 8)
    guess = -denoiser(latents, torch.tensor([999]), OBSERVED, torch.randn(1, 4, DIM))[0, 1]
    # Two references of logit 4 beside the zero of logit 0.
    share = 2 / (2 + torch.tensor(-4.0).exp())
    torch.testing.assert_close(guess, share * latents[0, [0, 3]].mean(0), atol=1e-4, rtol=1e-4)


def test_the_blend_needs_the_velocity() -> None:
    options = tiny_options(blend=True)
    with pytest.raises(InputError, match="--blend"):
        DimvisTask(torch.zeros(1, 4, CHANNELS, 2, 2), torch.zeros(1, 4, DIM), options, prediction="epsilon")


def test_the_blend_learns_what_a_copy_gives() -> None:
    """Slot 1 always equals slot 0: with both networks trained alike the one with the blend, given slot 0,
    is right at once at the noisiest time."""
    torch.manual_seed(0)
    latents = torch.randn(4, 1, CHANNELS, 8, 8).expand(-1, 4, -1, -1, -1).contiguous()
    task = DimvisTask(latents, torch.zeros(4, 4, DIM), tiny_options(blend=True, slot_time=True))
    plain = DimvisTask(latents, torch.zeros(4, 4, DIM), tiny_options(slot_time=True))
    losses = []
    for each in (task, plain):
        torch.manual_seed(1)
        network = each.build()
        loss, _ = each.loss(network, each.batch(torch.arange(32)), torch.arange(32), 0)
        losses.append(loss.item())
    assert losses[0] < 0.8 * losses[1]
