"""The loop as a whole: results, resuming, refusals."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from tiny_task import SHAPE, TinyTask, tiny_config
from torch import nn
from unet_task import UNetTask

from manyview.errors import InputError, Stopped
from manyview.sampling.noise import item_noise
from manyview.training.checkpoint import newest_checkpoint
from manyview.training.loop import fit
from manyview.training.schedule import learning_rate


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "export" / "weights.safetensors").read_bytes()


def test_a_run_learns_and_writes_what_it_promises(tmp_path: Path) -> None:
    config = tiny_config(steps=60, tensorboard=True)
    report = fit(TinyTask(), config, tmp_path / "run", progress=False)
    assert report.curve[-1]["loss"] < 0.7 * report.curve[0]["loss"]
    assert (report.steps, report.items) == (60, 240)
    assert report.final == rows(tmp_path / "run")[-1]
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(4, 61, 4))
    assert set(report.final) == {"step", "lr", "loss", "grad_norm", "mean_level"}
    assert report.final["lr"] == learning_rate(59, config)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoints", "log.jsonl", "tensorboard", "export", "train.json"}
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["config"]["steps"] == 60
    assert record["final"] == report.final
    # Exported are the averaged weights, not the last ones.
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    exported = load_file(report.export / "weights.safetensors")
    average, last = load_file(checkpoint / "ema.safetensors"), load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert not torch.equal(exported["0.weight"], last["0.weight"])


def test_the_first_steps_are_adamw_on_the_task(tmp_path: Path) -> None:
    # The same three steps written out, with torch's AdamW, clipping and the schedule.
    task, config = TinyTask(dropout=0), tiny_config(steps=3, warmup_steps=1, log_every=1, clip_norm=0.1)
    fit(task, config, tmp_path / "run")
    torch.manual_seed(config.seed)
    network = task.build()
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    for step, row in enumerate(rows(tmp_path / "run")):
        items = torch.arange(4 * step, 4 * step + 4)
        loss, _ = task.loss(network, task.batch(items), items, config.seed)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.step()
        decay = (1 + step) / (10 + step)  # below the 0.999 it grows to
        for name, value in network.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    for name, value in load_file(checkpoint / "model.safetensors").items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-4, atol=1e-5)
    for name, value in load_file(checkpoint / "ema.safetensors").items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-5)


def test_accumulating_equals_a_larger_batch(tmp_path: Path) -> None:
    task = UNetTask()
    fit(task, tiny_config(steps=4, warmup_steps=1, log_every=1, batch_size=8), tmp_path / "whole")
    fit(task, tiny_config(steps=4, warmup_steps=1, log_every=1, accumulate=2), tmp_path / "split")
    for whole, split in zip(rows(tmp_path / "whole"), rows(tmp_path / "split"), strict=True):
        assert whole == pytest.approx(split, rel=1e-4)
    weights_of = [
        load_file(tmp_path / name / "export" / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "split")
    ]
    for name, value in weights_of[0].items():
        torch.testing.assert_close(
            value, weights_of[1][name], rtol=0, atol=2e-3
        )  # Adam divides small by small


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resume_equals_uninterrupted_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    # log_every 4 and stops after 3 and 8 steps: both inside a window of the curve.
    fit(TinyTask(), tiny_config(dtype=dtype), tmp_path / "whole")
    for steps in (3, 5):
        with pytest.raises(Stopped, match="--resume"):
            fit(TinyTask(), tiny_config(dtype=dtype, stop_after_steps=steps), tmp_path / "parts", resume=True)
        assert not (tmp_path / "parts" / "export").exists()
    torch.rand(5)  # the caller's own random numbers change nothing
    fit(TinyTask(), tiny_config(dtype=dtype), tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_unet_of_diffusers_resumes_exactly_and_loads_again(tmp_path: Path) -> None:
    config = tiny_config(steps=5, log_every=1, dtype="bf16")
    fit(UNetTask(), config, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(
            UNetTask(),
            tiny_config(steps=5, log_every=1, dtype="bf16", stop_after_steps=2),
            tmp_path / "parts",
        )
    fit(UNetTask(), config, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "parts" / "export")
    assert sum(p.numel() for p in loaded.parameters()) == sum(
        p.numel() for p in UNetTask().build().parameters()
    )


def test_dropout_draws_afresh_each_step_and_the_seed_matters(tmp_path: Path) -> None:
    class Mask(TinyTask):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))

        def batch(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"clean": item_noise(0, [0] * len(items), SHAPE)}

        def loss(self, model, batch, items, seed):
            return model(batch["clean"]).square().mean(), {}

    # A rate this small leaves the network as it was, so only dropout makes the steps differ.
    options = {"steps": 3, "warmup_steps": 0, "log_every": 1, "lr": 1e-30, "weight_decay": 0.0}
    fit(Mask(), tiny_config(**options), tmp_path / "a")
    fit(Mask(), tiny_config(**options, seed=1), tmp_path / "b")
    losses = [row["loss"] for name in ("a", "b") for row in rows(tmp_path / name)]
    assert len(set(losses)) == 6


def test_a_signal_stops_after_the_step_and_resume_goes_on(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fit(TinyTask(), tiny_config(), tmp_path / "whole")
    with pytest.raises(Stopped, match="step 6 of 12"):  # item 22 belongs to step index 5
        fit(TinyTask(signal_item=22), tiny_config(), tmp_path / "parts")
    assert signal.getsignal(signal.SIGTERM) is before
    fit(TinyTask(), tiny_config(), tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_rows_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    fit(TinyTask(), tiny_config(), tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(TinyTask(), tiny_config(stop_after_steps=5), tmp_path / "parts")
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 99}\n{"step": 12, "lo')  # what a killed process had gone on to write
    fit(TinyTask(), tiny_config(), tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = fit(TinyTask(), tiny_config(), tmp_path / "run")
    before = weights(tmp_path / "run")
    second = fit(TinyTask(), tiny_config(), tmp_path / "run", resume=True)
    assert second.curve == first.curve
    assert weights(tmp_path / "run") == before


def test_validation_sees_the_averaged_weights_on_time(tmp_path: Path) -> None:
    class Validated(TinyTask):
        def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
            assert not model.training
            assert not torch.is_grad_enabled()
            torch.rand(3)  # must not disturb the training
            return {"bias": float(model.get_parameter("4.bias").sum())}

    fit(TinyTask(), tiny_config(), tmp_path / "plain")
    report = fit(Validated(), tiny_config(validate_every=6), tmp_path / "run")
    found = [row for row in rows(tmp_path / "run") if "validation" in row]
    assert [row["step"] for row in found] == [6, 12]
    assert report.validation == found[-1]["validation"]
    exported = load_file(report.export / "weights.safetensors")
    assert report.validation["bias"] == pytest.approx(float(exported["4.bias"].sum()))
    assert [row for row in rows(tmp_path / "run") if "loss" in row] == rows(tmp_path / "plain")


def test_the_caller_keeps_its_random_numbers_and_threads(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(TinyTask(), tiny_config(num_threads=2), tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_progress_counts_items(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.calls: list[tuple] = []

        def start(self, total: int, what: str) -> None:
            self.calls.append(("start", total, what))

        def advance(self, n: int = 1) -> None:
            self.calls.append(("advance", n))

        def finish(self) -> None:
            self.calls.append(("finish",))

    with pytest.raises(Stopped):
        fit(TinyTask(), tiny_config(stop_after_steps=10), tmp_path / "run")
    counter = Counter()
    fit(TinyTask(), tiny_config(), tmp_path / "run", resume=True, progress=counter)
    assert counter.calls == [("start", 8, "train tiny"), ("advance", 4), ("advance", 4), ("finish",)]


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path) -> None:
    # Item 30 belongs to step index 7, found at the end of its window; the checkpoint of step 5 stays.
    with pytest.raises(Stopped):
        fit(TinyTask(bad_item=30), tiny_config(stop_after_steps=5), tmp_path / "run")
    with pytest.raises(InputError, match="loss is not finite at step 7") as caught:
        fit(TinyTask(bad_item=30), tiny_config(), tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-00000005"
    assert not (tmp_path / "run" / "export").exists()


def test_an_output_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="--out"):
        fit(TinyTask(), tiny_config(), tmp_path)
    with pytest.raises(InputError, match="--out"):
        fit(TinyTask(), tiny_config(), tmp_path / "notes.txt", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_with_nothing_there_starts(tmp_path: Path) -> None:
    report = fit(TinyTask(), tiny_config(steps=3), tmp_path / "new" / "run", resume=True)
    assert report.steps == 3


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"steps": 13}, "--steps"),
        ({"lr": 2e-2}, "--lr"),
        ({"seed": 1}, "--seed"),
        ({"dtype": "bf16"}, "--dtype"),
        ({"betas": (0.9, 0.95)}, "--betas"),
        ({"batch_size": 8}, "--batch-size"),
    ],
)
def test_resume_refuses_another_run(tmp_path: Path, changes: dict, flag: str) -> None:
    with pytest.raises(Stopped):
        fit(TinyTask(), tiny_config(stop_after_steps=1), tmp_path / "run")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        fit(TinyTask(), tiny_config(**changes), tmp_path / "run", resume=True)
    assert str(caught.value).startswith(f"{flag}: ")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_resume_refuses_another_task_or_setting(tmp_path: Path) -> None:
    class Preset(TinyTask):
        def __init__(self, preset: str) -> None:
            super().__init__()
            self.preset = preset

        @property
        def settings(self) -> dict[str, str]:
            return {"preset": self.preset}

    with pytest.raises(Stopped):
        fit(Preset("compact"), tiny_config(stop_after_steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="--preset: paper"):
        fit(Preset("paper"), tiny_config(), tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="--method: unet"):
        fit(UNetTask(), tiny_config(), tmp_path / "run", resume=True)


def test_what_does_not_change_the_result_may_change_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(TinyTask(dropout=0), tiny_config(stop_after_steps=4), tmp_path / "run")
    changed = tiny_config(log_every=1, checkpoint_minutes=0, num_threads=2, batch_size=2, accumulate=2)
    report = fit(TinyTask(dropout=0), changed, tmp_path / "run", resume=True)
    assert report.items == 48
    fit(TinyTask(dropout=0), tiny_config(), tmp_path / "whole")
    assert report.final["mean_level"] > 0
    mine, theirs = (
        load_file(tmp_path / name / "export" / "weights.safetensors") for name in ("run", "whole")
    )
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-3)


def test_cuda_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device"):
        fit(TinyTask(), tiny_config(device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
