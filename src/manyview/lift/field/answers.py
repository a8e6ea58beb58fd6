"""What rendering a field gives, and what every kind of field can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class RayAnswer:
    """N rays."""

    colors: Tensor
    """[N, 3] over the background; may leave [0, 1] a little while a field is fitted."""
    alphas: Tensor
    """[N] opacity in [0, 1]."""
    depths: Tensor
    """[N] mean distance along the ray (unit direction) in world units, 0 where nothing is met."""
    normals: Tensor | None = None
    """[N, 3] world, summed with the weights of the samples; None where the field has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldRender:
    """V views."""

    images: Tensor
    """[V, 3, H, W] in [0, 1], over the background."""
    alphas: Tensor
    """[V, 1, H, W]"""
    depths: Tensor
    """[V, 1, H, W] along the camera's z axis in world units, 0 where opacity is below one half."""


@runtime_checkable
class Renderable(Protocol):
    """What rays can look at: every field, and a signed distance field."""

    def render_rays(
        self, origins: Tensor, directions: Tensor, *, background: float = 1.0, jitter: Tensor | None = None
    ) -> RayAnswer:
        """What N rays see. `origins` [N, 3] and unit `directions` [N, 3] in the world; `jitter` [N] in [0, 1)
        moves the samples within their steps (0.5 when not given)."""
        ...


@runtime_checkable
class Field(Renderable, Protocol):
    """Density and colour in space."""

    def densities(self, points: Tensor) -> Tensor:
        """[N] density per world unit at `points` [N, 3] in the world."""
        ...

    def colors(self, points: Tensor, *, directions: Tensor) -> Tensor:
        """[N, 3] colour at `points` [N, 3] seen along unit `directions` [N, 3]."""
        ...
