"""From a surface to a textured mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How finely a surface is cut into triangles and painted."""

    resolution: int = 256
    """Cells of marching cubes along the longest side."""
    num_faces: int = 30_000
    """Triangles at most, about."""
    texture_size: int = 1024
    """Rows and columns of the texture."""
    unseen: Literal["nearest", "field"] = "nearest"
    """Colour where no view sees the surface: that of the nearest place that is seen, or what the fitted
    surface holds there, which nothing but smoothness decides."""

    def __post_init__(self) -> None:
        limits = {"resolution": (8, 2048), "num_faces": (4, 100_000_000), "texture_size": (16, 16384)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"--mesh.{name.replace('_', '-')}", value, f"expected {low} to {high}")
