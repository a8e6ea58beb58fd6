"""The progress bar of a training run on a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} items/s" if task.speed else "", style="progress.data.speed")


class TrainingBar:
    """A `manyview.progress.Progress` on stderr that also shows the loss; silent if that is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(file=sys.stderr) if console is None else console
        self._bar: Progress | None = None

    def start(self, total: int, what: str) -> None:
        """Begin a run of `total` items."""
        self.finish()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.1f}%"),
                _RateColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(what, total=total, note="")
            self._bar.start()

    def advance(self, n: int = 1) -> None:
        """Count `n` more items."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)

    def note(self, text: str) -> None:
        """Show a short text, such as the loss, beside the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], note=text)

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
