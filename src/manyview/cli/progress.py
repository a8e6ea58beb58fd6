"""Progress on stderr: a bar with rate and remaining time on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LOG_SECONDS = 10.0


def silence_loading() -> None:
    """Turn off the bars the libraries draw while they read weights; ours is enough."""
    import diffusers.utils.logging
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "", style="progress.data.speed")


class TerminalProgress:
    """The `manyview.progress.Progress` of the command line."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(file=sys.stderr) if console is None else console
        self._bar: Progress | None = None
        self._what = ""
        self._total = 0
        self._done = 0
        self._began = 0.0
        self._logged = 0.0

    def start(self, total: int, what: str) -> None:
        """Begin a piece of work; an open one is closed first."""
        self.finish()
        self._what, self._total, self._done = what, total, 0
        self._began = self._logged = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(what, total=total)
            self._bar.start()

    def advance(self, n: int = 1) -> None:
        """Count `n` more items."""
        self._done += n
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)
        elif self._what and time.monotonic() - self._logged >= _LOG_SECONDS:
            self._logged = time.monotonic()
            self._console.print(self._line(), highlight=False)

    def finish(self) -> None:
        """Close the piece, leaving one line with its total time."""
        if not self._what:
            return
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        seconds = time.monotonic() - self._began
        self._console.print(f"{self._what}: {self._done}/{self._total} in {seconds:.1f} s", highlight=False)
        self._what = ""

    def _line(self) -> str:
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        return f"{self._what}: {self._done}/{self._total}, {rate:.2f}/s, {left:.0f} s left"
