"""Fields and surfaces in safetensors files, exactly as they are."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.lift.field.box import Box
from manyview.lift.field.encodings import DenseGrid, MultiresGrid, Triplane
from manyview.lift.field.neural import NeuralField, NeuralOptions
from manyview.lift.field.voxels import VoxelField
from manyview.lift.sdf.model import SdfField

Volume = VoxelField | SdfField | NeuralField
_ENCODINGS = {"multires": MultiresGrid, "dense": DenseGrid, "triplane": Triplane}
_KINDS = ("voxels", "sdf", *_ENCODINGS)


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a field of any kind or a signed distance field, as safetensors. Atomic."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in volume.state_dict().items()}
    metadata = {"volume": json.dumps(_describe(volume))}
    write_bytes_atomic(path, save(tensors, metadata=metadata))


def read_volume(path: str | os.PathLike[str], *, argument: str = "INPUT") -> Volume:
    """The field of a file that `write_volume` wrote. Raises `InputError` for any other file."""
    if not Path(path).is_file():
        raise InputError(argument, os.fspath(path), "does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("volume", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError) as error:
        raise InputError(argument, os.fspath(path), f"cannot be read: {error}") from None
    if not isinstance(record, dict) or record.get("kind") not in _KINDS:
        raise InputError(argument, os.fspath(path), "expected a file of a field or surface")
    volume = _build(record, tensors)
    volume.load_state_dict(tensors)
    volume.requires_grad_(False)
    return volume


def _describe(volume: Volume) -> dict[str, Any]:
    if isinstance(volume, NeuralField):
        encoding = volume.encoding
        kind = next(name for name, cls in _ENCODINGS.items() if isinstance(encoding, cls))
        options = dataclasses.asdict(volume.options)
        return {"kind": kind, "encoding": encoding.arguments, "options": options}
    box = {"low": volume.box.low, "voxel": volume.box.voxel, "shape": volume.box.shape}
    if isinstance(volume, SdfField):
        return {"kind": "sdf", **box}
    return {"kind": "voxels", "gain": volume.gain, **box}


def _build(record: dict[str, Any], tensors: dict[str, Tensor]) -> Volume:
    """A volume of the recorded kind whose tensors have the right shapes."""
    kind = record["kind"]
    if kind in _ENCODINGS:
        options = NeuralOptions(**{**record["options"], "center": tuple(record["options"]["center"])})
        arguments = record["encoding"]
        grid = (
            MultiresGrid(arguments.pop("kind"), **arguments)
            if kind == "multires"
            else _ENCODINGS[kind](**arguments)
        )
        return NeuralField(grid, options)
    box = Box(low=tuple(record["low"]), voxel=record["voxel"], shape=tuple(record["shape"]))
    volume: VoxelField | SdfField
    if kind == "sdf":
        volume = SdfField(box, tensors["geometry"])
    else:
        volume = VoxelField(box, tensors["geometry"], tensors["index"] >= 0, gain=float(record["gain"]))
    # Rows were given to nodes when the geometry was another, so they are taken as they were.
    volume.register_buffer("index", torch.zeros_like(tensors["index"]))
    volume.features = nn.Parameter(torch.zeros_like(tensors["features"]))
    return volume
