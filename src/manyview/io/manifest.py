"""The manifest beside every output: what made it, so that it can be made again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic

MANIFEST_NAME = "manifest.json"
_PACKAGES = ("manyview", "torch", "diffusers", "transformers", "numpy")


def build_manifest(
    command: str,
    *,
    options: object = None,
    seed: int | None = None,
    weights: Sequence[Mapping[str, object]] = (),
    seconds: float | None = None,
    **more: object,
) -> dict[str, Any]:
    """A manifest as plain json values.

    `command`: the verb or call ("synth dimvis"). `options`: every resolved option, a dataclass or mapping.
    `weights`: one entry a set of weights with at least `name`, `sha256` and `licence`. `seconds`: wall time.
    Versions and the peak memory (10^6 bytes, this process so far) are added. Raises `InputError` for weights
    without those keys and for values json cannot hold.
    """
    for entry in weights:
        missing = {"name", "sha256", "licence"} - set(entry)
        if missing:
            raise InputError(
                "weights", dict(entry), f"expected the keys {', '.join(sorted(missing))} as well"
            )
    record = {
        "command": command,
        "options": {} if options is None else options,
        "seed": seed,
        "versions": versions(),
        "weights": list(weights),
        "seconds": seconds,
        **peak_memory(),
        **more,
    }
    plain = to_plain(record)
    assert isinstance(plain, dict), "a mapping stays one"
    return plain


def write_manifest(folder: str | os.PathLike[str], manifest: Mapping[str, object]) -> None:
    """Write `manifest.json` in a folder, atomically."""
    write_json(Path(folder) / MANIFEST_NAME, manifest)


def write_json(path: str | os.PathLike[str], record: object) -> None:
    """Write plain json (see `to_plain`), indented, atomically. Raises `InputError` for NaN and infinity."""
    try:
        text = json.dumps(to_plain(record), indent=1, allow_nan=False)
    except ValueError:
        raise InputError(Path(path).name, "holds NaN or infinity", "expected finite numbers") from None
    write_text_atomic(path, text + "\n")


def read_json(path: str | os.PathLike[str], argument: str = "INPUT") -> dict[str, Any]:
    """The object in a json file. Raises `InputError` where there is none."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(argument, os.fspath(path), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(argument, os.fspath(path), f"not json ({error})") from None
    if not isinstance(record, dict):
        raise InputError(argument, os.fspath(path), "expected a json object")
    return record


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that decide the numbers; absent packages left out."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> dict[str, float]:
    """`peak_memory_mb` of this process so far and, where CUDA was used, `peak_gpu_memory_mb`; 10^6 bytes."""
    peaks: dict[str, float] = {}
    try:
        import resource
    except ImportError:
        # Windows has no such counter in the standard library; then the number is absent, not zero.
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peaks


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """The file's sha256 in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def to_plain(value: object) -> object:
    """Dataclasses, mappings, sequences, paths, numpy and torch numbers or arrays as plain json values.

    An object with a method `as_json` gives its own. Raises `InputError` for anything else.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "as_json"):
        return to_plain(value.as_json())  # pyright: ignore[reportAttributeAccessIssue]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    raise InputError("manifest", type(value).__name__, "expected values that json can hold")
