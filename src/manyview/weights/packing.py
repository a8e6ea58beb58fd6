"""Components with int8 weights: half the size of float16 on disk, expanded when they are loaded.

A packed component is the folder of an ordinary one (diffusers' or transformers' layout) whose weights lie in
`packed.safetensors`. Of a packed tensor `name` that file holds `name.int8`, its numbers, and `name.scale`,
one float32 for each index of the first dimension (the output channels of a linear or convolutional layer);
the tensor is the product of both. All other tensors are there under their own names, as they were.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_folder

PACKED_FILE = "packed.safetensors"
FORMAT, VERSION = "manyview.packed", "1"
"""What the file says of itself. One entry: the order of several is not the same in every file written."""
MIN_NUMBERS = 1024
"""Smaller tensors stay as they are: they weigh nothing."""
_LEVELS = 127
_NUMBERS, _SCALE = ".int8", ".scale"

Component = TypeVar("Component")


def pack_component(
    source: str | os.PathLike[str], target: str | os.PathLike[str], keep: Collection[str] = ()
) -> None:
    """Write the component `source` to the new folder `target` with int8 weights. Atomic.

    Floating tensors of at least two dimensions and `MIN_NUMBERS` numbers are packed (see `quantize`), others
    and those named in `keep` stay as they are, and so do all other files. Raises `InputError` unless `source`
    holds a config.json and one ordinary safetensors file of finite numbers, and for names it has not got.
    """
    folder, shown = Path(source), os.fspath(source)
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or len(files) != 1:
        raise InputError("component", shown, "expected a folder with config.json and one safetensors file")
    if files[0].name == PACKED_FILE:
        raise InputError("component", shown, "is packed already")
    tensors = _read(files[0], "component", shown)[0]
    for name in keep:
        if name not in tensors:
            raise InputError("keep", name, f"{shown} has no such tensor")
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        large = tensor.is_floating_point() and tensor.dim() >= 2 and tensor.numel() >= MIN_NUMBERS
        if name.endswith(_NUMBERS):
            raise InputError("component", shown, f"its tensor {name} is named as packed ones are")
        if not large or name in keep:
            packed[name] = tensor
        elif not tensor.isfinite().all():
            raise InputError("component", shown, f"{name} holds numbers that are not finite")
        else:
            packed[name + _NUMBERS], packed[name + _SCALE] = quantize(tensor)
    with writing_folder(target, argument="target") as temporary:
        shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        # Written here: the library's own writer leaves files that nobody but their owner may read.
        (temporary / PACKED_FILE).write_bytes(save(packed, metadata={FORMAT: VERSION}))


def quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 numbers of the shape of `tensor` [N, ...] and float32 scales [N], whose product is nearest to it.

    The scale is the largest magnitude of a channel over 127, so nothing is clipped and no number moves by
    more than half the scale of its channel.
    """
    values = tensor.float()
    scale = values.flatten(1).abs().amax(dim=1) / _LEVELS
    steps = torch.where(scale > 0, scale, 1).view(-1, *[1] * (values.dim() - 1))
    return (values / steps).round().clamp(-_LEVELS, _LEVELS).to(torch.int8).contiguous(), scale


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a component folder holds packed weights."""
    return (Path(folder) / PACKED_FILE).is_file()


def read_packed(folder: str | os.PathLike[str], argument: str = "--weights") -> dict[str, Tensor]:
    """The tensors of a packed component by their own names: expanded ones in float32, others as stored.

    Raises `InputError`, naming `argument`, for a file that is damaged or not of this format.
    """
    path, shown = Path(folder) / PACKED_FILE, os.fspath(folder)
    if len(list(path.parent.glob("*.safetensors"))) > 1:
        raise InputError(argument, shown, f"holds other weights beside {PACKED_FILE}; expected one file")
    stored, told = _read(path, argument, shown)
    if FORMAT not in told:
        raise InputError(argument, shown, f"{PACKED_FILE} is not of manyview's packed format")
    if told[FORMAT] != VERSION:
        line = f"{PACKED_FILE} has version {told[FORMAT]} of the format, expected {VERSION}"
        raise InputError(argument, shown, line)
    tensors: dict[str, Tensor] = {}
    for name in [name for name in stored if name.endswith(_NUMBERS)]:
        own, numbers = name.removesuffix(_NUMBERS), stored.pop(name)
        scale = stored.pop(own + _SCALE, None)
        if numbers.dtype != torch.int8 or scale is None or scale.shape != numbers.shape[:1]:
            raise InputError(argument, shown, f"{PACKED_FILE} is damaged: {own} has no fitting scale")
        tensors[own] = numbers.float() * scale.float().view(-1, *[1] * (numbers.dim() - 1))
    return {**tensors, **stored}


def load_component(
    cls: type[Component],
    folder: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    *,
    argument: str = "--weights",
) -> Component:
    """A network of class `cls` (a diffusers `ModelMixin` or a transformers `PreTrainedModel`) from a packed
    or an ordinary component folder, on the CPU and in evaluation mode.

    As `cls.from_pretrained` with that `dtype`; without one, diffusers' networks come in torch's default
    dtype and transformers' in that of their config. A packed folder must hold exactly the network's tensors.
    Raises `InputError`, naming `argument`, where a packed one does not, is damaged or foreign.
    """
    if not is_packed(folder):
        wanted = {} if dtype is None else {"dtype": dtype}
        return cast(Any, cls).from_pretrained(os.fspath(folder), local_files_only=True, **wanted)
    # Imported here: packing itself needs neither library.
    from diffusers import ModelMixin

    tensors = read_packed(folder, argument)
    build = _build_diffusers if issubclass(cls, ModelMixin) else _build_transformers
    return build(cls, os.fspath(folder), tensors, dtype, argument)


def _build_diffusers(
    cls: Any, folder: str, tensors: dict[str, Tensor], dtype: torch.dtype | None, argument: str
) -> Any:
    from accelerate import init_empty_weights

    try:
        config = cls.load_config(folder, local_files_only=True)
    except OSError as error:
        raise InputError(argument, folder, "its config.json is missing or damaged") from error
    usual = torch.get_default_dtype()
    try:
        # For buffers that are in no file. Parameters stay without memory until theirs is given to them.
        torch.set_default_dtype(dtype or usual)
        with init_empty_weights(include_buffers=False):
            model = cls.from_config(config)
    finally:
        torch.set_default_dtype(usual)
    places = model.state_dict()
    _require_fit(places, tensors, cls, folder, argument)
    for name, tensor in tensors.items():
        chosen = dtype if dtype is not None and tensor.is_floating_point() else places[name].dtype
        tensors[name] = tensor.to(chosen)
    model.load_state_dict(tensors, strict=True, assign=True)
    model.register_to_config(_name_or_path=folder)
    return model.eval()


def _build_transformers(
    cls: Any, folder: str, tensors: dict[str, Tensor], dtype: torch.dtype | None, argument: str
) -> Any:
    try:
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise InputError(argument, folder, "its config.json is missing or damaged") from error
    with torch.device("meta"):
        places = cls(config).state_dict()
    _require_fit(places, tensors, cls, folder, argument)
    model = cls.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype or "auto")
    model.name_or_path = model.config.name_or_path = folder
    return model


def _require_fit(
    places: Mapping[str, Tensor], tensors: Mapping[str, Tensor], cls: type, folder: str, argument: str
) -> None:
    faults = {
        "is missing": [name for name in places if name not in tensors],
        "has no place there": [name for name in tensors if name not in places],
        "has another shape": [n for n in places if n in tensors and places[n].shape != tensors[n].shape],
    }
    for fault, names in faults.items():
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            line = f"{PACKED_FILE} does not fit {cls.__name__}: {names[0]} {fault}{others}"
            raise InputError(argument, folder, line)


def _read(path: Path, argument: str, shown: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(argument, shown, f"{path.name} is damaged or cannot be read") from error
