"""The rows of a table: which predictor, at which guidance strengths, how many samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from manyview.bench.orbit4 import NUM_VIEWS
from manyview.bench.partial import hash_tensor
from manyview.bench.predictors import (
    BASELINES,
    DimvisPredictor,
    GuidedPredictor,
    One2OnePredictor,
    Predictor,
)
from manyview.errors import InputError
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.sampling.solvers import Solver

Pipeline = DimvisPipeline | One2OnePipeline


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One predictor's part of a table."""

    name: str
    predictor: Predictor | GuidedPredictor
    candidates: tuple[float, ...] = ()
    """Guidance strengths at which every question is answered; empty for predictors without guidance."""
    chosen: tuple[float, ...] = ()
    """The strength that counts for 1, 2, 3 references, each one of `candidates`."""
    num_samples: int = 1
    weights: dict[str, str | None] = field(default_factory=dict)
    """name and sha256; empty for predictors without weights."""

    def row(self, guidance: float | None = None) -> str:
        """The name of a row of numbers."""
        return self.name if guidance is None else f"{self.name}/guidance_{guidance:g}"

    def headline(self, num_references: int) -> str:
        """The row that counts for this many references."""
        return self.row(self.chosen[num_references - 1] if self.chosen else None)

    @property
    def mean_row(self) -> str:
        """The row of the mean of all samples."""
        return f"{self.name}/mean_of_{self.num_samples}"

    @property
    def spread_row(self) -> str:
        """The row of the deviation over samples."""
        return f"{self.name}/spread"

    @property
    def num_answers(self) -> int:
        """Answers drawn for every question."""
        return max(len(self.candidates), 1) + self.num_samples - 1

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        return {
            "name": self.name,
            "candidates": self.candidates,
            "chosen": self.chosen,
            "samples": self.num_samples,
            "weights": self.weights,
        }


def pipeline_entry(
    pipeline: Pipeline,
    *,
    num_steps: int,
    solver: Solver,
    seed: int,
    batch_size: int,
    guidance: float | None,
    candidates: Sequence[float],
    num_samples: int,
) -> Entry:
    """The row of a method. Without `guidance` the strengths that count are those recorded with the weights
    (found on validation objects), else 1, and all `candidates` are scored beside them."""
    shared: dict[str, Any] = {
        "num_steps": num_steps,
        "solver": solver,
        "seed": seed,
        "batch_size": batch_size,
    }
    if isinstance(pipeline, DimvisPipeline):
        if pipeline.num_views != NUM_VIEWS:
            line = f"rigs of {pipeline.num_views} views, orbit4 needs {NUM_VIEWS}"
            raise InputError("--weights", _weights_of(pipeline)["name"] or "", line)
        name, predictor = "dimvis", DimvisPredictor(pipeline=pipeline, **shared)
        recorded = [pipeline.default_guidance(count) for count in range(1, NUM_VIEWS)]
    else:
        name, predictor = "one2one", One2OnePredictor(pipeline=pipeline, **shared)
        settings = pipeline.bundle.settings if pipeline.bundle else {}
        # One number or one for each number of references; 1 where nothing was recorded.
        listed = list(settings.get("guidance_by_references", ())) or [1.0]
        recorded = [float(listed[min(count, len(listed)) - 1]) for count in range(1, NUM_VIEWS)]
    chosen = tuple(recorded) if guidance is None else (float(guidance),) * (NUM_VIEWS - 1)
    scored = {float(value) for value in candidates} if guidance is None else set()
    return Entry(
        name=name,
        predictor=cast(GuidedPredictor, predictor),
        candidates=tuple(sorted(scored | set(chosen))),
        chosen=chosen,
        num_samples=num_samples,
        weights=_weights_of(pipeline),
    )


def baseline_entries() -> list[Entry]:
    """The answers that need no network."""
    return [Entry(name=name, predictor=predictor) for name, predictor in BASELINES.items()]


def _weights_of(pipeline: Pipeline) -> dict[str, str | None]:
    """Name and hash of the weights; a pipeline that was not loaded from a bundle is hashed in memory."""
    if pipeline.bundle is not None:
        return {"name": pipeline.bundle.name, "sha256": pipeline.bundle.sha256}
    digest = hashlib.sha256()
    for part in (pipeline.vae, pipeline.image_encoder, pipeline.unet, pipeline.conditioner):
        for key, value in sorted(part.state_dict().items()):
            digest.update(f"{key} {hash_tensor(value.float())}".encode())
    digest.update(repr(sorted(pipeline.scheduler.config.items(), key=lambda item: item[0])).encode())
    return {"name": "in memory", "sha256": digest.hexdigest()}
