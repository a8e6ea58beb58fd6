"""How a field is fitted. Loads no torch, so that a command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FieldOptions:
    """How a field is fitted."""

    encoding: Literal["auto", "surface", "voxels", "hash", "tiled", "dense", "triplane"] = "auto"
    """Where the field is kept: surface (signed distances in voxels, lift/sdf: the most quality for the time
    on a CPU), voxels (density: fog in the masks' hull), or a grid read by a small network. auto: surface
    where views have masks and one is found, else voxels."""
    resolution: int = 144
    """Nodes along the object's longest side in the end; for networks those of the finest level."""
    steps: int = 1500
    """Steps of the optimiser."""
    rays: int = 4096
    """Rays a step."""
    learning_rate: float = 0.1
    """Of density voxels; networks and their grids use a tenth of it and less."""
    huber_delta: float = 0.1
    """Colour differences above this count linearly."""
    silhouette_weight: float = 0.3
    """Weight of the masks, where there are any, against the colours."""
    opacity_weight: float = 1e-3
    """Not for a surface: weight of sqrt(opacity^2 + 0.01) (SparseFusion's), which keeps rays empty that
    nothing asks for."""
    smooth_weight: float = 1e-2
    """Density voxels: weight of squared differences between neighbours."""
    background: float = 1.0
    """Grey level behind the object."""
    max_image_size: int = 512
    """Larger images are made smaller before the fit."""
    seed: int = 0
    """Of the rays drawn."""

    def check(self) -> None:
        """Raise `InputError` for values that no fit can work with."""
        for name in ("steps", "rays", "max_image_size"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "expected at least 1")
        if self.resolution < 8:
            raise InputError("resolution", self.resolution, "expected at least 8")
        kinds = ("auto", "surface", "voxels", "hash", "tiled", "dense", "triplane")
        if self.encoding not in kinds:
            raise InputError("encoding", self.encoding, f"expected one of {', '.join(kinds)}")
        for name in ("learning_rate", "huber_delta"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "expected a positive number")
