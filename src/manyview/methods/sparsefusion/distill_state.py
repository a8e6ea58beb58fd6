"""A distillation on disk after each round, so that a killed one goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.io.manifest import to_plain
from manyview.lift.volume_files import Volume, read_volume, write_volume
from manyview.methods.sparsefusion.teacher import Looked
from manyview.training.checkpoint import put_folder

_PREFIX = "round-"
_TEMPORARY = ".round-"


@dataclass
class Progressed:
    """How far a distillation is."""

    done: int
    """Rounds (or iterations) that are finished; 0 before the warm-up is."""
    field: Volume
    rounds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """What `DistillRecord.rounds` holds so far."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Wall time by stage."""
    extra: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Whatever else the next round needs: the last renders, the optimiser's moments."""


class Checkpoints:
    """A folder with the newest state of one distillation.

    `fingerprint` says what the distillation was asked for; a folder of another one is refused with
    `InputError`.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def looked(self, make: Callable[[], Looked]) -> Looked:
        """What the EFT has said, kept from before; else that of `make`, which is kept."""
        if self.folder is None:
            return make()
        path = self.folder / "looked.safetensors"
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                self._require_mine((file.metadata() or {}).get("fingerprint"))
                tensors = {name: file.get_tensor(name) for name in ("features", "images", "coverage")}
            return Looked(**tensors)
        made = make()
        kept = {"features": made.features, "images": made.images, "coverage": made.coverage}
        data = save({k: v.contiguous() for k, v in kept.items()}, metadata={"fingerprint": self.fingerprint})
        write_bytes_atomic(path, data)
        return made

    def read(self) -> Progressed | None:
        """The newest state, or None where there is none."""
        if self.folder is None:
            return None
        found = [path for path in self.folder.glob(_PREFIX + "*") if path.name[len(_PREFIX) :].isdigit()]
        if not found:
            return None
        newest = max(found, key=lambda path: int(path.name[len(_PREFIX) :]))
        record = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        self._require_mine(record["fingerprint"])
        return Progressed(
            done=record["done"],
            field=read_volume(newest / "field.safetensors"),
            rounds=record["rounds"],
            seconds=record["seconds"],
            extra=load_file(newest / "extra.safetensors"),
        )

    def write(self, state: Progressed) -> None:
        """Keep `state` and drop older ones; a kill at any moment leaves one of them complete."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(_TEMPORARY + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        target = self.folder / f"{_PREFIX}{state.done:06d}"
        record = {
            "fingerprint": self.fingerprint,
            "done": state.done,
            "rounds": state.rounds,
            "seconds": state.seconds,
        }

        def fill(folder: Path) -> None:
            write_volume(folder / "field.safetensors", state.field)
            save_file({k: v.contiguous() for k, v in state.extra.items()}, folder / "extra.safetensors")
            (folder / "state.json").write_text(json.dumps(record), encoding="utf-8")

        older = [path for path in self.folder.glob(_PREFIX + "*") if path != target]
        put_folder(target, self.folder / f"{_TEMPORARY}{os.getpid()}", fill)
        for path in older:
            # Renamed first: a removal cut short must not leave half a folder under a valid name.
            doomed = self.folder / f"{_TEMPORARY}{path.name}"
            path.rename(doomed)
            shutil.rmtree(doomed)

    def _require_mine(self, found: str | None) -> None:
        if found != self.fingerprint:
            line = "holds another distillation (other views, options, weights or seed)"
            raise InputError("--resume", str(self.folder), line)


def fingerprint(*parts: object) -> str:
    """A hash of tensors (their bytes) and of anything that json can say."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            values = part.detach().cpu().contiguous()
            total.update(str((tuple(values.shape), values.dtype)).encode())
            total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            total.update(json.dumps(to_plain(part), sort_keys=True, default=str).encode())
        total.update(b"|")
    return total.hexdigest()
