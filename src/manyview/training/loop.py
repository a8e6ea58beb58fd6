"""The training loop of every method: exact on resume, on one process or many, on a CPU or GPUs.

The loss curve is a function of (task, config) alone: a killed and resumed run repeats it bit for bit on a
CPU with the same number of threads, and a run on several processes repeats it up to the order of
floating-point sums.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from manyview.errors import InputError, Stopped
from manyview.progress import Progress, silent
from manyview.sampling.noise import mix64
from manyview.training.attention import attention_kernels
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
from manyview.training.display import TrainingBar
from manyview.training.ema import Ema
from manyview.training.feed import feed
from manyview.training.history import History
from manyview.training.interrupts import Interrupts
from manyview.training.optimizers import build_optimizer
from manyview.training.schedule import learning_rate
from manyview.training.task import Task


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a finished run has to say; also in train.json."""

    steps: int
    """Optimiser steps of the whole run."""
    items: int
    """Items seen, over all processes."""
    seconds: float
    """Wall time of all calls that made up the run."""
    final: dict[str, Any]
    """The last row of the curve: step, lr, loss, grad_norm and the task's parts."""
    validation: dict[str, float]
    """The last validation, or {}."""
    curve: list[dict[str, Any]]
    """About 200 rows of the curve."""
    export: Path
    """The folder with the averaged weights."""


def fit(
    task: Task, config: TrainConfig, out: Path, resume: bool = False, progress: Progress | bool | None = None
) -> TrainReport:
    """Train `task` and export its averaged weights to `out`/export.

    `out` gets checkpoints/, log.jsonl, tensorboard/, export/ and train.json. With `resume` the newest
    checkpoint goes on, if there is one. `progress` counts items; None or True shows a bar if stderr is a
    terminal, False none.

    Under `torchrun` (or, on GPUs, `accelerate launch`) it trains on several processes, of which the first
    writes and shows progress; `accelerate launch --cpu` starts only one.

    Raises `InputError` before any work if `out` is in use or holds another run, if the device is missing,
    and, naming the step, when the loss stops being finite; raises `Stopped` after SIGINT, SIGTERM or
    `stop_after_steps`, with a checkpoint written.
    """
    _check_device(config)
    start = _find_start(out, resume)
    accelerator = _accelerator(config)
    config = replace(config, dtype=number_format(config))
    identity = run_identity(config, task.name, dict(task.settings), accelerator.num_processes)
    identity = json.loads(json.dumps(identity))  # as it will read back: no tuples
    if start is not None:
        check_same_run(read_state(start).identity, identity)
    accelerator.wait_for_everyone()  # every process has looked at `out` before the first one writes there
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _threads(config.num_threads), Interrupts() as interrupts:
        run = _Run(accelerator, task, config, out, identity)
        bar = _progress(progress) if accelerator.is_main_process else silent
        try:
            run.begin(start)
            bar.start((config.steps - run.step) * run.items_per_step, f"train {task.name}")
            run.train(interrupts, bar)
        finally:
            bar.finish()
            run.history.close()
        return run.finish()


class _Run:
    def __init__(
        self, accelerator: Accelerator, task: Task, config: TrainConfig, out: Path, identity: dict[str, Any]
    ) -> None:
        self.accelerator, self.task, self.config = accelerator, task, config
        self.out, self.identity = out, identity
        self.items_per_step = config.batch_size * config.accumulate * accelerator.num_processes
        torch.manual_seed(config.seed)
        self.module = task.build().train()
        # Copied before `prepare`, which wraps the network's forward in place.
        self.ema = Ema(self.module, config.ema_decay)
        self.ema.module.to(accelerator.device)
        self.module.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(self.module, build_optimizer(self.module, config))
        self.history = History(
            out, self._mean, writes=accelerator.is_main_process, tensorboard=config.tensorboard
        )
        self.step = 0
        self.names: list[str] = []
        self._seconds_before = 0.0
        self._began = time.monotonic()
        self._logged = 0, self._began

    def begin(self, start: Path | None) -> None:
        rows: list[dict[str, Any]] = []
        window: list[list[float]] = []
        if start is not None:
            state = read_state(start)
            restore_tensors(start, self.module, self.ema.module, self.optimizer, self.accelerator.device)
            self.step, self._seconds_before = state.step, state.seconds
            rows, window = state.rows, state.window
        if self.accelerator.is_main_process:
            self.out.mkdir(parents=True, exist_ok=True)
        self.history.begin(rows, window, self.step)

    def train(self, interrupts: Interrupts, bar: Progress) -> None:
        config, first, saved = self.config, self.step, time.monotonic()
        self._logged = first, saved
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        with contextlib.closing(feed(self.task, config, first, rank, world, device)) as passes:
            while self.step < config.steps:
                lr = learning_rate(self.step, config)
                self.history.record(self._advance(passes, lr))
                self.step += 1
                done = self.step == config.steps
                bar.advance(self.items_per_step)
                if done or self.step % config.log_every == 0:
                    self._log(lr, bar)
                if config.validate_every and self.step % config.validate_every == 0:
                    self._validate()
                stop, due = self._agree(
                    interrupts.requested or self.step - first == config.stop_after_steps,
                    time.monotonic() - saved >= 60 * config.checkpoint_minutes,
                )
                if stop or due or done:
                    self.history.collect(self.step - 1, lr)
                    self._save()
                    saved = time.monotonic()
                if stop and not done:
                    raise Stopped(f"stopped after step {self.step} of {config.steps}; --resume goes on")

    def finish(self) -> TrainReport:
        accelerator, export = self.accelerator, self.out / "export"
        rows = [row for row in self.history.rows if "loss" in row]
        validations = [row["validation"] for row in self.history.rows if "validation" in row]
        report = TrainReport(
            steps=self.step,
            items=self.step * self.items_per_step,
            seconds=self._seconds(),
            final=rows[-1],
            validation=validations[-1] if validations else {},
            curve=self.history.curve(),
            export=export,
        )
        if accelerator.is_main_process:
            put_folder(
                export, self.out / ".export.tmp", lambda folder: self.task.export(self.ema.module, folder)
            )
            record = {
                "method": self.task.name,
                "settings": dict(self.task.settings),
                "config": asdict(self.config),
                "processes": accelerator.num_processes,
                "device": accelerator.device.type,
                "torch": torch.__version__,
                **asdict(report),
                "export": export.name,
            }
            put_text(self.out / "train.json", json.dumps(record, indent=1) + "\n")
        accelerator.wait_for_everyone()
        return report

    def _advance(self, passes: Iterator[tuple[Tensor, dict[str, Tensor]]], lr: float) -> Tensor:
        """One optimiser step; [loss, gradient norm, parts...] of this process, on the device."""
        accelerator, config = self.accelerator, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums: Tensor | None = None
        norm = torch.zeros((), device=accelerator.device)
        for micro in range(config.accumulate):
            items, batch = next(passes)
            # For dropout alone: what it draws must not depend on the steps a process has made before.
            torch.manual_seed(mix64(config.seed, self.step, micro, accelerator.process_index))
            with accelerator.accumulate(self.model), attention_kernels(accelerator.device):
                loss, parts = self.task.loss(self.model, batch, items, config.seed)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    limit = float("inf") if config.clip_norm is None else config.clip_norm
                    norm = torch.as_tensor(accelerator.clip_grad_norm_(self.model.parameters(), limit))
                self.optimizer.step()
                self.optimizer.zero_grad()
            names = list(parts)
            assert not self.names or self.names == names, f"{self.task.name}: loss parts changed to {names}"
            self.names = names
            values = torch.stack(
                [loss.detach(), *(part.detach().to(loss) for part in parts.values())]
            ).float()
            sums = values if sums is None else sums + values
        self.ema.update(self.module, self.step)
        assert sums is not None, "accumulate is at least 1"
        means = sums / config.accumulate
        return torch.cat([means[:1], norm.detach().float().reshape(1), means[1:]])

    def _log(self, lr: float, bar: Progress) -> None:
        self.history.collect(self.step - 1, lr)
        row = self.history.close_window(self.step, lr, self.names)
        (step, then), now = self._logged, time.monotonic()
        self.history.show_rate((self.step - step) * self.items_per_step / max(now - then, 1e-9), self.step)
        self._logged = self.step, now
        if isinstance(bar, TrainingBar):
            bar.note(f"loss {row['loss']:.4f}")

    def _validate(self) -> None:
        if self.accelerator.is_main_process:
            with torch.no_grad():
                figures = self.task.validate(self.ema.module, self.accelerator.device)
            if figures:
                self.history.add_validation(
                    self.step, {name: float(value) for name, value in figures.items()}
                )
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = CheckpointState(
                step=self.step,
                seconds=self._seconds(),
                identity=self.identity,
                rows=self.history.rows,
                window=self.history.window,
            )
            save_checkpoint(self.out / "checkpoints", state, self.module, self.ema.module, self.optimizer)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish that any process has: clocks and signals differ between them, what follows may not."""
        if self.accelerator.num_processes == 1:
            return wishes
        votes = torch.tensor([float(wish) for wish in wishes], device=self.accelerator.device)
        total = self.accelerator.reduce(votes, "sum")
        assert isinstance(total, Tensor), "a reduced tensor is a tensor"
        return tuple(vote > 0 for vote in total.tolist())

    def _mean(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return values
        mean = self.accelerator.reduce(values, "mean")
        assert isinstance(mean, Tensor), "a reduced tensor is a tensor"
        return mean


def _check_device(config: TrainConfig) -> None:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device", config.device, "no CUDA GPU is usable here; expected cpu or auto")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu and config.dtype == "bf16" and not torch.cuda.is_bf16_supported():
        raise InputError("--dtype", config.dtype, "this GPU has no bfloat16; expected fp32")


def number_format(config: TrainConfig) -> Literal["bf16", "fp32"]:
    """The number format that `auto` stands for on this machine; a format that was named, as it is.

    A CPU without bfloat16 instructions emulates them: convolutions are then some sixty times slower.
    """
    if config.dtype != "auto":
        return config.dtype
    if config.device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def _find_start(out: Path, resume: bool) -> Path | None:
    if out.is_file():
        raise InputError("--out", str(out), "is a file, expected a folder")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise InputError("--out", str(out), "already exists; choose another folder or give --resume")
    return newest_checkpoint(out / "checkpoints") if resume else None


def _accelerator(config: TrainConfig) -> Accelerator:
    # accelerate keeps one state a Python process, but an earlier call may have had another device or
    # number format. Under a launcher the process group, which is part of that state, has to stay.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    # Asked for by name, or accelerate would start every process of a launcher as though it were alone.
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.accelerator.is_available())
    return Accelerator(
        mixed_precision="bf16" if config.dtype == "bf16" else "no",
        gradient_accumulation_steps=config.accumulate,
        cpu=on_cpu,
    )


def _progress(progress: Progress | bool | None) -> Progress:
    if isinstance(progress, bool) or progress is None:
        return silent if progress is False else TrainingBar()
    return progress


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
