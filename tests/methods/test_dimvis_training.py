"""What DiMViS learns from: the drawn subsets, Eq. 5, and a run that visibly learns."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from tiny_dimvis import (
    CHANNELS,
    DIM,
    SIZE,
    codec_and_encoder,
    tiny_denoiser,
    tiny_options,
    tiny_pipeline,
    tiny_unet,
)
from torch import nn

from manyview.data.render.protocols import protocol_cameras
from manyview.errors import InputError, Stopped
from manyview.geometry.rays import camera_rays, plucker
from manyview.methods import load
from manyview.methods.dimvis.model import DimvisOptions, TileDenoiser
from manyview.methods.dimvis.train import DimvisTask, draw_observed, masked_loss
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.types import Views
from manyview.weights import write_bundle


class TinyDimvisTask(DimvisTask):
    """The same task with a smaller network."""

    def build(self) -> nn.Module:
        return tiny_denoiser(self.options)


def toy_latents(objects: int = 6, azimuths: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """All views of an object are the same latent: given one, the others are certain."""
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(objects, 1, CHANNELS, 1, 1, generator=generator).expand(-1, azimuths, -1, 2, 2)
    embeddings = torch.randn(objects, 1, DIM, generator=generator).expand(-1, azimuths, -1)
    return latents.contiguous().half(), embeddings.contiguous().half()


def quick(**changes: object) -> TrainConfig:
    options: dict = {
        "steps": 60,
        "batch_size": 32,
        "lr": 1e-2,
        "warmup_steps": 5,
        "ema_decay": 0.9,
        "log_every": 10,
        "dtype": "fp32",
        "device": "cpu",
        "num_threads": 1,
        "tensorboard": False,
        **changes,
    }
    return TrainConfig(**options)


@pytest.mark.parametrize("num_views", [2, 4])
def test_subsets_are_drawn_as_the_paper_says(num_views: int) -> None:
    """d = 0.2 without references, else each of 2^V - 2 subsets alike.

    Deviation of a frequency p of N draws: sqrt(p (1 - p) / N); four of them.
    """
    count = 20_000
    observed = draw_observed(0, torch.arange(count), num_views, 0.2)
    codes = (observed * 2 ** torch.arange(num_views)).sum(dim=1)
    frequency = torch.bincount(codes, minlength=2**num_views) / count
    strict = 2**num_views - 2
    expected = torch.tensor([0.2] + [0.8 / strict] * strict + [0.0])
    assert float(frequency[-1]) == 0  # never all observed
    assert bool(((frequency - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all())


def test_a_subset_belongs_to_its_item() -> None:
    items = torch.tensor([5, 900, 2**40])
    together = draw_observed(3, items, 4, 0.2)
    for row, item in enumerate(items):
        assert torch.equal(draw_observed(3, item[None], 4, 0.2)[0], together[row])
    many = torch.arange(200)
    assert not torch.equal(draw_observed(3, many, 4, 0.2), draw_observed(4, many, 4, 0.2))
    assert not draw_observed(0, many, 4, 1.0).any()
    assert bool(draw_observed(0, many, 4, 0.0).any(dim=1).all())


def naive_loss(prediction: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> float:
    """Eq. 5 in loops: lambda ||M (eps - eps_theta)||^2, lambda = 1 + |C| / |M|, per number of the tile."""
    num_missing = int((~observed).sum())
    scale = 1 + int(observed.sum()) / num_missing
    total = 0.0
    for slot in range(len(observed)):
        if not observed[slot]:
            total += float(((target[slot] - prediction[slot]) ** 2).sum())
    return scale * total / target.numel()


def test_loss_is_equation_5() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 16, 4, 3, 2, 2, generator=generator).unbind()
    subsets = (torch.arange(15)[:, None] >> torch.arange(4)) & 1 == 1
    found = masked_loss(prediction[:15], target[:15], subsets)
    assert found.shape == (15,)
    for index in range(15):
        expected = naive_loss(prediction[index], target[index], subsets[index])
        assert float(found[index]) == pytest.approx(expected, rel=1e-5)
    # With nothing observed: the plain mean.
    plain = (prediction[0] - target[0]).square().mean()
    assert float(found[0]) == pytest.approx(float(plain), rel=1e-5)


def test_loss_ignores_what_is_predicted_for_observed_slots() -> None:
    prediction = torch.randn(1, 4, 3, 2, 2, requires_grad=True)
    observed = torch.tensor([[True, False, True, False]])
    masked_loss(prediction, torch.randn(1, 4, 3, 2, 2), observed).sum().backward()
    assert prediction.grad is not None
    assert not prediction.grad[0, [0, 2]].any()
    assert bool((prediction.grad[0, [1, 3]] != 0).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_network_sees_clean_references_and_noisy_rest(prediction: str) -> None:
    """The loss of a network that answers with its own input, worked out from what it was shown."""
    latents, embeddings = toy_latents()
    task = TinyDimvisTask(latents, embeddings, tiny_options(), prediction=prediction)  # type: ignore[arg-type]
    shown: dict[str, torch.Tensor] = {}

    class Spy(nn.Module):
        def forward(
            self, x: torch.Tensor, timestep: torch.Tensor, observed: torch.Tensor, embeddings: torch.Tensor
        ) -> torch.Tensor:
            shown.update(x=x, timestep=timestep, observed=observed, embeddings=embeddings)
            return torch.zeros_like(x)

    items = torch.arange(40)
    batch = task.batch(items)
    loss, _ = task.loss(Spy(), batch, items, seed=1)
    observed, clean = shown["observed"], batch["latents"]
    assert torch.equal(shown["x"][observed], clean[observed])
    assert torch.equal(shown["embeddings"], batch["embeddings"])
    # One time for the whole tile; x = a^.5 z + (1 - a)^.5 e gives back the noise e.
    a = task.scheduler.alphas_cumprod[shown["timestep"]][:, None, None, None, None]
    noise = (shown["x"] - a.sqrt() * clean) / (1 - a).sqrt()
    target = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
    expected = [naive_loss(torch.zeros_like(t), t, o) for t, o in zip(target, observed, strict=True)]
    assert float(loss) == pytest.approx(sum(expected) / len(expected), rel=1e-3)
    # The noise is standard normal: 40 items, about 60 % of 64 numbers each.
    drawn = noise[~observed]
    assert abs(float(drawn.mean())) < 0.1
    assert abs(float(drawn.std()) - 1) < 0.1


def test_rigs_are_evenly_spaced_from_any_azimuth() -> None:
    latents = torch.arange(16.0)[None, :, None, None, None].expand(3, -1, CHANNELS, 2, 2)
    task = TinyDimvisTask(latents, torch.zeros(3, 16, DIM), tiny_options())
    azimuths = task.batch(torch.arange(400))["latents"][:, :, 0, 0, 0]
    assert bool((torch.remainder(azimuths.diff(dim=1), 16) == 4).all())
    assert set(azimuths[:, 0].tolist()) == set(range(16))
    again = task.batch(torch.tensor([7, 399]))["latents"][:, :, 0, 0, 0]
    assert torch.equal(again, azimuths[[7, 399]])


def test_a_grid_that_does_not_divide_the_orbit_is_refused() -> None:
    with pytest.raises(InputError, match=r"--grid: \(2, 3\): expected rows x columns to divide the 8"):
        DimvisTask(*toy_latents(), tiny_options(grid=(2, 3)))


def test_validation_reports_every_number_of_references() -> None:
    latents, embeddings = toy_latents()
    task = TinyDimvisTask(latents, embeddings, tiny_options(), validation=(latents[:2], embeddings[:2]))
    torch.manual_seed(0)
    with torch.no_grad():  # as the loop calls it
        figures = task.validate(task.build().eval(), torch.device("cpu"))
    assert list(figures) == ["loss_val_1", "loss_val_2", "loss_val_3"]
    assert all(0 < value < 10 for value in figures.values())


def test_it_learns_stops_resumes_and_exports(tmp_path: Path) -> None:
    """Sixty steps on a certain answer; a run cut in two writes the same weights; they load by name."""
    latents, embeddings = toy_latents()
    options = tiny_options(slot_embedding=True, slot_time=True)
    task = TinyDimvisTask(latents, embeddings, options)
    report = fit(task, quick(), tmp_path / "whole", progress=False)
    losses = [row["loss"] for row in report.curve]
    assert losses[-1] < 0.65 * losses[0], losses

    with pytest.raises(Stopped):
        fit(task, quick(stop_after_steps=23), tmp_path / "parts", progress=False)
    resumed = fit(task, quick(), tmp_path / "parts", resume=True, progress=False)
    assert [row["loss"] for row in resumed.curve] == losses
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "conditioner/diffusion_pytorch_model.safetensors",
    ):
        assert (report.export / name).read_bytes() == (resumed.export / name).read_bytes()
    assert json.loads((tmp_path / "whole/train.json").read_text())["steps"] == 60

    codec, encoder = codec_and_encoder()
    codec.save_pretrained(report.export / "vae")
    encoder.save_pretrained(report.export / "image_encoder")
    names = ("vae", "image_encoder", "unet", "conditioner", "scheduler")
    write_bundle(
        report.export,
        name="toy",
        method="dimvis",
        licence="Apache-2.0",
        components={name: name for name in names},
        settings={"guidance_by_references": [1.5]},
    )
    pipeline = load("dimvis", report.export)
    assert pipeline.conditioner.options == options
    assert pipeline.default_guidance(1) == 1.5
    result = pipeline(Views(images=torch.rand(1, 3, SIZE, SIZE)), num_steps=2)
    assert len(result.manifest["weights"]) == 5
    assert bool(torch.isfinite(result.views.images).all())


def test_training_starts_from_a_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The added input channels are zero, so that the first answer is the published network's."""
    torch.manual_seed(1)
    published = tiny_unet(CHANNELS)
    published.save_pretrained(tmp_path / "unet")
    # The toy network in the place of the preset's; what is tested is what `build` does with it.
    monkeypatch.setattr(
        "manyview.methods.dimvis.train.build_denoiser", lambda preset, options: tiny_denoiser(options)
    )
    options = tiny_options(slot_time=True, rays=True)
    built = DimvisTask(*toy_latents(), options, initial=tmp_path / "unet").build()
    assert isinstance(built, TileDenoiser)
    weight = built.unet.conv_in.weight
    assert torch.equal(weight[:, :CHANNELS], published.conv_in.weight)
    assert not weight[:, CHANNELS:].any()
    own, expected = built.unet.state_dict(), published.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in own if key != "conv_in.weight")


def test_options_follow_the_data() -> None:
    options = DimvisOptions(grid=(2, 4), slot_time=True, rays=True, latent_channels=5)
    assert options.num_views == 8
    assert options.in_channels == 5 + 1 + 6


def test_rays_turn_with_the_rig() -> None:
    """Wherever a rig of an orbit begins, turned so that slot 0 is at azimuth 0 it has the rays shown."""
    latents, embeddings = torch.zeros(1, 16, CHANNELS, 4, 4), torch.zeros(1, 16, DIM)
    task = TinyDimvisTask(latents, embeddings, tiny_options(rays=True))
    assert task.rays is not None
    whole = protocol_cameras("orbit16", 8)
    for start in (0, 3, 14):
        angle = -2 * torch.pi * start / 16
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        rig = whole.resized(4, 4)[(start + torch.arange(4) * 4) % 16]
        origins, directions = camera_rays(dataclasses.replace(rig, world_from_cam=turn @ rig.world_from_cam))
        expected = plucker(origins, directions).permute(0, 3, 1, 2)
        torch.testing.assert_close(task.rays, expected, atol=1e-5, rtol=1e-5)


def test_rays_reach_the_network_in_training_and_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []
    original = TileDenoiser.forward

    def forward(self: TileDenoiser, *words: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        rays = named.get("rays", words[5] if len(words) > 5 else None)
        if rays is not None:
            shown.append(rays)
        return original(self, *words, **named)

    monkeypatch.setattr(TileDenoiser, "forward", forward)
    latents, embeddings = toy_latents()
    torch.manual_seed(0)
    for rays in (False, True):
        task = TinyDimvisTask(latents, embeddings, tiny_options(rays=rays), validation=(latents, embeddings))
        items = torch.arange(5)
        model = task.build()
        loss, _ = task.loss(model, task.batch(items), items, seed=0)
        assert bool(loss.isfinite())
        assert [tuple(r.shape) for r in shown] == ([(5, 4, 6, 2, 2)] if rays else [])
    loss.backward()
    # The channels start at zero weight, so that it is their gradient that shows they are looked at.
    assert isinstance(model, TileDenoiser)
    gradient = model.unet.conv_in.weight.grad
    assert gradient is not None
    assert bool((gradient[:, CHANNELS:].abs().amax(dim=(0, 2, 3)) > 0).all())
    with torch.no_grad():
        task.validate(model, torch.device("cpu"))
    trained = shown[0][0]
    assert all(torch.equal(part, trained) for rays in shown for part in rays)

    shown.clear()
    pipeline = tiny_pipeline(tiny_options(rays=True))
    pipeline(Views(images=torch.rand(2, 3, SIZE, SIZE)), slots=(3, 1), num_steps=1)
    assert len(shown) > 0
    assert all(torch.equal(part, trained) for rays in shown for part in rays)


def test_settings_say_what_a_run_depends_on(tmp_path: Path) -> None:
    latents, embeddings = toy_latents()
    plain = DimvisTask(latents, embeddings, tiny_options()).settings
    other = DimvisTask(latents, embeddings, tiny_options(rays=True), initial=tmp_path).settings
    assert (plain["rays"], plain["initial"]) == (False, "")
    assert (other["rays"], other["initial"]) == (True, str(tmp_path))
