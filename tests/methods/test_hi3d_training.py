"""What training shows the networks of both stages, and that it learns from it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_dimvis import CHANNELS
from tiny_hi3d import tiny_orbits, tiny_unet
from torch.testing import assert_close

from manyview.data.latents import LatentKey, cache_latents
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.methods.hi3d.orbits import StoredCoarse, orbit_elevations
from manyview.methods.hi3d.train import Hi3dOptions, Hi3dTask, clips_of
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

DEPTH = 2


class TinyTask(Hi3dTask):
    """The real task with a small network."""

    def build(self) -> OrbitUNet:
        channels = 2 * CHANNELS + (0 if self.orbits.coarse is None else DEPTH)
        return tiny_unet(channels, closed=self.options.closed).train()


class Marked:
    """Coarse orbits that say which view of which object they are."""

    depth_channels = DEPTH

    def starts(self, objects, items):
        return torch.full((len(objects),), -1)

    def clips(self, objects, frames, starts, items):
        value = (100 * objects[:, None] + frames).float()[:, :, None, None, None]
        return value.expand(-1, -1, CHANNELS, 2, 2), -value.expand(-1, -1, DEPTH, 2, 2)


def test_any_view_is_the_first_frame():
    orbits = tiny_orbits()
    task = Hi3dTask(orbits)
    items = torch.arange(60)
    batch = task.batch(items)
    seen = set()
    for row in range(len(items)):
        # Which object and view the condition is; all the rest follows from it.
        found = (orbits.latents.float() == batch["condition"][row]).flatten(2).all(dim=2).nonzero()
        ((index, start),) = found.tolist()
        seen.add(start)
        assert torch.equal(batch["clean"][row], orbits.latents[index].float().roll(-start, 0))
        assert torch.equal(batch["embedding"][row], orbits.embeddings[index, start].float())
        assert float(batch["elevation_deg"][row]) == 10 * index
        assert batch["places"][row].tolist() == list(range(8))
    assert seen == set(range(8))
    alone = task.batch(items[7:8])
    assert all(torch.equal(alone[name][0], batch[name][7]) for name in batch)


def test_windows_are_consecutive_places_of_the_orbit():
    orbits = tiny_orbits()
    batch = Hi3dTask(orbits, options=Hi3dOptions(window=3)).batch(torch.arange(40))
    whole = Hi3dTask(orbits).batch(torch.arange(40))["clean"]
    places = batch["places"]
    assert torch.equal((places[:, 1:] - places[:, :-1]) % 8, torch.ones(40, 2, dtype=torch.int64))
    assert set(places[:, 0].tolist()) == set(range(8))
    assert torch.equal(batch["clean"], whole[torch.arange(40)[:, None], places])


def test_the_refiner_is_shown_the_input_in_the_place_of_frame_0():
    orbits = tiny_orbits(coarse=Marked())
    start, places = torch.tensor([6, 0]), torch.tensor([[7, 0, 1], [3, 4, 5]])
    batch = clips_of(orbits, torch.tensor([1, 2]), start, places, torch.arange(2))
    marks = batch["condition"][:, :, 0, 0, 0]
    # Object 1 rolled by 6: its places 7 and 1 are views 5 and 7.
    assert marks[0, [0, 2]].tolist() == [105, 107]
    assert torch.equal(batch["condition"][0, 1], orbits.latents[1, 6].float())
    assert marks[1].tolist() == [203, 204, 205]
    assert batch["depth"][0, :, 0, 0, 0].tolist() == [-105, -106, -107]


def test_the_refiner_trains_on_crops():
    orbits = tiny_orbits(coarse=Marked())
    whole = Hi3dTask(orbits, "refine").batch(torch.arange(30))
    cut = Hi3dTask(orbits, "refine", options=Hi3dOptions(crop=1)).batch(torch.arange(30))
    assert cut["clean"].shape == (30, 8, CHANNELS, 1, 1)
    assert cut["depth"].shape == (30, 8, DEPTH, 1, 1)
    corners = whole["clean"].flatten(3).unbind(-1)
    for row in range(30):
        assert any(torch.equal(cut["clean"][row, :, :, 0, 0], corner[row]) for corner in corners)


def test_data_sets_are_drawn_by_their_shares():
    orbits = tiny_orbits(5, counts=(1, 4), elevation_deg=torch.arange(5.0))
    items = torch.arange(2000)
    drawn = Hi3dTask(orbits, shares=(1, 3)).batch(items)["elevation_deg"].long()
    counts = torch.bincount(drawn, minlength=5) / 2000
    assert_close(counts, torch.tensor([0.25, *[0.1875] * 4]), atol=0.03, rtol=0)
    even = Hi3dTask(orbits).batch(torch.arange(5))["elevation_deg"]
    assert sorted(even.tolist()) == [0, 1, 2, 3, 4]  # an epoch without them
    with pytest.raises(InputError, match="--shares"):
        Hi3dTask(orbits, shares=(1, 1, 1))
    with pytest.raises(InputError, match="counts"):
        tiny_orbits(5, counts=(1, 3))


class Spy(OrbitUNet):
    """Notes what it is asked and answers zero."""

    def forward(self, sample, timestep, encoder_hidden_states, vector, places=None, image_only=None):
        self.asked = (sample, timestep, encoder_hidden_states, vector, places)
        return torch.zeros_like(sample[:, :, :CHANNELS])


def spy(channels: int) -> Spy:
    unet = tiny_unet(channels)
    unet.__class__ = Spy
    return unet  # pyright: ignore[reportReturnType]


def test_what_the_network_is_shown():
    """The parts of the input by their definitions, with every draw taken out of the answer."""
    options = Hi3dOptions(drop=0, log_augmentation=(-12.0, 0.1))
    task = Hi3dTask(tiny_orbits(coarse=Marked()), "refine", options=options)
    items = torch.arange(200)
    batch, model = task.batch(items), spy(2 * CHANNELS + DEPTH)
    loss, _ = task.loss(model, batch, items, seed=5)
    sample, level, tokens, vector, places = model.asked
    sigma = (4 * level).exp()
    assert float(sigma.log().mean()) == pytest.approx(1.0, abs=0.3)
    noisy, depth, coarse = sample.split([CHANNELS, DEPTH, CHANNELS], dim=2)
    assert torch.equal(depth, batch["depth"])
    assert_close(coarse, batch["condition"], atol=1e-3, rtol=0)  # but for e^-12 of noise
    assert torch.equal(tokens[:, 0], batch["embedding"])
    assert torch.equal(places, batch["places"])
    assert vector.shape == (200, 16)
    wide = sigma[:, None, None, None, None]
    noise = (noisy * (wide**2 + 1).sqrt() - batch["clean"]) / wide
    assert float(noise[sigma > 1].std()) == pytest.approx(1, abs=0.02)
    # The network says 0, so the loss is the mean square of the velocity: one, for unit data and noise.
    assert float(loss) == pytest.approx(1, abs=0.05)
    again, _ = task.loss(spy(2 * CHANNELS + DEPTH), batch, items, seed=5)
    assert torch.equal(loss, again)


@pytest.mark.parametrize(("joint", "all_three"), [(0.0, 0.125), (0.4, 0.4 + 0.6 * 0.125)])
def test_conditions_are_dropped_one_by_one_or_together(joint, all_three):
    task = Hi3dTask(tiny_orbits(coarse=Marked()), "refine", options=Hi3dOptions(drop=0.5, joint_drop=joint))
    items, model = torch.arange(1000), spy(2 * CHANNELS + DEPTH)
    task.loss(model, task.batch(items), items, seed=0)
    sample, _, tokens, vector, _ = model.asked
    gone = torch.stack(
        [
            (tokens == 0).flatten(1).all(dim=1),
            (sample[:, :, CHANNELS + DEPTH :] == 0).flatten(1).all(dim=1),
            (sample[:, :, CHANNELS : CHANNELS + DEPTH] == 0).flatten(1).all(dim=1),
        ]
    ).float()
    assert_close(gone.mean(dim=1), torch.full((3,), joint + (1 - joint) / 2), atol=0.06, rtol=0)
    assert float(gone.prod(dim=0).mean()) == pytest.approx(all_three, abs=0.05)
    assert bool((vector != 0).any(dim=1).all())  # never dropped


def test_first_stage_noises_its_condition_once_for_all_frames():
    options = Hi3dOptions(drop=0, log_augmentation=(0.0, 0.1))
    task = Hi3dTask(tiny_orbits(), options=options)
    items, model = torch.arange(4), spy(2 * CHANNELS)
    batch = task.batch(items)
    task.loss(model, batch, items, seed=0)
    condition = model.asked[0][:, :, CHANNELS:]
    assert torch.equal(condition, condition[:, :1].expand_as(condition))
    assert float((condition[:, :1] - batch["condition"]).std()) == pytest.approx(1, abs=0.3)


def test_training_learns_and_exports(tmp_path):
    """Orbits in which every view is its object's mark: what the input shows is true of all frames."""
    torch.manual_seed(0)
    marks = torch.randn(2, 1, CHANNELS, 1, 1).expand(2, 4, CHANNELS, 2, 2).half()
    orbits = tiny_orbits(2, 4, latents=marks.contiguous())
    options = Hi3dOptions(closed=True, log_sigma=(0.0, 1.0), drop=0.0)
    task = TinyTask(orbits, options=options, validation=orbits)
    config = TrainConfig(
        steps=40,
        batch_size=4,
        lr=5e-3,
        warmup_steps=2,
        ema_decay=0.9,
        log_every=10,
        validate_every=40,
        device="cpu",
        dtype="fp32",
        tensorboard=False,
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in report.curve]
    assert losses[-1] < 0.85 * losses[0]
    assert set(report.validation) == {"loss_val_low", "loss_val_middle", "loss_val_high"}
    assert report.validation["loss_val_high"] < 1
    unet = OrbitUNet.from_pretrained(report.export / "unet", local_files_only=True)
    assert unet.config["closed"]
    # Sampled as many deviations from the mean as the published range: (ln 700 - 1) / 1.6 = 3.47.
    low, high = options.sigma_range()
    assert math.log(high) == pytest.approx((math.log(700) - 1) / 1.6)
    assert math.log(low) == pytest.approx((math.log(0.002) - 1) / 1.6)
    assert Hi3dOptions().sigma_range() == (0.002, 700.0)


def stored(folder: Path, count: int, variants: int) -> Path:
    """Entries whose numbers tell them apart, [3 + 1, 1, 1] each."""
    entries = torch.arange(count * variants * 4, dtype=torch.float32)[:, None, None, None].expand(-1, 4, 1, 1)
    key = LatentKey(data=str(count), encoder="none")
    return cache_latents([entries], lambda batch: batch, folder, key).folder


def test_stored_coarse_orbits(tmp_path):
    folders = [stored(tmp_path / "a", 2, 3), stored(tmp_path / "b", 1, 1)]
    coarse = StoredCoarse(folders, [2, 1], num_views=4, latent_channels=3)
    assert coarse.depth_channels == 1
    frames = torch.tensor([[3, 0], [1, 2], [2, 3]])
    seen = set()
    for item in range(30):
        items = torch.tensor([item, item, item])
        latents, depth = coarse.clips(torch.tensor([0, 1, 2]), frames, frames[:, 0], items)
        assert latents.shape == (3, 2, 3, 1, 1)
        assert depth.shape == (3, 2, 1, 1, 1)
        first, second, other = latents[:, :, 0, 0, 0].tolist()
        variant = int(first[0]) // 4
        seen.add(variant)
        assert first == [4 * variant + 3, 4 * variant]
        assert second[0] in (12 + 1, 16 + 1, 20 + 1)
        assert other == [2, 3]
    assert seen == {0, 1, 2}
    with pytest.raises(InputError, match="--coarse"):
        StoredCoarse(folders, [2, 5], num_views=4, latent_channels=3)
    with pytest.raises(InputError, match="one a data set"):
        StoredCoarse(folders, [2], num_views=4, latent_channels=3)


def test_elevations_of_orbits():
    rigs = [orbit(8, elevation, start_azimuth_deg=40) for elevation in (-10.0, 35.0)]
    assert_close(orbit_elevations(rigs, 2), torch.tensor([-10.0, 35.0]), atol=1e-3, rtol=0)
    assert_close(orbit_elevations(rigs[1:], 3), torch.full((3,), 35.0), atol=1e-3, rtol=0)
    turned = orbit(8, 30.0)[[0, 7, 6, 5, 4, 3, 2, 1]]  # clockwise
    rising = sphere_cameras([0, 90, 180, 270], [0, 10, 20, 30])
    for wrong in (turned, rising):
        with pytest.raises(InputError, match="expected an orbit"):
            orbit_elevations([wrong], 1)


REFINE = {"orbits": tiny_orbits(coarse=Marked()), "stage": "refine"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stage": "mesh"}, "--stage"),
        ({"stage": "refine"}, "--coarse"),
        ({"options": Hi3dOptions(window=9)}, "--window"),
        ({"preset": "paper"}, "expected orbits of 16"),
        ({"options": Hi3dOptions(crop=1)}, "--crop-cells"),
        ({**REFINE, "options": Hi3dOptions(crop=3)}, "--crop"),
        ({**REFINE, "options": Hi3dOptions(sweep_depths=2)}, "--sweep-depths"),
    ],
)
def test_refused_tasks(changes, said):
    with pytest.raises(InputError, match=said):
        Hi3dTask(**{"orbits": tiny_orbits(), **changes})


def test_refused_options():
    with pytest.raises(InputError, match="--log-sigma"):
        Hi3dOptions(log_sigma=(0.0, 0.0))
    with pytest.raises(InputError, match="--joint-drop"):
        Hi3dOptions(joint_drop=1.0)
    with pytest.raises(InputError, match="elevation_deg"):
        tiny_orbits(elevation_deg=torch.zeros(2))
