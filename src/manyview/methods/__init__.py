"""The methods by name. A method is one folder, one line here and one page of docs."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from manyview.errors import InputError

if TYPE_CHECKING:
    import torch

    from manyview.weights.conversion import Converter

# Name -> module and class of its pipeline. `one2one` is the baseline the others are measured against.
METHODS: dict[str, tuple[str, str]] = {
    "dimvis": ("manyview.methods.dimvis.pipeline", "DimvisPipeline"),
    "hi3d": ("manyview.methods.hi3d.pipeline", "Hi3dPipeline"),
    "one2one": ("manyview.methods.one2one.pipeline", "One2OnePipeline"),
    "refiner": ("manyview.methods.refiner.pipeline", "RefinerPipeline"),
    "sparsefusion": ("manyview.methods.sparsefusion.pipeline", "SparseFusionPipeline"),
    "tunet": ("manyview.methods.tunet.pipeline", "TunetPipeline"),
}

# Name -> module and class of what reads its published checkpoints (see weights/conversion.py).
CONVERTERS: dict[str, tuple[str, str]] = {
    "hi3d": ("manyview.methods.hi3d.convert", "Hi3dConverter"),
    "refiner": ("manyview.methods.refiner.convert", "RefinerConverter"),
    "sparsefusion": ("manyview.methods.sparsefusion.convert", "SparseFusionConverter"),
    "tunet": ("manyview.methods.tunet.convert", "TunetConverter"),
}


def load(
    method: str,
    weights: str | os.PathLike[str] = "compact",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """A method's pipeline (a `diffusers.DiffusionPipeline`), ready to call.

    `weights`: `compact` (in the package), a folder, or a hub id. Raises `InputError` for an unknown
    method, and for weights that are absent, damaged or another method's, before anything loads.
    """
    if method not in METHODS:
        raise InputError("method", method, f"expected one of {', '.join(METHODS)}")
    from manyview.weights import open_bundle

    bundle = open_bundle(weights, method)
    module, name = METHODS[method]
    pipeline = getattr(importlib.import_module(module), name).from_bundle(bundle, dtype)
    return pipeline.to(device)


def protocol_of(method: str) -> str:
    """The protocol that a listed method is scored under."""
    return importlib.import_module(f"manyview.methods.{method}.spec").PROTOCOL


def find_converter(method: str) -> Converter:
    """What reads the published checkpoints of a method. Raises `InputError` for a method that has none."""
    if method not in CONVERTERS:
        raise InputError("--method", method, f"expected one of {', '.join(CONVERTERS)}")
    module, name = CONVERTERS[method]
    return getattr(importlib.import_module(module), name)()
