"""How a signed distance field is fitted. Loads no torch, so that a command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SdfOptions:
    """How a signed distance field is fitted."""

    resolution: int = 160
    """Nodes along the longest side in the end."""
    start: Literal["hull", "sphere"] = "hull"
    """First surface: the masks' visual hull, or a sphere (taken where there are no masks)."""
    steps: int = 1500
    """Steps of the optimiser."""
    rays: int = 4096
    """Rays a step."""
    learning_rate: float = 0.03
    """Of distances, in voxels a step."""
    color_rate: float = 0.05
    """Learning rate of the colours."""
    huber_delta: float = 0.1
    """Colour differences above this count linearly."""
    mask_weight: float = 0.3
    """Weight of the masks (binary cross-entropy) against the colours."""
    eikonal_weight: float = 0.3
    """Weight of (|slope| - 1)^2."""
    bend_weight: float = 0.02
    """Weight of the squared Laplacian of the distances in voxels: how much bumps cost."""
    flatten_unseen: bool = True
    """Pull the surface flat where no view sees it: masks alone leave a cone under an object."""
    anneal_steps: int = 200
    """Steps over which NeuS' cosine annealing goes from 0 to 1."""
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
        if self.resolution < 16:
            raise InputError("resolution", self.resolution, "expected at least 16")
        for name in ("learning_rate", "color_rate", "huber_delta"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "expected a positive number")
        if self.start not in ("hull", "sphere"):
            raise InputError("start", self.start, "expected hull or sphere")
