"""Clips of our own first stage for the refiner to learn from: what it really meets when orbits are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.data.latents import weights_identity
from manyview.data.packed import PackedViews
from manyview.data.rigs import read_rigs
from manyview.errors import InputError
from manyview.methods.hi3d.guidance import GuidanceShape
from manyview.methods.hi3d.orbits import orbit_elevations
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.refine_data import write_own_clips
from manyview.progress import Progress, silent


def draw_own_clips(
    folder: Path,
    source: PackedViews,
    pipeline: Hi3dPipeline,
    *,
    num_steps: int | None = None,
    guidance: tuple[float, float] | None = None,
    guidance_shape: GuidanceShape | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """An orbit of every object of a data set, from one of its views, at the size of the first stage: see
    `refine_data.write_own_clips`. A stopped run goes on. Raises `InputError` for data sets that are no orbits
    of so many views as the weights draw.
    """
    if source.num_views != pipeline.num_frames:
        line = f"expected orbits of {pipeline.num_frames} views, as the weights draw"
        raise InputError("--data", f"{source.folder}: {source.num_views} views", line)
    elevations = orbit_elevations(read_rigs(source), len(source))
    low, high = pipeline.choose_guidance(guidance)
    asked: dict[str, Any] = {
        "num_steps": num_steps or int(pipeline.config["default_steps"]),
        "guidance": (low, high),
        "guidance_shape": guidance_shape or str(pipeline.config["default_shape"]),
    }

    def predict(inputs: Tensor, objects: Tensor) -> Tensor:
        made = pipeline.predict(inputs, elevations[objects], items=objects.tolist(), seed=seed, **asked)
        # What follows in the pipeline has the given picture there.
        made[:, 0] = inputs
        return made

    note = {**asked, "guidance": [low, high], "weights": weights_identity(pipeline.unet)}
    with torch.inference_mode():
        write_own_clips(folder, source, pipeline.resolution, predict, seed=seed, note=note, progress=progress)
