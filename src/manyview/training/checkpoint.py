"""Checkpoints that are whole or absent, whatever kills the process.

`checkpoint-<step>` is written under another name, flushed to the disk and then renamed; only then is the
one before it removed. So a folder of that name is always complete, and there is always one from the first
on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_PREFIX = "checkpoint-"
_TEMPORARY = "checkpoint.tmp-"


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """The part of a checkpoint that is not tensors."""

    step: int
    """Optimiser steps done."""
    seconds: float
    """Wall time of all calls so far."""
    identity: dict[str, Any]
    """What decides the result (`config.run_identity`)."""
    rows: list[dict[str, Any]]
    """All rows of log.jsonl so far."""
    window: list[list[float]]
    """Values of the steps since the last row."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps in `folder`, or None."""
    found = [path for path in folder.glob(_PREFIX + "*") if path.name[len(_PREFIX) :].isdigit()]
    return max(found, key=lambda path: int(path.name[len(_PREFIX) :]), default=None)


def save_checkpoint(
    folder: Path,
    state: CheckpointState,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write `folder`/checkpoint-<step>, remove older ones, return its path; nothing if it is there."""
    target = folder / f"{_PREFIX}{state.step:08d}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(_TEMPORARY + "*"):
        shutil.rmtree(leftover)

    def write(temporary: Path) -> None:
        save_file(_tensors(network), temporary / "model.safetensors")
        save_file(_tensors(average), temporary / "ema.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        (temporary / "state.json").write_text(json.dumps(asdict(state)))

    older = [path for path in folder.glob(_PREFIX + "*") if path != target]
    put_folder(target, folder / f"{_TEMPORARY}{os.getpid()}", write)
    for path in older:
        # Renamed first: a removal cut short must not leave half a folder under a valid name.
        doomed = folder / f"{_TEMPORARY}{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed)
    return target


def read_state(path: Path) -> CheckpointState:
    """The numbers of a checkpoint."""
    return CheckpointState(**json.loads((path / "state.json").read_text()))


def restore_tensors(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """Load weights, averaged weights and the optimiser's moments in place, bit for bit."""
    network.load_state_dict(load_file(path / "model.safetensors"))
    average.load_state_dict(load_file(path / "ema.safetensors"))
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location=device, weights_only=True))


def put_folder(target: Path, temporary: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `temporary`, a sibling of `target`; flush it and put it in `target`'s place."""
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        if target.exists():
            doomed = temporary.with_name(temporary.name + "-old")
            shutil.rmtree(doomed, ignore_errors=True)
            target.rename(doomed)
            temporary.rename(target)
            shutil.rmtree(doomed)
        else:
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(target.parent)


def put_text(target: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(text)
    _flush(temporary)
    temporary.replace(target)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    # Clones, since safetensors refuses tensors that share memory (tied weights).
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
