"""Numba's compiler with the options of the field's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

_FAST = frozenset({"reassoc", "contract", "arcp", "nsz"})


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call, and keep the machine code for the next process.

    (Where no folder for it can be written, every process compiles anew.) The function releases Python's lock.
    Sums come in any order; NaN and infinity keep their meaning.
    """
    flags: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(_FAST)}
    try:
        return numba.njit(cache=True, **flags)(function)
    except RuntimeError:
        # Numba found no folder to write to ("no locator available").
        return numba.njit(**flags)(function)


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call: it becomes part of their code."""
    flags: dict[str, Any] = {"error_model": "numpy", "fastmath": set(_FAST)}
    flags |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(**flags)(function)
