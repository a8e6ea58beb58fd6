"""What several rows of a table make of one question, made once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from manyview.bench.partial import hash_tensor
from manyview.types import Views


class SharedParts:
    """Parts of the answers to the last question, with the seconds that each took."""

    def __init__(self) -> None:
        self.saved_seconds = 0.0
        """What earlier answers had spent on parts of this one."""
        self._counted: set[str] = set()
        self._question = ""
        self._made: dict[str, tuple[Any, float]] = {}

    def begin_answer(self) -> None:
        """Count `saved_seconds` anew."""
        self.saved_seconds = 0.0
        self._counted.clear()

    def keep(self, given: Views, seed: int, part: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, or gave before for this question. It may not ask for other parts itself."""
        question = f"{seed} {hash_tensor(given.over(1.0))}"
        if question != self._question:
            self._question = question
            self._made.clear()
        if part not in self._made:
            started = time.perf_counter()
            made = make()
            self._made[part] = (made, time.perf_counter() - started)
        elif part not in self._counted:
            self.saved_seconds += self._made[part][1]
        self._counted.add(part)
        return self._made[part][0]
