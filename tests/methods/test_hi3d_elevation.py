"""Elevations: sweeps with known bottoms, a network that learns them, framing that does not tell them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from manyview.data.packed import PackedViews, pack_procedural
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.methods.hi3d.elevation import (
    Elevation,
    ElevationNet,
    candidate_elevations,
    frame_outline,
    given_elevation,
    sweep_elevation,
)
from manyview.methods.hi3d.train_elevation import ElevationTask, elevations_of
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

ELEVATIONS = (-10.0, 0.0, 10.0, 20.0, 30.0, 40.0)


def test_a_sweep_finds_the_bottom_of_a_parabola() -> None:
    # Three points determine a parabola, so its bottom is found exactly, evenly spaced or not.
    for candidates in (ELEVATIONS, (-10.0, -4.0, 9.0, 30.0, 40.0)):
        found = sweep_elevation(lambda degrees: 3 + 0.2 * (degrees - 12.5) ** 2, candidates)
        assert found.source == "swept"
        assert found.degrees == pytest.approx(12.5)
        assert found.scores[candidates[0]] == pytest.approx(3 + 0.2 * 22.5**2)


def test_a_sweep_ends_at_the_ends() -> None:
    assert sweep_elevation(lambda degrees: degrees, ELEVATIONS).degrees == -10
    assert sweep_elevation(lambda degrees: -degrees, ELEVATIONS).degrees == 40
    assert sweep_elevation(lambda _: 1.0, [20.0]).degrees == 20
    assert sweep_elevation(lambda _: 1.0, ELEVATIONS).degrees in ELEVATIONS  # flat: a candidate
    asked: list[float] = []
    sweep_elevation(lambda degrees: asked.append(degrees) or 0.0, [10.0, 0.0, 10.0])
    assert asked == [0.0, 10.0]  # each once, in order
    for broken in ([], None):
        with pytest.raises(InputError):
            sweep_elevation(lambda _: float("nan"), [10.0] if broken is None else broken)


def test_candidates() -> None:
    assert candidate_elevations() == ELEVATIONS
    around = candidate_elevations(Elevation(degrees=20, source="estimated", spread_deg=4))
    assert around == (12, 14, 16, 18, 20, 22, 24, 26, 28)
    edge = candidate_elevations(Elevation(degrees=39, source="estimated", spread_deg=4))
    assert edge == (31, 33, 35, 37, 39, 40)


def test_given_elevations_are_checked() -> None:
    assert given_elevation(30) == Elevation(degrees=30.0, source="given")
    for wrong in (91.0, float("nan")):
        with pytest.raises(InputError, match="--elevation"):
            given_elevation(wrong)


def test_scale_and_place_in_the_photo_tell_nothing() -> None:
    torch.manual_seed(0)
    net = ElevationNet().eval()
    assert sum(weight.numel() for weight in net.parameters()) <= 300_000
    alpha = torch.zeros(1, 96, 96)
    alpha[:, 10:58, 20:50] = 1
    image = torch.rand(3, 96, 96) * alpha + 1 - alpha
    first = net.estimate(image, alpha)
    assert -10 <= first.degrees <= 40
    assert first.spread_deg is not None
    moved = net.estimate(torch.roll(image, (20, 10), (1, 2)), torch.roll(alpha, (20, 10), (1, 2)))
    large = net.estimate(*(part.repeat_interleave(2, 1).repeat_interleave(2, 2) for part in (image, alpha)))
    mirrored = net.estimate(image.flip(-1), alpha.flip(-1))
    for other in (moved, mirrored):
        assert other.degrees == pytest.approx(first.degrees, abs=1e-3)
    assert large.degrees == pytest.approx(first.degrees, abs=0.5)  # enlarged between pixels, not by area
    framed = frame_outline(image, alpha, 64)
    assert_close(framed[:, 0], torch.ones(3, 64))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[PackedViews]:
    """Objects from the side, and from above."""
    root = tmp_path_factory.mktemp("elevation")
    azimuths = torch.arange(4) * 90.0 + 20
    for name, degrees in (("side", -10.0), ("above", 40.0)):
        cameras = sphere_cameras(azimuths, torch.full((4,), degrees), size=64)
        pack_procedural(root / name, 0, 6, cameras)
    return [PackedViews(root / name) for name in ("side", "above")]


def test_elevations_are_the_cameras(sets: list[PackedViews], tmp_path: Path) -> None:
    assert_close(elevations_of(sets[0]), torch.full((6, 4), -10.0), atol=1e-3, rtol=0)
    pack_procedural(tmp_path / "orbit", 0, 1, orbit(2, 25.0, size=16))
    assert_close(elevations_of(PackedViews(tmp_path / "orbit")), torch.full((1, 2), 25.0), atol=1e-3, rtol=0)


def test_it_learns_and_exports(sets: list[PackedViews], tmp_path: Path) -> None:
    class Tiny(ElevationTask):
        def build(self) -> ElevationNet:
            return ElevationNet(widths=(8, 16, 16, 16))

    task = Tiny(sets, validation=sets[1], seed=1)
    batch = task.batch(torch.arange(6))
    assert batch["images"].shape == (6, 3, 64, 64)
    assert torch.equal(task.batch(torch.tensor([4]))["images"][0], batch["images"][4])
    assert set(batch["elevation_deg"].round().tolist()) <= {-10.0, 40.0}
    config = TrainConfig(
        steps=45,
        batch_size=8,
        lr=1e-2,
        warmup_steps=5,
        ema_decay=0.8,
        validate_every=45,
        log_every=15,
        device="cpu",
        dtype="fp32",
        num_threads=1,
        tensorboard=False,
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    # A network that knows nothing answers 15 and is 25 off.
    assert report.validation["error_deg_val"] < 20
    net = ElevationNet.from_pretrained(str(report.export)).float().eval()
    means = []
    for one in sets:
        views = torch.from_numpy(np.concatenate([one[index] for index in range(len(one))]))
        images = views.permute(0, 3, 1, 2).float() / 255
        alphas = (images.amin(dim=1, keepdim=True) < 1).float()
        told = [net.estimate(*pair).degrees for pair in zip(images, alphas, strict=True)]
        means.append(float(np.mean(told)))
    assert means[1] - means[0] > 15


def test_data_without_cameras_is_refused(tmp_path: Path) -> None:
    from manyview.data.packed import describe, write_shard

    describe(tmp_path, {"source": "test"})
    write_shard(tmp_path, 0, np.zeros((1, 1, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="no cameras"):
        ElevationTask([PackedViews(tmp_path)])
