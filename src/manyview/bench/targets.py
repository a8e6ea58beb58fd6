"""What the protocols' runs have in common: who is asked, and by what a run's kept answers are told apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from manyview.errors import InputError
from manyview.methods import load
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.report import Skipped

T = TypeVar("T")


@dataclass
class Asked(Generic[T]):
    """Who is asked, the first being what the others are compared with. T: a row of the protocol."""

    rows: list[T] = field(default_factory=list)
    size: int | None = None
    """Pixels a side that the weights make."""
    skipped: dict[str, Skipped] = field(default_factory=dict)
    results: Path | None = None
    """Where the first row's answers lie, instead of asking it."""
    kept: bool = True
    """Whether answers can be told apart later: a function handed over has no hash."""

    def refuse_none(self, only: Sequence[str] | None) -> None:
        """Raise `InputError` where all that was asked for is left out."""
        if not self.rows:
            why = "; ".join(f"{name} {reason}" for name, reason in self.skipped.items())
            raise InputError("--only", ", ".join(only or ()), why)


def dtype_name(dtype: torch.dtype | None) -> str:
    """As reports have it."""
    return str(dtype or torch.float32).removeprefix("torch.")


def shared_facts(
    protocol: str,
    resolution: int,
    seed: int,
    dtype: torch.dtype | None,
    device: torch.device | str,
    metrics: Mapping[str, object],
) -> dict[str, Any]:
    """What decides all rows' numbers alike; `metrics`: of which a `Skipped` is told by its reason."""
    return {
        "protocol": protocol,
        "resolution": resolution,
        "seed": seed,
        "dtype": dtype_name(dtype),
        "device": torch.device(device).type,
        "metrics": {k: v.reason if isinstance(v, Skipped) else "computed" for k, v in metrics.items()},
    }


def open_results(target: str | os.PathLike[str], *methods: str) -> Path:
    """The folder of results that a target names. Raises `InputError` where there is none; one of `methods`
    could have been named instead."""
    folder = Path(target)
    if not folder.is_dir():
        names = ("one of " if len(methods) > 1 else "") + ", ".join(methods)
        raise InputError("TARGET", str(folder), f"expected a folder of results or {names}")
    return folder


def made_or_skipped(make: Callable[[], T]) -> T | Skipped:
    """A baseline's row or, where its weights cannot be had, why it is left out."""
    try:
        return make()
    except InputError as error:
        return Skipped(f"no weights: {error.accepted}")


def load_opponent(
    one2one: str | One2OnePipeline, device: torch.device | str, dtype: torch.dtype | None
) -> One2OnePipeline | Skipped:
    """The one-to-one model: handed over, or of the weights named, or why there is none."""
    if not isinstance(one2one, str):
        return one2one
    return made_or_skipped(lambda: load("one2one", one2one, device, dtype))
