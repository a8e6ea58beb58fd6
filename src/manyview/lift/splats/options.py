"""How Gaussians are fitted. Loads no torch, so that a command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError

Backend = Literal["auto", "torch", "cpu", "gsplat"]


@dataclass(frozen=True, kw_only=True)
class SplatOptions:
    """How Gaussians are fitted. Lengths are in a frame in which the cameras are 1.5 from the scene's middle.

    The schedule is a tenth of the 30 thousand steps of 3D Gaussian splatting, which suits tens of views of
    one object. Rates are that paper's, but for the positions, which have less time to travel.
    """

    num_steps: int = 3000
    """Steps; each renders one view."""
    num_points: int = 10_000
    """Gaussians at the start."""
    most_splats: int = 60_000
    """Gaussians at most."""
    sh_degree: int = 1
    """Degree of the colour's dependence on direction, 0 to 3; it grows to this over the first half."""
    background: float = 1.0
    """Grey level behind the views where a mask is known."""
    dssim_weight: float = 0.2
    """Share of structural dissimilarity in the colour loss; the rest is L1."""
    mask_weight: float = 0.2
    """Weight of |alpha - mask|, where masks are known."""
    rate_means: float = 1e-3
    """Learning rate of the positions, times the extent of the scene (1.65)."""
    rate_means_end: float = 1e-5
    """The same at the end; exponential in between."""
    rate_scales: float = 5e-3
    """Learning rate of the logarithms of the scales."""
    rate_quaternions: float = 1e-3
    """Learning rate of the quaternions."""
    rate_opacities: float = 5e-2
    """Learning rate of the opacity logits."""
    rate_colors: float = 2.5e-3
    """Learning rate of the constant colour; a twentieth of it for the higher degrees."""
    densify_from: float = 0.05
    """Fraction of the steps before Gaussians are first added."""
    densify_until: float = 0.6
    """Fraction of the steps after which none is added."""
    densify_every: int = 100
    """Steps between additions and removals."""
    densify_gradient: float = 2e-4
    """Mean gradient of the screen position, per half image width, from which Gaussians are added."""
    split_scale: float = 0.01
    """Gaussians larger than this times the extent are split, smaller ones cloned."""
    prune_opacity: float = 0.005
    """Fainter Gaussians are removed."""
    prune_scale: float = 0.1
    """Gaussians larger than this times the extent are removed."""
    fade_every: int = 0
    """Steps between resets of all opacities to 0.01 while Gaussians are added; 0 = never (short fits lose by
    it)."""
    max_side: int = 1024
    """Views with a longer side are averaged down to this many pixels before the fit."""
    seed: int = 0
    """Same seed, same result, on the same kind of device."""
    backend: Backend = "auto"
    """Renderer, see `render_splats`."""

    def __post_init__(self) -> None:
        for name, least in (("num_steps", 1), ("num_points", 1), ("densify_every", 1), ("max_side", 16)):
            if getattr(self, name) < least:
                raise InputError(name, getattr(self, name), f"expected at least {least}")
        if not 0 <= self.sh_degree <= 3:
            raise InputError("sh_degree", self.sh_degree, "expected 0 to 3")
        for name in ("dssim_weight", "densify_from", "densify_until", "background"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, getattr(self, name), "expected 0 to 1")
        if self.most_splats < self.num_points:
            raise InputError(
                "most_splats", self.most_splats, f"expected at least num_points, {self.num_points}"
            )
