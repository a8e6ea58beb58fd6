"""Training of the refiner: step 0 is GANSpace, the generator holds still, losses can be left out, yaw
nets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import (
    NUMBERS,
    ROWS,
    SIZE,
    tiny_basis,
    tiny_codes,
    tiny_refiner,
    tiny_self_taught,
    write_single_views,
)

from manyview.errors import InputError
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.losses import RefinerLosses
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.train import RefinerTask
from manyview.methods.refiner.train_depth import SelfTaught
from manyview.methods.refiner.train_yaw import YawTask
from manyview.methods.refiner.yaw_net import YawNet
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

SHORT = {"batch_size": 2, "warmup_steps": 0, "log_every": 1, "device": "cpu", "dtype": "fp32"}


def task(**changes: object) -> RefinerTask:
    made = RefinerTask(tiny_codes(), tiny_self_taught(), **changes)  # pyright: ignore
    made.build = tiny_refiner
    return made


def test_a_fresh_refiner_gives_ganspace_whatever_the_noise() -> None:
    model, work = tiny_refiner(), task()
    batch = work.batch(torch.arange(4))
    codes = work.generator.sample([0, 1, 2, 3])
    edited = work.calibration.basis.edit(codes, batch["amounts"])
    noisy = model.add_noise(edited, batch["levels"], batch["noise"])
    with torch.no_grad():
        refined = model(codes, edited, torch.randn(4, 6), batch["levels"], noisy)
    torch.testing.assert_close(refined, edited)
    assert float((edited - codes).abs().max()) > 0


def test_the_first_loss_is_that_of_the_edited_codes() -> None:
    work, model = task(), tiny_refiner()
    items = torch.arange(3)
    loss, parts = work.loss(model, work.batch(items), items, 0)
    assert float(parts["moved"]) == pytest.approx(0, abs=1e-6)
    # The turn of an unrefined picture is the wanted one, but for what other colours do to a fresh network.
    assert float(parts["guard"].detach()) < 1e-3
    expected = parts["warp"] + parts["latent"] + parts["feature"] + 60 * parts["guard"]
    torch.testing.assert_close(loss, expected)


def test_only_the_refiner_learns() -> None:
    work, model = task(), tiny_refiner(moving=True)
    items = torch.arange(2)
    loss, _ = work.loss(model, work.batch(items), items, 0)
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    others = [*work.calibration.parameters(), *work.generator.network.parameters()]  # pyright: ignore
    assert all(p.grad is None for p in others)


def test_losses_left_out_do_not_count() -> None:
    items = torch.arange(2)
    model = tiny_refiner(moving=True)
    for name in ("warp", "latent", "feature", "guard"):
        work = task(losses=RefinerLosses().without(name))
        loss, parts = work.loss(model, work.batch(items), items, 0)
        kept = {one: (60 if one == "guard" else 1) for one in ("warp", "latent", "feature", "guard")}
        kept[name] = 0
        torch.testing.assert_close(loss, sum(weight * parts[one] for one, weight in kept.items()))
        assert work.settings[f"loss_{name}"] == 0


def test_a_run_lowers_its_loss_and_is_loaded_again(tmp_path: Path) -> None:
    work = task(losses=RefinerLosses(guard=1.0))
    config = TrainConfig(steps=12, lr=3e-3, weight_decay=0.0, validate_every=12, ema_decay=0.5, **SHORT)
    report = fit(work, config, tmp_path / "run", progress=False)
    model = CodeRefiner.from_pretrained(str(report.export / "refiner")).float().eval()
    fresh, trained = tiny_refiner(), model
    items = torch.arange(1000, 1008)
    batch = work.batch(items)
    with torch.no_grad():
        before, after = (float(work.loss(one, batch, items, 0)[0]) for one in (fresh, trained))
    assert after < before
    assert set(report.validation) == {
        f"{what}_{which}_val" for what in ("warp", "ssim") for which in ("edited", "refined")
    } | {"off_edited_deg_val", "off_refined_deg_val"}
    assert report.validation["off_edited_deg_val"] == pytest.approx(0, abs=1e-4)


def test_levels_are_mostly_low_and_belong_to_items() -> None:
    work = task()
    batch = work.batch(torch.arange(400))
    levels = batch["levels"]
    assert int(levels.min()) >= 0
    assert int(levels.max()) <= 999
    assert 180 < float(levels.float().median()) < 330  # 1000 / 4
    assert float(batch["amounts"].abs().max()) <= 3
    alone = work.batch(torch.tensor([7]))
    assert all(torch.equal(alone[name], batch[name][7:8]) for name in batch)


def test_a_direction_of_other_codes_is_refused() -> None:
    taught = tiny_self_taught()
    other = SelfTaught(taught.depth, taught.pose, SweepBasis(w_dim=NUMBERS + 1, num_components=2))
    with pytest.raises(InputError, match="--calibration"):
        RefinerTask(tiny_codes(), other)


def test_the_basis_is_kept_with_what_was_found(tmp_path: Path) -> None:
    basis = tiny_basis()
    basis.calibrate(-1, 12.5)
    basis.save_pretrained(str(tmp_path))
    again = SweepBasis.from_pretrained(str(tmp_path))
    assert again.rotation.sign == -1
    assert again.rotation.yaw_per_sigma_deg == 12.5
    assert again.rotation.layers == (0, 4)
    codes = torch.zeros(2, ROWS, NUMBERS)
    moved = again.edit(codes, torch.tensor([1.0, -2.0]))
    assert moved[:, :, 0].tolist() == [[-1.0] * 4 + [0.0] * 6, [2.0] * 4 + [0.0] * 6]


def test_yaw_net_learns_where_squares_are(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", count=24)
    work = YawTask(data, data)
    work.build = lambda: YawNet(size=SIZE, widths=(8, 8, 8), hidden=16)
    config = TrainConfig(steps=50, lr=4e-3, validate_every=50, ema_decay=0.8, **{**SHORT, "batch_size": 12})
    report = fit(work, config, tmp_path / "run", progress=False)
    # Yaws from -50 to 50: telling nothing is off by 26 degrees on average.
    assert report.validation["error_deg_val"] < 16
    net = YawNet.from_pretrained(str(report.export)).float().eval()
    images = work.source.images(range(3))
    torch.testing.assert_close(net.measure(images.flip(-1)), -net.measure(images))
    larger = torch.nn.functional.interpolate(images, scale_factor=2.0)
    torch.testing.assert_close(net.measure(larger), net.measure(images), atol=1e-3, rtol=0)
