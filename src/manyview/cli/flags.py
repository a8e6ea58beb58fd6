"""Flags that several commands share; a field's docstring is its help text. Loads no torch."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manyview.errors import InputError

if TYPE_CHECKING:
    import torch

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """What every command that writes something takes."""

    seed: int = 0
    """Start of all randomness: the same seed gives the same result."""
    force: bool = False
    """Replace an output that already exists."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""


@dataclass(frozen=True, kw_only=True)
class ComputeFlags:
    """What every command that runs a network takes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a CUDA GPU if there is one."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the networks."""
    max_memory: str | None = None
    """Refuse to start if the estimated peak is above this, for example 8GB or 500MiB."""


def torch_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device a flag stands for. Raises `InputError` for cuda where there is none."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device", name, "no CUDA GPU is usable here; expected cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def torch_dtype(name: Literal["fp32", "bf16", "fp16"]) -> torch.dtype:
    """The torch dtype a flag stands for."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def parse_bytes(text: str) -> int:
    """Bytes in a size such as `8GB` or `8G` (10^9) or `500MiB` (2^20).

    Raises `InputError` for anything else.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise InputError("--max-memory", text, "expected a positive size such as 8GB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def check_memory(estimate: int, limit: str | None) -> None:
    """Raise `InputError` if `estimate` bytes are above the limit the user set."""
    if limit is not None and estimate > parse_bytes(limit):
        raise InputError("--max-memory", limit, f"this run is estimated to need {estimate / 1e6:.0f} MB")


def parameter_bytes(folders: Iterable[Path], dtype: Literal["fp32", "bf16", "fp16"]) -> int:
    """Bytes the safetensors in `folders` take once loaded as `dtype`, read off their headers alone."""
    count = 0
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            # The file starts with the length of its header as a little-endian 64-bit number, then json.
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        # Packed weights (weights/packing.py) keep scales beside their numbers; loading multiplies them in.
        scales = {f"{name.removesuffix('.int8')}.scale" for name in header if name.endswith(".int8")}
        passed_over = scales | {"__metadata__"}
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name not in passed_over)
    return count * (4 if dtype == "fp32" else 2)


def check_readable(argument: str, path: Path) -> None:
    """Raise `InputError` unless `path` exists and can be read."""
    if not path.exists():
        raise InputError(argument, str(path), "does not exist")
    if not os.access(path, os.R_OK):
        raise InputError(argument, str(path), "cannot be read: permission denied")


def check_output(path: Path, *, allowed: bool, flag: str = "--force") -> None:
    """Raise `InputError` if `path` could not be written, or exists and `flag` was not given (`allowed`).

    An empty folder counts as absent.
    """
    occupied = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if occupied and not allowed:
        raise InputError("--out", str(path), f"already exists; choose another path or give {flag}")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        raise InputError("--out", str(path), f"{parent} is not writable")
    if not path.exists() and not parent.is_dir():
        raise InputError("--out", str(path), f"{parent} is a file, expected a folder")


def check_range(argument: str, value: float | None, low: float, high: float) -> None:
    """Raise `InputError` unless `low <= value <= high`; None passes."""
    if value is not None and not low <= value <= high:
        raise InputError(argument, value, f"expected a number from {low:g} to {high:g}")
