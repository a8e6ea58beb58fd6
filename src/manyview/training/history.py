"""The curve of a run: means over windows of steps, as rows of log.jsonl and for TensorBoard.

Rows hold nothing that depends on the clock, so a resumed run writes the same file as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.training.checkpoint import put_text

_CURVE_ROWS = 200


class History:
    """Collects the values of each step and turns every window into one row.

    `average` makes the mean of a tensor over the processes; `writes` says whether this process owns the
    files.
    """

    def __init__(
        self, out: Path, average: Callable[[Tensor], Tensor], *, writes: bool, tensorboard: bool
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.window: list[list[float]] = []
        self._path = out / "log.jsonl"
        self._average = average
        self._writes = writes
        self._board = out / "tensorboard" if tensorboard and writes else None
        self._writer: Any = None
        self._fresh: list[Tensor] = []

    def begin(self, rows: list[dict[str, Any]], window: list[list[float]], step: int) -> None:
        """Start from what a checkpoint after `step` steps holds; log.jsonl goes back to that state."""
        self.rows, self.window = list(rows), list(window)
        if self._writes:
            put_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        if self._board is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._board), purge_step=step + 1 if step else None)

    def record(self, values: Tensor) -> None:
        """Keep one step's values [loss, gradient norm, parts...] on their device."""
        self._fresh.append(values)

    def collect(self, step: int, lr: float) -> None:
        """Bring the values kept since the last call to the host; the last of them is of step number `step`.

        Raises `InputError` naming the first step whose loss or gradient is not finite.
        """
        if not self._fresh:
            return
        values = self._average(torch.stack(self._fresh).float()).cpu()
        first = step - len(self._fresh) + 1
        self._fresh = []
        for offset, row in enumerate(values.tolist()):
            if not (math.isfinite(row[0]) and math.isfinite(row[1])):
                what = "loss" if not math.isfinite(row[0]) else "gradient"
                raise InputError(
                    "--lr",
                    lr,
                    f"the {what} is not finite at step {first + offset}; lower the rate or check the data "
                    "(the last checkpoint is kept)",
                )
            self.window.append(row)

    def close_window(self, step: int, lr: float, names: list[str]) -> dict[str, Any]:
        """Write the row of the window that ends after `step` steps; call `collect` first."""
        columns = zip(*self.window, strict=True)
        means = [math.fsum(column) / len(self.window) for column in columns]
        self.window = []
        row = {"step": step, "lr": lr, **dict(zip(["loss", "grad_norm", *names], means, strict=True))}
        self._append(row)
        self._show("train", {name: value for name, value in row.items() if name != "step"}, step)
        return row

    def add_validation(self, step: int, figures: dict[str, float]) -> None:
        """Write the row of a validation after `step` steps."""
        self._append({"step": step, "validation": figures})
        self._show("validation", figures, step)

    def show_rate(self, rate: float, step: int) -> None:
        """Items per second, for TensorBoard only."""
        self._show("speed", {"items_per_second": rate}, step)

    def curve(self) -> list[dict[str, Any]]:
        """At most about 200 training rows, evenly spaced, the last one among them."""
        rows = [row for row in self.rows if "loss" in row]
        stride = max(1, math.ceil(len(rows) / _CURVE_ROWS))
        return rows[::-1][::stride][::-1]

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()

    def _append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self._writes:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _show(self, group: str, values: dict[str, Any], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
