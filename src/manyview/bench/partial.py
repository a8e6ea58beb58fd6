"""A run's finished scenes on disk, so that a stopped run goes on where it was.

One json object a line: {"key", "data", "scene", ...}. `key` is a hash of all options that decide the
numbers and `data` one of the scene's images, so a line is used again only where it would come out the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from manyview.io.atomic import reporting_refusals, write_text_atomic
from manyview.io.manifest import to_plain


def hash_options(options: Mapping[str, object]) -> str:
    """The key of a run."""
    return hashlib.sha256(json.dumps(to_plain(options), sort_keys=True).encode()).hexdigest()


def hash_tensor(values: Tensor) -> str:
    """A hash of a tensor's shape and numbers."""
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Partial:
    """The lines beside an output file; with `out` None it remembers nothing."""

    def __init__(self, out: Path | None, options: Mapping[str, object], resume: bool) -> None:
        """Reads what an earlier run left; lines of other options are kept, a half-written one is not."""
        self.path = None if out is None else out.with_name(out.name + ".partial.jsonl")
        self._key = hash_options(options)
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        self._foreign: list[str] = []
        if self.path is None:
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
            try:
                record = json.loads(line)
                own = record["key"] == self._key
                place = (record["scene"], record["data"])
            except (ValueError, KeyError, TypeError):
                continue
            if own and not resume:
                continue
            kept.append(line)
            if own:
                self._records[place] = record
            else:
                self._foreign.append(line)
        if self.path.is_file():
            self._write(kept)

    def find(self, scene: str, data: str) -> dict[str, Any] | None:
        """The record of a finished scene, if there is one."""
        return self._records.get((scene, data))

    def add(self, record: Mapping[str, Any], data: str) -> None:
        """Append a finished scene."""
        if self.path is None:
            return
        line = json.dumps({"key": self._key, "data": data, **record}, allow_nan=False)
        with reporting_refusals(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def close(self) -> None:
        """Forget this run's lines, since its output is written."""
        if self.path is not None and self.path.is_file():
            self._write(self._foreign)

    def _write(self, lines: list[str]) -> None:
        assert self.path is not None, "callers check"
        if lines:
            write_text_atomic(self.path, "\n".join(lines) + "\n")
        else:
            self.path.unlink()
