"""The time that train_all.py may take, beside its progress."""

from __future__ import annotations

import signal
import time

from manyview.cli.progress import TerminalProgress
from manyview.errors import Stopped


class Clock(TerminalProgress):
    """The progress of the command line, which also ends the work once its minutes are over."""

    def __init__(self, minutes: float | None) -> None:
        super().__init__()
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self.training = False

    def advance(self, n: int = 1) -> None:
        """Count; at the end of the minutes raise `Stopped`, or let a training write its checkpoint first."""
        super().advance(n)
        if self.training:
            if self._is_over():
                self._end = None  # a second signal would stop at once, without a checkpoint
                signal.raise_signal(signal.SIGINT)
        else:
            self.check()

    def check(self) -> None:
        """Raise `Stopped` if the minutes are over."""
        if self._is_over():
            raise Stopped("the minutes are over")

    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end
