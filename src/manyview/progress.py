"""How long work reports how far it is: a callback object, so that code below the faces never prints."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of one piece of work at a time.

    `start` begins a piece (and ends an earlier one that was left open), `advance` counts done items,
    `finish` closes it. A face (terminal, page) implements it; `silent` is the one for everybody else.
    """

    def start(self, total: int, what: str) -> None:
        """Begin a piece of `total` items; `what` is a short noun, for example "views"."""
        ...

    def advance(self, n: int = 1) -> None:
        """Count `n` more items as done."""
        ...

    def finish(self) -> None:
        """Close the piece; also called after an error."""
        ...


class Silent:
    """Reports nothing."""

    def start(self, total: int, what: str) -> None:
        """Ignore."""

    def advance(self, n: int = 1) -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""


silent: Progress = Silent()
"""The progress of callers that do not want any."""
