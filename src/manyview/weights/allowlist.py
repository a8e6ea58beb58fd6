"""Reading a pickle without running anything of it: only names on a list are known, and to stand-ins.

A pickle is a program that may call whatever it names. Here a name that is not on the caller's list ends the
reading with one line, and a name that is stands for a function or class of ours, never for what it says.
Torch's own reader of weights covers files that torch wrote; this is for files written with plain pickle.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError

Makers = Mapping[tuple[str, str], Any]
"""(module, name) as a pickle says it -> what stands for it."""


class Inert:
    """What stands for a harmless object whose content is not needed: it takes anything and does nothing."""

    def __new__(cls, *arguments: object, **named: object) -> Inert:
        """Any arguments."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_pickle(path: str | os.PathLike[str], makers: Makers) -> Any:
    """What a pickle holds, with `makers` for the names in it.

    Raises `InputError`: no such file, a name that is not in `makers`, or damaged.
    """
    shown = os.fspath(path)
    if not Path(path).is_file():
        raise InputError("CHECKPOINT", shown, "no such file")
    with Path(path).open("rb") as file:
        try:
            return _Reader(file, makers, shown).load()
        except InputError:
            raise
        except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
            reason = f"cannot be read as a pickle of weights ({type(error).__name__})"
            raise InputError("CHECKPOINT", shown, reason) from error


def torch_makers() -> dict[tuple[str, str], Any]:
    """Makers for tensors, parameters and the containers around them, as plain pickle writes them."""
    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _read_storage,
        **{("torch", name): Inert for name in ("device", "Size", "float16", "float32", "float64", "int64")},
    }


def numpy_makers() -> dict[tuple[str, str], Any]:
    """Makers that let numpy's arrays pass by unread."""
    names = [("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode")]
    for package in ("numpy.core", "numpy._core"):
        names += [(f"{package}.multiarray", "_reconstruct"), (f"{package}.multiarray", "scalar")]
    return dict.fromkeys(names, Inert)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BufferedReader, makers: Makers, shown: str) -> None:
        super().__init__(file)
        self._makers = makers
        self._shown = shown

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = self._makers.get((module_name, global_name))
        if found is None:
            reason = f"asks for {module_name}.{global_name}, which no file of weights needs; nothing was run"
            raise InputError("CHECKPOINT", self._shown, reason)
        # A class is handed out as a fresh subclass and a function inside a fresh wrapper: a pickle may set
        # attributes of what it names, and must not reach ours.
        if found in (OrderedDict, set):
            return found
        return type(found.__name__, (found,), {}) if isinstance(found, type) else _wrapped(found)

    def persistent_load(self, pid: object, /) -> Any:
        raise InputError("CHECKPOINT", self._shown, "refers to other files; expected a pickle of weights")


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments)


def _read_storage(data: bytes) -> torch.TypedStorage:
    # What plain pickle keeps of a storage is a file of torch's in bytes, for which torch has a safe reader.
    storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError(f"expected a storage, found {type(storage).__name__}")
    return storage


def _rebuild_tensor(
    storage: torch.TypedStorage, offset: int, size: Sequence[int], stride: Sequence[int], *ignored: object
) -> Tensor:
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError(f"expected a storage, found {type(storage).__name__}")
    sizes, strides = [int(value) for value in size], [int(value) for value in stride]
    if min([offset, *sizes, *strides]) < 0 or len(sizes) != len(strides):
        raise pickle.UnpicklingError("expected sizes and strides from 0 on")
    # `set_` would make a storage larger that is too small for its view, with whatever lay in memory.
    end = offset + 1 + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and end > len(storage):
        raise pickle.UnpicklingError("expected a view within its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage, int(offset), sizes, strides)


def _rebuild_parameter(data: Tensor, *ignored: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError(f"expected a tensor, found {type(data).__name__}")
    return data
