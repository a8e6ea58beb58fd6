"""The options of a training run. Loads no torch, so that the command line can show them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from manyview.errors import InputError

_FREE = {
    "device",
    "num_threads",
    "checkpoint_minutes",
    "log_every",
    "validate_every",
    "tensorboard",
    "stop_after_steps",
    "batch_size",
    "accumulate",
}
"""Fields that may differ when a run goes on. The two that make up the batch are compared as their product."""
_ADDED = {"schedule": "cosine", "cycles": 4}
"""Fields that came later, and how runs begun before went: at these values they are not among what a resumed
run is compared by."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained; the same for every method. Raises `InputError` for values out of range."""

    steps: int = 10_000
    """Optimiser steps of the whole run; the learning rate's curve ends there."""
    batch_size: int = 16
    """Items in one forward pass of one process."""
    accumulate: int = 1
    """Forward passes whose gradients are averaged into one optimiser step."""
    lr: float = 4e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon steps kernels by orthogonal matrices and the rest as AdamW: fewer steps for the same loss, each a
    little dearer."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly to its peak."""
    min_lr_fraction: float = 0.02
    """Where the cosine ends, as a fraction of the peak learning rate."""
    schedule: Literal["cosine", "cyclic"] = "cosine"
    """After the warm-up one fall along a half cosine, or several, each from the peak again."""
    cycles: int = 4
    """Of the cyclic schedule: how many falls, all equally long."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and kernels; biases and norms have none."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's running mean and running square of the gradient."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; longer ones are scaled down. None leaves them as they are."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones exported; it grows from 0.1 at the start."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward pass; bf16 keeps weights and averages in fp32. auto takes bf16 where the
    processor computes in it (a CPU without it is tens of times slower in bf16 than in fp32)."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    seed: int = 0
    """Start of all randomness: first weights, order of the data, noise."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints, from which --resume goes on."""
    log_every: int = 50
    """Steps averaged into one row of log.jsonl."""
    validate_every: int = 0
    """Steps between validations of the averaged weights; 0 for none."""
    num_threads: int | None = None
    """Threads of each process on the CPU; None leaves torch's choice."""
    tensorboard: bool = True
    """Also write the curves for TensorBoard."""
    stop_after_steps: int | None = None
    """Stop after this many steps of this call with a checkpoint, as though interrupted."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "cycles"):
            self._require(name, getattr(self, name) >= 1, "expected a whole number of at least 1")
        for name in ("warmup_steps", "validate_every", "seed"):
            self._require(name, getattr(self, name) >= 0, "expected a whole number of at least 0")
        for name in ("num_threads", "stop_after_steps"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "expected a whole number of at least 1, or none")
        self._require(
            "warmup_steps", self.warmup_steps <= self.steps, f"expected at most steps ({self.steps})"
        )
        self._require("lr", 0 < self.lr < math.inf, "expected a positive number")
        self._require("min_lr_fraction", 0 <= self.min_lr_fraction <= 1, "expected a number from 0 to 1")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "expected a number of at least 0")
        self._require(
            "betas", all(0 <= beta < 1 for beta in self.betas), "expected two numbers from 0 to below 1"
        )
        clip = self.clip_norm
        self._require("clip_norm", clip is None or 0 < clip < math.inf, "expected a positive number, or none")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "expected a number from 0 to below 1")
        known = ("adamw", "muon")
        self._require("optimizer", self.optimizer in known, "expected adamw or muon")
        self._require("schedule", self.schedule in ("cosine", "cyclic"), "expected cosine or cyclic")
        self._require("dtype", self.dtype in ("auto", "bf16", "fp32"), "expected auto, bf16 or fp32")
        self._require("device", self.device in ("cpu", "cuda", "auto"), "expected cpu, cuda or auto")
        minutes = self.checkpoint_minutes
        self._require("checkpoint_minutes", 0 <= minutes < math.inf, "expected a number of at least 0")

    def _require(self, name: str, good: bool, accepted: str) -> None:
        if not good:
            raise InputError(flag(name), getattr(self, name), accepted)


def flag(name: str) -> str:
    """A field's name as the command line spells it."""
    return "--" + name.replace("_", "-")


def check_same_run(before: dict, now: dict) -> None:
    """Raise `InputError` naming the first option in which a checkpoint's run and this one would differ.

    Both are results of `run_identity`.
    """
    for name in (*now, *before):
        if before.get(name) != now.get(name):
            accepted = f"the checkpoint to resume has {before.get(name)!r}; give that, or another --out"
            raise InputError(flag(name), now.get(name), accepted)


def run_identity(config: TrainConfig, task: str, settings: dict, num_processes: int) -> dict:
    """Everything that decides the result of a run, as JSON would give it back.

    The batch counts as one number (batch_size x accumulate x processes): the items of a step are the same
    however they are split.
    """
    identity = {
        field.name: getattr(config, field.name) for field in fields(config) if field.name not in _FREE
    }
    if all(identity[name] == value for name, value in _ADDED.items()):
        identity = {name: value for name, value in identity.items() if name not in _ADDED}
    identity["betas"] = list(config.betas)
    identity["batch_size"] = config.batch_size * config.accumulate * num_processes
    return {"method": task, **identity, **settings}
