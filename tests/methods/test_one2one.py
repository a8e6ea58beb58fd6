"""The one-to-one baseline at toy size: relative cameras, conditioning, sampling, training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_dimvis import (
    CHANNELS,
    DIM,
    SIZE,
    codec_and_encoder,
    spread_weights,
    tiny_pair_pipeline,
    tiny_unet,
    torch_threads,
)
from torch import nn

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.methods import load
from manyview.methods.one2one.model import PairDenoiser, PoseConditioner, build_denoiser, relative_camera
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.methods.one2one.train import One2OneTask
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.types import Views
from manyview.weights import write_bundle


@pytest.fixture(scope="module")
def pipeline() -> One2OnePipeline:
    return tiny_pair_pipeline()


def one_view(azimuth: float = 0.0) -> Views:
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    return Views(images=images, cameras=orbit(1, size=SIZE, start_azimuth_deg=azimuth))


def test_relative_cameras() -> None:
    """Zero123's four numbers: rise, sine and cosine of the turn, change of distance."""
    azimuths = torch.tensor([350.0, 20.0, 90.0], dtype=torch.float64)
    reference = sphere_cameras(azimuths, 30.0, 1.5)
    target = sphere_cameras(torch.tensor([80.0, 20.0, 45.0], dtype=torch.float64), 50.0, 2.0)
    rise, root = math.radians(20), math.sqrt(0.5)
    expected = torch.tensor([[rise, 1, 0, 0.5], [rise, 0, 1, 0.5], [rise, -root, root, 0.5]])
    torch.testing.assert_close(relative_camera(reference, target).float(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_token_starts_as_the_plain_embedding() -> None:
    conditioner, embedding = PoseConditioner(context_dim=DIM), torch.randn(2, DIM)
    assert torch.equal(conditioner(embedding, torch.randn(2, 4)), embedding[:, None])
    conditioner.mix.weight[:, DIM:] = 1
    pose = torch.tensor([[1.0, 2, 3, 4]]).expand(2, 4)
    torch.testing.assert_close(conditioner(embedding, pose), embedding[:, None] + 10)


@torch.no_grad()
def test_dropping_hides_reference_and_token() -> None:
    torch.manual_seed(0)
    denoiser = PairDenoiser(tiny_unet(2 * CHANNELS), PoseConditioner(context_dim=DIM))
    spread_weights(denoiser)
    x, time = torch.randn(2, CHANNELS, 4, 4), torch.tensor([10, 10])
    first, second = ((torch.randn(2, CHANNELS, 4, 4), torch.randn(2, DIM), torch.randn(2, 4)) for _ in "ab")
    drop, keep = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    assert torch.equal(denoiser(x, time, *first, drop), denoiser(x, time, *second, drop))
    shown = denoiser(x, time, *first, keep)
    assert not torch.equal(shown, denoiser(x, time, *second, keep))
    mixed = denoiser(x, time, *first, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], shown[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[1], denoiser(x, time, *first, drop)[1], atol=1e-5, rtol=1e-4)


def test_paper_preset_is_zero123s_size() -> None:
    """Stable Diffusion's U-Net (859,520,964) with 4 more input channels: 4 x 320 x 9 more weights."""
    with torch.device("meta"):
        denoiser = build_denoiser("paper", 4, 768)
    assert sum(weight.numel() for weight in denoiser.unet.parameters()) == 859_520_964 + 4 * 320 * 9
    assert denoiser.conditioner.mix.weight.shape == (768, 772)


def test_result_is_the_reference_and_one_view_a_target(pipeline: One2OnePipeline) -> None:
    views, targets = one_view(), orbit(4, size=64)[1:]
    result = pipeline(views, targets, seed=3, num_steps=2)
    assert result.views.images.shape == (4, 3, SIZE, SIZE)
    assert result.views.observed.tolist() == [True, False, False, False]
    assert torch.equal(result.views.images[0], views.images[0])
    assert result.views.cameras is not None
    assert result.views.cameras.sizes.tolist() == [[SIZE, SIZE]] * 4
    torch.testing.assert_close(result.views.cameras.centers[1:], targets.centers)
    assert bool(torch.isfinite(result.views.images).all())
    again = pipeline(views, targets, seed=3, num_steps=2)
    assert torch.equal(again.views.images, result.views.images)
    other = pipeline(views, targets, seed=4, num_steps=2)
    assert not torch.equal(other.views.images, result.views.images)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_batches_change_nothing(pipeline: One2OnePipeline, guidance: float) -> None:
    references = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    pose = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    options = {"seed": 1, "num_steps": 3, "guidance": guidance}
    together = pipeline.predict(references, pose, items=range(8), **options)
    single = pipeline.predict(references, pose, items=range(8), batch_size=1, **options)
    assert float((single - together).abs().max()) < 1e-3
    alone = pipeline.predict(references[5:6], pose[5:6], items=[5], **options)
    assert float((alone - together[5:6]).abs().max()) < 1e-3
    with torch_threads(3):
        divided, again = (pipeline.predict(references, pose, items=range(8), **options) for _ in range(2))
    assert float((divided - together).abs().max()) < 1e-3
    assert torch.equal(again, divided)


def test_only_the_turn_counts(pipeline: One2OnePipeline) -> None:
    """Reference and target turned together about the object give the same picture."""
    first = pipeline(one_view(0), orbit(1, start_azimuth_deg=40), num_steps=2).views.images
    second = pipeline(one_view(100), orbit(1, start_azimuth_deg=140), num_steps=2).views.images
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_refusals(pipeline: One2OnePipeline) -> None:
    targets = orbit(2, size=SIZE)
    with pytest.raises(InputError, match="INPUT: no cameras"):
        pipeline(Views(images=torch.zeros(1, 3, SIZE, SIZE)), targets)
    unseen = Views(
        images=torch.zeros(2, 3, SIZE, SIZE), cameras=targets, observed=torch.zeros(2, dtype=torch.bool)
    )
    with pytest.raises(InputError, match="INPUT: no observed view"):
        pipeline(unseen, targets)
    with pytest.raises(InputError, match="--steps: 0"):
        pipeline(one_view(), targets, num_steps=0)


class TinyPairTask(One2OneTask):
    """The same task with a smaller network."""

    def build(self) -> nn.Module:
        return PairDenoiser(tiny_unet(2 * CHANNELS), PoseConditioner(context_dim=DIM))


def test_pairs_match_their_relative_camera() -> None:
    """Latents that hold their azimuth's index show which views an item pairs, and by what turn."""
    index = torch.arange(16.0)[None, :, None, None, None].expand(5, -1, CHANNELS, 2, 2)
    embeddings = torch.arange(16.0)[None, :, None].expand(5, -1, DIM)
    task = TinyPairTask(index, embeddings)
    batch = task.batch(torch.arange(200))
    reference, target = batch["reference"][:, 0, 0, 0], batch["target"][:, 0, 0, 0]
    assert len(target) == 800
    assert torch.equal(batch["embedding"][:, 0], reference)
    steps = torch.remainder(target - reference, 16)
    assert set(steps.tolist()) == set(range(1, 16))  # never the reference itself
    angle = torch.deg2rad(22.5 * steps)
    zero = torch.zeros_like(angle)
    torch.testing.assert_close(batch["pose"], torch.stack([zero, angle.sin(), angle.cos(), zero], dim=-1))
    # The same numbers as the cameras of such an orbit give.
    cameras = orbit(16)
    expected = relative_camera(cameras[reference.long()], cameras[target.long()])
    torch.testing.assert_close(batch["pose"], expected.float(), atol=1e-4, rtol=0)
    again = task.batch(torch.tensor([150]))["target"]
    assert torch.equal(again, batch["target"][600:604])


def test_it_learns_and_loads_by_name(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(6, 1, CHANNELS, 1, 1, generator=generator).expand(-1, 8, -1, 2, 2).contiguous()
    embeddings = torch.randn(6, 1, DIM, generator=generator).expand(-1, 8, -1).contiguous()
    config = TrainConfig(
        steps=40,
        batch_size=16,
        lr=1e-2,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        dtype="fp32",
        device="cpu",
        num_threads=1,
        tensorboard=False,
    )
    report = fit(TinyPairTask(latents, embeddings), config, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in report.curve]
    assert losses[-1] < 0.7 * losses[0], losses

    codec, encoder = codec_and_encoder()
    codec.save_pretrained(report.export / "vae")
    encoder.save_pretrained(report.export / "image_encoder")
    names = ("vae", "image_encoder", "unet", "conditioner", "scheduler")
    write_bundle(
        report.export,
        name="toy",
        method="one2one",
        licence="Apache-2.0",
        components={name: name for name in names},
    )
    pipeline = load("one2one", report.export)
    result = pipeline(one_view(), orbit(1, start_azimuth_deg=90), num_steps=2)
    assert len(result.manifest["weights"]) == 5
    assert result.manifest["command"] == "synth one2one"
