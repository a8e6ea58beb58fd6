"""Reading published checkpoint files and holding their tensors against our networks, for every converter."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyview.errors import InputError
from manyview.weights.conversion import PartSurvey


def read_stored(path: str | os.PathLike[str]) -> Any:
    """What a file holds: safetensors, or torch's format with its weights-only reader.

    Raises `InputError` for a missing file, and for one that is neither or holds more than tensors.
    """
    shown = os.fspath(path)
    if not Path(path).is_file():
        raise InputError("CHECKPOINT", shown, "no such file")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        reason = "cannot be read as weights alone (damaged, or it holds more than tensors)"
        raise InputError("CHECKPOINT", shown, reason) from error


def find_marked(stored: Any, mark: str) -> Iterator[dict[str, Tensor]]:
    """The state dicts in what a file holds, however deep, that have the name `mark`, under their own names.

    The prefix before the mark (`unets.0.`, `module.`) is cut off, and what has not got it is left out.
    """
    for table in _tables(stored) if isinstance(stored, Mapping) else ():
        names = [name for name in table if name == mark or name.endswith(f".{mark}")]
        if names:
            prefix = names[0][: -len(mark)]
            yield {
                name.removeprefix(prefix): value
                for name, value in table.items()
                if name.startswith(prefix) and isinstance(value, Tensor)
            }


def survey_tensors(
    weights: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    our_name: Callable[[str], str | None],
    published_name: Callable[[str], str],
) -> PartSurvey:
    """How published tensors meet those of our network.

    `our_name` gives our name of a published one, None for one that nothing reads, and raises `InputError` for
    one it does not know; `published_name` goes the other way.
    """
    found: dict[str, str] = {}
    passed_over, unknown, misshapen = [], [], []
    for name in weights:
        try:
            own = our_name(name)
        except InputError:
            unknown.append(name)
            continue
        if own is None:
            passed_over.append(name)
        elif own not in ours:
            unknown.append(name)
        else:
            found[own] = name
            if weights[name].shape != ours[own].shape:
                shapes = f"{list(weights[name].shape)}, expected {list(ours[own].shape)}"
                misshapen.append(f"{name} {shapes}")
    return PartSurvey(
        matched=len(found) - len(misshapen),
        passed_over=tuple(sorted(passed_over)),
        unknown=tuple(sorted(unknown)),
        missing=tuple(sorted(published_name(name) for name in ours if name not in found)),
        misshapen=tuple(sorted(misshapen)),
    )


def require_fit(
    part: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], published_name: Callable[[str], str]
) -> None:
    """Raise `InputError` for the first tensor of ours that `theirs` (under our names) has not got, or has in
    another shape."""
    for name, value in ours.items():
        if name not in theirs:
            raise InputError("CHECKPOINT", f"{part}: {published_name(name)}", "is missing")
        if theirs[name].shape != value.shape:
            shape, expected = list(theirs[name].shape), list(value.shape)
            raise InputError("CHECKPOINT", f"{part}: {published_name(name)} {shape}", f"expected {expected}")


def codec_files(folder: Path) -> list[Path]:
    """The files of an image codec in diffusers' layout. Raises `InputError` for a folder that is none."""
    config = folder / "config.json"
    weights = sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        line = "expected a folder with config.json and safetensors (diffusers' AutoencoderKL)"
        raise InputError("--codec", str(folder), line)
    return [config, *weights]


def _tables(stored: Mapping[Any, Any]) -> Iterator[Mapping[str, Any]]:
    if any(isinstance(value, Tensor) for value in stored.values()):
        yield {name: value for name, value in stored.items() if isinstance(name, str)}
    for value in stored.values():
        if isinstance(value, Mapping):
            yield from _tables(value)
