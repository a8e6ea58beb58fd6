"""Official StyleGAN2 network pickles to a bundle whose generator the refiner works on; nothing of one is run.

The published files (stylegan2-ada-pytorch and later) are pickles of whole objects, each with the source code
of its class. Here every object is read as a record of its state, the source is dropped unread, and a name
outside the list ends the reading.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_folder
from manyview.methods.refiner.stylegan_names import FILTER, generator_sizes, published_names
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.weights import write_bundle
from manyview.weights.allowlist import Makers, numpy_makers, read_pickle, torch_makers
from manyview.weights.checkpoints import require_fit, survey_tensors
from manyview.weights.conversion import Survey

COMPONENT = "generator"
_SOURCE = "G_ema"
"""The running mean of the generator's weights over training, which is the one to make images with."""
_MAPPING_LR = 0.01


@dataclass(frozen=True)
class Record:
    """A stored object: the name of its class and its attributes. It is never made into one."""

    class_name: str
    state: Mapping[str, Any]


def read_network(path: str | os.PathLike[str], name: str = _SOURCE) -> Record:
    """The record of one network of an official file. Raises `InputError` as `read_pickle`, and for a file
    that holds no such network."""
    held = read_pickle(path, _makers())
    network = held.get(name) if isinstance(held, Mapping) else None
    if not isinstance(network, Record):
        raise InputError("CHECKPOINT", os.fspath(path), f"holds no network {name} of StyleGAN2 in PyTorch")
    return network


def tensors_of(record: Record, prefix: str = "") -> dict[str, Tensor]:
    """The parameters and buffers of a stored module and its parts, under their full names, as float32."""
    found = {}
    for table in ("_parameters", "_buffers"):
        for name, value in _table(record, table).items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value.float()
    for name, part in _table(record, "_modules").items():
        if isinstance(part, Record):
            found |= tensors_of(part, f"{prefix}{name}.")
    return found


def build_from_record(record: Record) -> tuple[StyleGAN2Generator, dict[str, Tensor]]:
    """A generator of the stored sizes with weights of its own, on the meta device, and the stored tensors
    under their official names (without filters). Raises `InputError` for what is no such generator."""
    weights = tensors_of(record)
    arguments: dict[str, Any] = {
        **generator_sizes(weights),
        "mapping_lr": _number(record, ("mapping", "fc0"), "bias_gain", _MAPPING_LR),
        "conv_clamp": _number(record, ("synthesis", "b4", "conv1"), "conv_clamp", None),
    }
    with torch.device("meta"):
        generator = StyleGAN2Generator(**arguments)
    return generator, {name: value for name, value in weights.items() if not name.endswith(FILTER)}


def survey_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> Survey:
    """How the tensors of an official file meet a generator of ours of its sizes. Nothing is written.

    Raises `InputError` as `read_network`, for a generator of another kind, and for more than one file.
    """
    record = read_network(_single(paths))
    generator, weights = build_from_record(record)
    names = published_names(generator)
    ours = {theirs: own for own, theirs in names.items()}
    filters = [name for name in tensors_of(record) if name.endswith(FILTER)]
    everything = {**weights, **{name: torch.empty(0) for name in filters}}

    def our_name(name: str) -> str | None:
        if name.endswith(FILTER):
            return None
        if name not in ours:
            raise InputError("CHECKPOINT", name, "expected the names of StyleGAN2's generator")
        return ours[name]

    survey = survey_tensors(everything, generator.state_dict(), our_name, names.__getitem__)
    return Survey(parts={COMPONENT: survey})


def convert_checkpoints(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> dict[str, Path]:
    """Write the generator of an official file as a bundle `out` with the one component `generator`.

    Raises `InputError` as `survey_checkpoints`, for a name or a shape that does not fit, for a codec (there
    is none in a GAN), and for a folder `out` that is in use (see `force`), with nothing written.
    """
    if codec is not None:
        raise InputError("--codec", os.fspath(codec), "refiner has no image codec; leave it out")
    path = _single(paths)
    generator, weights = build_from_record(read_network(path))
    names = published_names(generator)
    ours = {theirs: own for own, theirs in names.items()}
    for name in weights:
        if name not in ours:
            raise InputError("CHECKPOINT", name, "expected the names of StyleGAN2's generator")
    found = {ours[name]: value.contiguous() for name, value in weights.items()}
    require_fit(COMPONENT, generator.state_dict(), found, names.__getitem__)
    generator.load_state_dict(found, assign=True)
    with writing_folder(out, force, marks=("config.json", "manyview.json")) as folder:
        generator.save_pretrained(folder / COMPONENT)
        write_bundle(
            folder,
            name="converted stylegan2",
            method="refiner",
            licence=licence,
            components={COMPONENT: COMPONENT},
            settings={"resolution": generator.resolution, "source": _SOURCE},
        )
    return {COMPONENT: Path(out) / COMPONENT}


class RefinerConverter:
    """This module as `manyview convert` calls it."""

    survey = staticmethod(survey_checkpoints)
    convert = staticmethod(convert_checkpoints)


class _Table(dict[str, Any]):
    """What stands for the official dictionary type whose keys are attributes too."""


def _makers() -> Makers:
    return {
        **torch_makers(),
        **numpy_makers(),
        ("dnnlib.util", "EasyDict"): _Table,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _as_record,
    }


def _as_record(meta: Mapping[str, Any]) -> Record:
    state = meta.get("state")
    return Record(str(meta.get("class_name")), dict(state) if isinstance(state, Mapping) else {})


def _table(record: Record, name: str) -> Mapping[str, Any]:
    found = record.state.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(record: Record, path: Sequence[str], name: str, absent: float | None) -> float | None:
    """A number among the attributes of a part of a stored module."""
    part: Any = record
    for step in path:
        part = _table(part, "_modules").get(step)
        if not isinstance(part, Record):
            return absent
    value = part.state.get(name)
    return float(value) if isinstance(value, int | float) else absent


def _single(paths: Sequence[str | os.PathLike[str]]) -> str | os.PathLike[str]:
    if len(paths) != 1:
        raise InputError("CHECKPOINT", len(paths), "expected one file")
    return paths[0]
