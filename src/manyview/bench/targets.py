"""What the protocols' runs check alike about who is asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from manyview.errors import InputError
from manyview.methods import load
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.report import Skipped

T = TypeVar("T")


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


def refuse_no_rows(only: Sequence[str] | None, skipped: Mapping[str, Skipped]) -> None:
    """Raise the `InputError` of a table in which all that was asked for is left out."""
    why = "; ".join(f"{name} {reason}" for name, reason in skipped.items())
    raise InputError("--only", ", ".join(only or ()), why)
