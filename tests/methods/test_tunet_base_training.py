"""What training shows the base, and that it learns from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from tunet_sets import CHANNELS, numbers_of, posed

from manyview.errors import InputError
from manyview.methods.tunet.base import load_base
from manyview.methods.tunet.base_files import open_base
from manyview.methods.tunet.train_base import BaseTraining, TunetBaseTask
from manyview.training.config import TrainConfig
from manyview.training.loop import fit


class Spy(nn.Module):
    """Notes what it is asked and answers zero."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        self.asked = sample, timestep, class_labels
        return (torch.zeros_like(sample),)


def test_every_view_of_all_sets_comes_up_once_an_epoch() -> None:
    task = TunetBaseTask([posed([4, 6]), posed([5], mark=8.0)])
    batch = task.batch(torch.arange(15))
    found = batch["latents"][:, 0, 0, 0]
    assert sorted(found.tolist()) == sorted([m / 64 for m in range(10)] + [8 + m / 64 for m in range(5)])
    alone = task.batch(torch.tensor([7]))
    assert torch.equal(alone["latents"][0], batch["latents"][7])
    assert task.batch(torch.arange(15, 30))["latents"][:, 0, 0, 0].tolist() != found.tolist()


def test_shares_and_classes() -> None:
    first = posed([4, 6], class_ids=torch.tensor([1, -1]))
    task = TunetBaseTask([first, posed([5], mark=8.0)], classes=("a", "b"), shares=(1, 3))
    batch = task.batch(torch.arange(1000))
    ours = batch["latents"][:, 0, 0, 0] < 4
    assert float(ours.float().mean()) == pytest.approx(0.25, abs=0.05)
    numbers = torch.tensor(numbers_of(batch["latents"][ours]))
    assert set(numbers.tolist()) == set(range(10))
    assert torch.equal(batch["class_ids"][ours], torch.where(numbers < 4, 1, 2))
    assert batch["class_ids"][~ours].tolist() == [2] * int((~ours).sum())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_network_is_shown(prediction) -> None:
    task = TunetBaseTask(
        [posed([16])], classes=("a",), options=BaseTraining(prediction=prediction, class_drop=0.5)
    )
    items, model = torch.arange(400), Spy()
    batch = task.batch(items)
    batch["class_ids"] = torch.zeros_like(batch["class_ids"])
    loss, parts = task.loss(model, batch, items, seed=4)
    noisy, times, classes = model.asked
    assert float((classes == 1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(times.float().mean()) == pytest.approx(500, abs=50)
    alpha = task.scheduler.alphas_cumprod[times][:, None, None, None]
    usual = alpha[:, 0, 0, 0] < 0.9
    noise = ((noisy - alpha.sqrt() * batch["latents"]) / (1 - alpha).sqrt())[usual]
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    # The network says 0: the loss is the mean square of what it should say.
    wanted = 1.0 if prediction == "epsilon" else None
    if wanted:
        assert float(loss) == pytest.approx(wanted, abs=0.03)
    assert torch.equal(loss.detach(), parts["plain"])
    again, _ = task.loss(Spy(), batch, items, seed=4)
    assert torch.equal(loss, again)


def test_weights_by_signal_to_noise() -> None:
    """min(SNR, 5) / SNR for noise, min(SNR, 5) / (SNR + 1) for velocities (Hang et al. 2023)."""
    times = torch.tensor([10, 500, 990])
    for prediction, extra in (("epsilon", 0), ("v_prediction", 1)):
        task = TunetBaseTask([posed([4])], options=BaseTraining(prediction=prediction, min_snr=5.0))
        alpha = task.scheduler.alphas_cumprod[times].double()
        ratio = alpha / (1 - alpha)
        assert float(ratio[0]) > 5 > float(ratio[1])
        expected = torch.minimum(ratio, torch.tensor(5.0)) / (ratio + extra)
        assert_close(task.weights(times), expected.float())
    assert TunetBaseTask([posed([4])]).weights(times).tolist() == [1, 1, 1]


def test_training_learns_and_exports(tmp_path: Path) -> None:
    sets = posed([8, 8])
    task = TunetBaseTask([sets], validation=sets)
    config = TrainConfig(
        steps=12,
        batch_size=8,
        lr=2e-3,
        warmup_steps=2,
        ema_decay=0.9,
        log_every=4,
        validate_every=12,
        device="cpu",
        dtype="fp32",
        tensorboard=False,
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in report.curve]
    assert losses[-1] < 0.9 * losses[0]
    assert set(report.validation) == {"loss_val_low", "loss_val_middle", "loss_val_high"}
    base = open_base(report.export, "cpu")
    assert base.scheduler.config["prediction_type"] == "epsilon"
    answer = base.model(torch.randn(2, CHANNELS, 4, 4), torch.tensor(500))
    assert answer.shape == (2, CHANNELS, 4, 4)
    onwards = TunetBaseTask([sets], initial=report.export).build()
    for name, value in load_base(report.export / "base").state_dict().items():
        assert_close(onwards.state_dict()[name], value.float())
    with pytest.raises(InputError, match="--initial"):
        TunetBaseTask([sets], classes=("a",), initial=report.export).build()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        TunetBaseTask([])
    with pytest.raises(InputError, match="--shares"):
        TunetBaseTask([posed([4])], shares=(1, 2))
    odd = torch.zeros(4, CHANNELS, 6, 6).half()
    with pytest.raises(InputError, match="multiple of 32 pixels"):
        TunetBaseTask([posed([4], latents=odd)])
    for changes, flag in (({"min_snr": -1}, "--min-snr"), ({"class_drop": 2}, "--class-drop")):
        with pytest.raises(InputError, match=flag):
            BaseTraining(**changes)
    with pytest.raises(InputError, match="--base"):
        open_base(tmp_path, "cpu")
