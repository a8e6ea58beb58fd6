"""Numba's compiler with the options of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

SAFE_FASTMATH = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""Sums in any order and fused multiply-adds. NaN and infinity keep their meaning."""


def kernel(*, parallel: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on its first call, and keep the machine code for the next process.

    Numba keeps it in NUMBA_CACHE_DIR where that is set, else beside the source where that can be written,
    else in the user's cache folder. Where none of these can be written every process compiles anew. It looks
    at the age of the kernel's own file only: after a change to a function or constant that kernels take from
    another file, touch theirs.
    """
    flags: dict[str, Any] = {"parallel": parallel, "nogil": True, "error_model": "numpy"}

    def compile_lazily(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **flags)(function)
        except RuntimeError:
            # Numba found no folder to write to ("no locator available").
            return numba.njit(**flags)(function)

    return compile_lazily


def inner(*, fastmath: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that only kernels call: it becomes part of their code and is not kept by itself."""
    flags: dict[str, Any] = {
        "error_model": "numpy",
        "fastmath": set(SAFE_FASTMATH) if fastmath else False,
        # No way in from Python, which is a good part of the time to compile.
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    return numba.njit(**flags)


def _fetch_next(typingctx: Any, counter: Any) -> Any:
    """The number in `counter` (int64, one element), which grows by one; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", array.data, one, "monotonic")

    return types.int64(counter), generate


fetch_next: Any = intrinsic(_fetch_next)
"""fetch_next(counter), inside compiled code: see `_fetch_next`."""
