"""What a protocol draws, decided by names alone: no library's random numbers, no other scene."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def number_of(key: str) -> int:
    """A 64-bit number from a name."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def shuffled(items: Iterable[int], key: str) -> list[int]:
    """An order of the items that follows from `key`."""
    return sorted(items, key=lambda item: number_of(f"{key}/{item}"))
