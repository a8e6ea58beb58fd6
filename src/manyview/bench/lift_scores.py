"""How good a reconstruction is: held-out views, fitted views, and the true mesh where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from manyview.metrics.geometry import geometry_scores
from manyview.metrics.image import psnr, ssim_skimage
from manyview.types import Views

if TYPE_CHECKING:
    import trimesh

_SMALLEST = 7
"""Pixels a side that SSIM's window needs."""
_HIGHEST_PSNR = 100.0


def score_views(drawn: Views, real: Views) -> dict[str, Any]:
    """Mean PSNR and SSIM of drawn against real views, both over white, and the PSNR of each by name.

    An exact view counts as 100 dB, so that means stay finite.
    """
    levels, likenesses = [], []
    for index in range(len(real)):  # one by one: SSIM holds dozens of maps of its images
        shown, wanted = drawn[index].over(1.0).cpu().clamp(0, 1), real[index].over(1.0).cpu()
        levels.append(float(psnr(shown, wanted).clamp_max(_HIGHEST_PSNR)))
        if min(real.size) >= _SMALLEST:
            likenesses.append(float(ssim_skimage(shown, wanted)))
    scores: dict[str, Any] = {"psnr": {"mean": sum(levels) / len(levels)}}
    if likenesses:
        scores["ssim_skimage"] = {"mean": sum(likenesses) / len(likenesses)}
    names = real.names or tuple(f"{index:03d}" for index in range(len(real)))
    by_name = {name: round(level, 3) for name, level in zip(names, levels, strict=True)}
    return {"metrics": scores, "views": len(real), "psnr_by_view": by_name}


def score_mesh(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, *, seed: int = 0, names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Scores of `metrics.geometry`, all or those of `names`, both meshes moved and scaled together so that
    the target is centred and its longest side is 1."""
    low, high = target.bounds
    scale = 1 / max(float((high - low).max()), 1e-300)
    pair = [mesh.copy(), target.copy()]
    for part in pair:
        part.apply_translation(-(low + high) / 2)
        part.apply_scale(scale)
    scores = geometry_scores(*pair, seed=seed, names=names)
    return {name: {"mean": value} for name, value in scores.items()}
