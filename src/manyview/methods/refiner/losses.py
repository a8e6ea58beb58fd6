"""What refined codes are pulled to, and what keeps them turning.

The paper's three losses (Eq. 4, 6 and 7) are all nothing where the refiner gives the source's own code back
and the pose network finds no turn between equal pictures: not turning at all is their optimum. So a fourth
guards the pose: the turn from the source to the refined picture has to be the one from the source to the
edited picture, which no refining has changed. All are means over numbers, so that no weight depends on a
size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.methods.refiner.reprojection import back_project, project_points, warp

LossName = Literal["warp", "latent", "feature", "guard"]


@dataclass(frozen=True, kw_only=True)
class RefinerLosses:
    """Weights; 0 leaves a loss out. The paper's are 1, 1 and 1, and it has no guard."""

    warp: float = 1.0
    latent: float = 1.0
    feature: float = 1.0
    guard: float = 60.0
    warp_features: bool = False
    """Look features up where the depth says, as colours are; the paper compares them cell by cell."""
    masked: bool = True
    """Warp loss on the object alone; without it over the whole picture."""
    occlusion: float | None = 0.05
    """Leave out what the refined view's own depth hides, by so much of the depth; None leaves nothing out."""
    feature_size: int | None = None
    """Cells a side of the generator's features; a quarter of the picture's pixels, at most 32, when None."""

    def without(self, name: LossName) -> RefinerLosses:
        """The same with one loss left out (the paper's table 5)."""
        return replace(self, **{name: 0.0})

    def cells(self, resolution: int) -> int:
        """Cells a side of the features that are compared, for pictures of so many pixels."""
        return self.feature_size or min(32, max(4, resolution // 4))


SMALL = RefinerLosses(warp=10.0, latent=2.0, feature=0.3, warp_features=True)
"""What the bundled weights learnt by, chosen on codes apart from the table's: with 1 each the feature loss
outweighs all else, and pictures lose their colours (docs/refiner.md)."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What depth and pose networks say of a batch, in which nothing is trained."""

    depth: Tensor
    """[B, 1, H, W] of the source."""
    K: Tensor
    """[1 or B, 3, 3] pixels."""
    pose: Tensor
    """[B, 4, 4] the edited view's camera from the source's."""
    mask: Tensor
    """[B, 1, H, W] 1 on the source's object, without its rim."""


def warp_loss(
    source: Tensor,
    refined: Tensor,
    geometry: Geometry,
    *,
    refined_depth: Tensor | None,
    losses: RefinerLosses,
) -> Tensor:
    """Eq. 4: mean squared difference of the source and the refined picture, looked up where the source's
    depth and the pose say; over pixels of the object that fall into the picture and, where `refined_depth`
    [B, 1, H, W] is given, are not hidden there.

    Pictures [B, 3, H, W]. Differentiable in `refined` alone.
    """
    looked_up, valid = warp(refined, geometry.depth, geometry.K, geometry.pose)
    seen = valid.to(source.dtype)
    if losses.masked:
        seen = seen * geometry.mask
    if refined_depth is not None and losses.occlusion is not None:
        seen = seen * visible(geometry, refined_depth, losses.occlusion)
    error = (looked_up - source).square() * seen
    return error.sum() / (3 * seen.sum()).clamp_min(1)


@torch.no_grad()
def visible(geometry: Geometry, other_depth: Tensor, tolerance: float) -> Tensor:
    """[B, 1, H, W] 1 where the source's surface, moved into the other camera, is not behind what the other
    view sees there by more than `tolerance` of its depth."""
    there, _ = warp(other_depth, geometry.depth, geometry.K, geometry.pose)
    _, behind = project_points(back_project(geometry.depth, geometry.K), geometry.K, geometry.pose)
    return (behind[:, None] <= there * (1 + tolerance)).to(there.dtype)


def latent_loss(refined: Tensor, source: Tensor, spread: Tensor) -> Tensor:
    """Eq. 6: mean squared difference of codes [B, L, D], in deviations of the codes ([D])."""
    return ((refined - source) / spread.clamp_min(1e-3)).square().mean()


def feature_loss(refined: Tensor, source: Tensor, geometry: Geometry | None = None) -> Tensor:
    """Eq. 7: mean squared difference of features [B, C, h, w] over the source features' variance; with
    `geometry` after looking the refined ones up in it."""
    variance = source.detach().var().clamp_min(1e-6)
    if geometry is None:
        return (refined - source).square().mean() / variance
    height, width = geometry.depth.shape[-2:]
    rows, columns = source.shape[-2:]
    scale = geometry.K.new_tensor([columns / width, rows / height, 1.0])[:, None]
    depth = F.interpolate(geometry.depth, (rows, columns), mode="area")
    mask = F.interpolate(geometry.mask, (rows, columns), mode="area")
    looked_up, valid = warp(refined, depth, geometry.K * scale, geometry.pose)
    seen = valid.to(source.dtype) * mask
    error = (looked_up - source).square() * seen
    return error.sum() / (source.shape[1] * seen.sum()).clamp_min(1) / variance


def guard_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared length of the difference of turns and shifts [B, 6]: radians, and units of depth."""
    return (found - wanted).square().sum(dim=1).mean()
