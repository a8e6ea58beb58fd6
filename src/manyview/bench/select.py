"""Guidance chosen where it may be: on validation objects, never on those of the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from manyview.bench.orbit4 import NUM_VIEWS
from manyview.bench.run import evaluate
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.progress import Progress
from manyview.sampling.solvers import Solver


def choose_guidance(
    pipeline: DimvisPipeline | One2OnePipeline,
    dataset: str | os.PathLike[str],
    candidates: Sequence[float] = (1.0, 3.0),
    *,
    scenes: Sequence[str] | None = None,
    num_steps: int = 50,
    solver: Solver = "ddim",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[list[float], dict[str, Any]]:
    """The guidance of the highest mean PSNR for 1, 2 and 3 references on a data set of validation objects
    (renders in the setting of orbit4), and the numbers it rests on.

    Of equal ones the first candidate. The list is what `settings.guidance_by_references` of a bundle holds.
    """
    report = evaluate(
        pipeline,
        dataset,
        num_steps=num_steps,
        solver=solver,
        candidates=candidates,
        scenes=scenes,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        device=device,
        baselines=False,
        perceptual=False,
        progress=progress,
    )
    chosen = []
    for count in range(1, NUM_VIEWS):
        part = report["by_references"][str(count)]
        chosen.append(max(candidates, key=lambda g, part=part: part[f"guidance_{g:g}"]["psnr"]["mean"]))
    return [float(value) for value in chosen], report
