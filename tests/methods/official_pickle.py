"""Pickles in the layout of the official StyleGAN2 files, written without their code: stand-in modules of the
same names, with objects that tell pickle to rebuild them by name, as the official classes do."""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyview.methods.refiner.stylegan_names import published_names
from manyview.nets.stylegan2.filters import filter_taps
from manyview.nets.stylegan2.generator import StyleGAN2Generator


@contextmanager
def official_modules() -> Iterator[tuple[type[dict], Any]]:
    """`dnnlib.util.EasyDict` and `torch_utils.persistence._reconstruct_persistent_obj`, importable for as
    long as pickle needs to write their names."""
    saved = {name: sys.modules.get(name) for name in NAMES}
    modules = {name: ModuleType(name) for name in NAMES}
    table = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    vars(modules["dnnlib.util"])["EasyDict"] = table

    def _reconstruct_persistent_obj(meta: object) -> object:
        raise AssertionError("the official code must never run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    vars(modules["torch_utils.persistence"])["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    sys.modules.update(modules)
    try:
        yield table, _reconstruct_persistent_obj
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


NAMES = ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")


class Stored:
    """An object that pickles as an official network does: its source code, its class and its state."""

    def __init__(self, table: type[dict], rebuild: Any, name: str, state: dict, source: str) -> None:
        self.parts = (table, rebuild, name, state, source)

    def __reduce__(self) -> tuple:
        table, rebuild, name, state, source = self.parts
        meta = table(type="class", version=6, module_src=source, class_name=name, state=state)
        return rebuild, (meta,), None, None, None


def official_tensors(generator: StyleGAN2Generator) -> dict[str, Tensor]:
    """The generator's tensors under official names, with the filters that official files hold too."""
    state = generator.state_dict()
    found = {theirs: state[own].clone() for own, theirs in published_names(generator).items()}
    for name in list(found):
        if name.endswith("noise_const"):
            found[name.replace("noise_const", "resample_filter")] = filter_taps(torch.zeros(()))
        if name.endswith("torgb.weight"):
            found[name.replace("torgb.weight", "resample_filter")] = filter_taps(torch.zeros(()))
    return found


def write_official(
    path: Path,
    generator: StyleGAN2Generator,
    *,
    source: str = "raise RuntimeError('this code must not run')",
    tensors: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """A pickle with `G_ema` (and a `G` whose tensors are all zero), in the official layout."""
    tensors = official_tensors(generator) if tensors is None else tensors
    config = generator.config
    with official_modules() as (table, rebuild):

        def network(values: Mapping[str, Tensor]) -> Stored:
            return _module(
                values, "", lambda name, state: Stored(table, rebuild, name, state, source), config
            )

        held = {
            "G": network({name: torch.zeros_like(value) for name, value in tensors.items()}),
            "D": None,
            "G_ema": network(tensors),
            "augment_pipe": None,
            "training_set_kwargs": table(class_name="training.dataset.ImageFolderDataset", path="x.zip"),
            **(extra or {}),
        }
        path.write_bytes(pickle.dumps(held, protocol=4))


def _module(tensors: Mapping[str, Tensor], prefix: str, store: Any, config: Mapping[str, Any]) -> Stored:
    own = {name: value for name, value in tensors.items() if "." not in name}
    children = sorted({name.split(".")[0] for name in tensors if "." in name})
    is_buffer = {name: name in ("w_avg", "noise_const", "resample_filter") for name in own}
    modules = OrderedDict()
    for child in children:
        inner = {
            name[len(child) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{child}.")
        }
        modules[child] = _module(inner, f"{prefix}{child}.", store, config)
    parameters = OrderedDict((n, nn.Parameter(v)) for n, v in own.items() if not is_buffer[n])
    buffers = OrderedDict((n, v) for n, v in own.items() if is_buffer[n])
    state: dict[str, Any] = {
        "training": False,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": modules,
        "weight_gain": np.float64(0.25),
        "resolutions": np.arange(3),
    }
    if prefix.startswith("mapping.fc"):
        state["bias_gain"] = config["mapping_lr"]
    if ".conv" in prefix or "torgb" in prefix:
        state["conv_clamp"] = config["conv_clamp"]
    return store("Generator" if not prefix else "SynthesisLayer", state)


def storage_bytes(value: object) -> bytes:
    """What plain pickle keeps of an object of torch's: a file of torch's in bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
