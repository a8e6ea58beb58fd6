"""The pieces of the loop, each by itself."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import tyro
from tiny_task import TinyTask, tiny_config
from torch import nn

from manyview.errors import InputError
from manyview.training.checkpoint import (
    CheckpointState,
    newest_checkpoint,
    put_folder,
    put_text,
    read_state,
    restore_tensors,
    save_checkpoint,
)
from manyview.training.config import TrainConfig, check_same_run, run_identity
from manyview.training.ema import Ema, ema_decay_at
from manyview.training.feed import feed, pass_items
from manyview.training.order import EpochOrder
from manyview.training.schedule import learning_rate


def test_learning_rate_known_values() -> None:
    config = TrainConfig(steps=110, warmup_steps=10, lr=2.0, min_lr_fraction=0.1)
    assert learning_rate(0, config) == pytest.approx(0.2)  # 1/10 of the peak
    assert learning_rate(9, config) == pytest.approx(2.0)
    assert learning_rate(10, config) == pytest.approx(2.0)  # the cosine starts at the peak
    assert learning_rate(60, config) == pytest.approx(1.1)  # half way: the mean of peak 2.0 and floor 0.2
    # A quarter of the way: 0.2 + 1.8 (1 + cos 45 deg) / 2.
    assert learning_rate(35, config) == pytest.approx(0.2 + 0.9 * (1 + math.sqrt(0.5)))
    assert learning_rate(110, config) == pytest.approx(0.2)
    assert learning_rate(10**6, config) == pytest.approx(0.2)
    assert learning_rate(0, TrainConfig(steps=1, warmup_steps=0, lr=3.0)) == 3.0


def test_cyclic_schedule_falls_again_and_again() -> None:
    config = TrainConfig(steps=110, warmup_steps=10, lr=2.0, min_lr_fraction=0.1, schedule="cyclic", cycles=4)
    assert learning_rate(4, config) == pytest.approx(1.0)  # the warm-up is as ever
    # Four falls of 25 steps: each begins at the peak and is half way, at 1.1, between two steps.
    assert [learning_rate(step, config) for step in (10, 35, 60, 85)] == pytest.approx([2.0] * 4)
    for first in (10, 35, 60, 85):
        fall = [learning_rate(step, config) for step in range(first, first + 25)]
        assert fall == sorted(fall, reverse=True)
        assert (fall[12] + fall[13]) / 2 == pytest.approx(1.1)
    assert learning_rate(110, config) == pytest.approx(0.2)  # after the last step: the floor
    one = TrainConfig(steps=110, warmup_steps=10, lr=2.0, schedule="cyclic", cycles=1)
    plain = TrainConfig(steps=110, warmup_steps=10, lr=2.0)
    assert [learning_rate(s, one) for s in range(111)] == [learning_rate(s, plain) for s in range(111)]
    with pytest.raises(InputError, match="--schedule"):
        TrainConfig(schedule="sawtooth")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="--cycles"):
        TrainConfig(cycles=0)


def test_runs_from_before_there_were_schedules_go_on() -> None:
    plain = run_identity(TrainConfig(), "task", {}, 1)
    assert not {"schedule", "cycles"} & set(plain)
    cyclic = run_identity(TrainConfig(schedule="cyclic"), "task", {}, 1)
    with pytest.raises(InputError, match="--schedule"):
        check_same_run(plain, cyclic)
    with pytest.raises(InputError, match="--schedule"):
        check_same_run(cyclic, plain)


def test_learning_rate_only_rises_then_falls() -> None:
    config = TrainConfig(steps=50, warmup_steps=7)
    rates = [learning_rate(step, config) for step in range(50)]
    assert rates[:7] == sorted(rates[:7])
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert max(rates) == config.lr


def test_average_follows_its_formula() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.register_buffer("count", torch.tensor(0))
    network.weight.data.fill_(1.0)
    average = Ema(network, decay=0.5)
    network.weight.data.fill_(11.0)
    network.get_buffer("count").fill_(4)
    average.update(network, step=0)  # d = min(0.5, 1/10): 0.1 * 1 + 0.9 * 11 = 10
    assert average.module.get_parameter("weight").tolist() == [[pytest.approx(10.0)] * 2]
    assert int(average.module.get_buffer("count")) == 4
    network.weight.data.fill_(20.0)
    average.update(network, step=1000)  # d = 0.5: 15
    assert average.module.get_parameter("weight").tolist() == [[pytest.approx(15.0)] * 2]
    assert not average.module.training
    assert not average.module.get_parameter("weight").requires_grad


def test_average_stays_in_float32() -> None:
    network = nn.Linear(1, 1).bfloat16()
    average = Ema(network, decay=0.999)
    network.weight.data.fill_(256.0)
    average.module.get_parameter("weight").data.fill_(255.0)
    average.update(network, step=10**6)
    # 255.001: lost in bfloat16, whose neighbours of 255 are one apart.
    assert average.module.get_parameter("weight").item() == pytest.approx(255.001, abs=1e-4)


def test_decay_of_the_average() -> None:
    assert ema_decay_at(0, 0.999) == pytest.approx(0.1)
    assert ema_decay_at(90, 0.999) == pytest.approx(0.91)
    assert ema_decay_at(10**6, 0.999) == 0.999


def test_every_epoch_is_a_permutation() -> None:
    order = EpochOrder(17, seed=1)
    epochs = [[order.index(item) for item in range(17 * n, 17 * (n + 1))] for n in range(5)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    # Out of turn, over an epoch's end, from a fresh object: always the same.
    items = torch.tensor([60, 16, 17, 3, 60, 84])
    flat = list(itertools.chain(*epochs))
    assert EpochOrder(17, seed=1).indices(items).tolist() == [flat[item] for item in items.tolist()]
    other = EpochOrder(17, seed=2)
    assert [other.index(item) for item in range(17)] != epochs[0]


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="num_examples"):
        EpochOrder(0, seed=0)


def test_items_of_a_step_do_not_depend_on_the_split() -> None:
    def step_items(step: int, batch: int, accumulate: int, world: int) -> list[int]:
        config = TrainConfig(batch_size=batch, accumulate=accumulate)
        parts = [
            pass_items(config, step, micro, rank, world)
            for micro in range(accumulate)
            for rank in range(world)
        ]
        return torch.cat(parts).tolist()

    for step in (0, 3):
        expected = list(range(12 * step, 12 * step + 12))
        for split in ((12, 1, 1), (3, 4, 1), (3, 1, 4), (2, 3, 2)):
            assert step_items(step, *split) == expected


def test_the_thread_that_fetches_ahead_keeps_the_order() -> None:
    # The meta device takes the path of a GPU, without one.
    config, task = tiny_config(accumulate=2), TinyTask()
    ahead = feed(task, config, 5, 0, 1, torch.device("meta"))
    plain = feed(task, config, 5, 0, 1, torch.device("cpu"))
    for _ in range(7):
        (items, data), (expected, other) = next(ahead), next(plain)
        assert torch.equal(items, expected)
        assert data["clean"].shape == other["clean"].shape
    ahead.close()


def _state(step: int) -> CheckpointState:
    return CheckpointState(
        step=step, seconds=1.5, identity={"lr": 0.1}, rows=[{"step": 1}], window=[[0.1, 0.2]]
    )


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = TinyTask().build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    network, optimizer = _trained()
    average = Ema(network, 0.9).module
    path = save_checkpoint(tmp_path, _state(7), network, average, optimizer)
    assert newest_checkpoint(tmp_path) == path
    assert read_state(path) == _state(7)
    other, other_optimizer = _trained()
    other_average = Ema(other, 0.9).module
    restore_tensors(path, other, other_average, other_optimizer, torch.device("cpu"))
    for mine, theirs in ((network, other), (average, other_average)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    moments, others = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i][key], others[i][key]) for i in moments for key in moments[i])


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    network, optimizer = _trained()
    for step in (9, 10, 100_000_000):  # the last has more digits than the padding
        save_checkpoint(tmp_path, _state(step), network, network, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100000000"]


def test_half_a_checkpoint_is_never_picked_up(tmp_path: Path) -> None:
    network, optimizer = _trained()
    good = save_checkpoint(tmp_path, _state(3), network, network, optimizer)
    half = tmp_path / "checkpoint.tmp-4711"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"\0")
    assert newest_checkpoint(tmp_path) == good
    save_checkpoint(tmp_path, _state(4), network, network, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000004"]


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    optimizer = torch.optim.AdamW(network.parameters())
    path = save_checkpoint(tmp_path, _state(1), network, network, optimizer)
    before = network[0].weight.detach().clone()
    network[0].weight.data.zero_()
    restore_tensors(path, network, network, optimizer, torch.device("cpu"))
    assert torch.equal(network[1].weight, before)


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    target, temporary = tmp_path / "export", tmp_path / ".export.tmp"
    put_folder(target, temporary, lambda folder: put_text(folder / "a", "old"))

    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        put_folder(target, temporary, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert (target / "a").read_text() == "old"
    put_folder(target, temporary, lambda folder: put_text(folder / "a", "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert (target / "a").read_text() == "new"


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"steps": 0}, "--steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"accumulate": -1}, "--accumulate"),
        ({"lr": 0.0}, "--lr"),
        ({"lr": math.nan}, "--lr"),
        ({"steps": 5, "warmup_steps": 6}, "--warmup-steps"),
        ({"min_lr_fraction": 1.5}, "--min-lr-fraction"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"betas": (0.9, 1.0)}, "--betas"),
        ({"clip_norm": 0.0}, "--clip-norm"),
        ({"ema_decay": 1.0}, "--ema-decay"),
        ({"dtype": "fp8"}, "--dtype"),
        ({"device": "tpu"}, "--device"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes"),
        ({"num_threads": 0}, "--num-threads"),
        ({"stop_after_steps": 0}, "--stop-after-steps"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes: dict, flag: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig(**changes)
    assert str(caught.value).startswith(f"{flag}: ")
    assert "\n" not in str(caught.value)


def test_options_become_flags_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    config = tyro.cli(TrainConfig, args=["--steps", "7", "--warmup-steps", "0", "--clip-norm", "None"])
    assert (config.steps, config.warmup_steps, config.clip_norm) == (7, 0, None)
    with pytest.raises(SystemExit):
        tyro.cli(TrainConfig, args=["--help"])
    assert "Peak learning rate" in capsys.readouterr().out
