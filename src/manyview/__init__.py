"""manyview: one or a few images into many consistent views, and those into 3D."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manyview.errors import InputError as InputError
    from manyview.io.result import Result as Result
    from manyview.methods import load as load
    from manyview.types import Cameras as Cameras
    from manyview.types import Views as Views

__version__ = "0.1.0"

# Public name -> the module that defines it. Loaded on first use: importing the package must stay
# fast and load no torch.
_PUBLIC = {
    "Cameras": "manyview.types",
    "InputError": "manyview.errors",
    "Result": "manyview.io.result",
    "Views": "manyview.types",
    "load": "manyview.methods",
}

__all__ = ["Cameras", "InputError", "Result", "Views", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'manyview' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
