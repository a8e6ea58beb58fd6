"""Who answers under `orbit16`: Hi3D with and without its second stage, the one-to-one model, and what needs
no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from manyview.bench.orbit16 import SCORED
from manyview.bench.orbit16_options import (
    BASELINES,
    COARSE,
    HEADLINE,
    NO_DEPTH,
    OPPONENT,
    UPSCALED,
    Orbit16Options,
)
from manyview.bench.orbit16_source import OrbitSource
from manyview.bench.rows import NamedRow, weights_of
from manyview.data.latents import weights_identity
from manyview.io.framing import resize_area
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.one2one.model import relative_camera
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.types import Cameras, Views

if TYPE_CHECKING:
    import trimesh


class OrbitAnswerer(Protocol):
    """Anything that tells the rest of an orbit from one view."""

    def __call__(self, given: Views, targets: Cameras, seed: int, /) -> Tensor:
        """[15, 3, R, R] in [0, 1] over white, of any R, for the cameras of the 15 other views; of a row with
        N samples [N, 15, 3, R, R]."""
        ...


class MeshMaker(Protocol):
    """Anything that makes a mesh of one view."""

    def __call__(self, given: Views, targets: Cameras, seed: int, /) -> trimesh.Trimesh:
        """In the world of the cameras. Raises `InputError` where no surface is found."""
        ...


@dataclass(frozen=True, kw_only=True)
class OrbitRow(NamedRow):
    """One row of the table, with one way to answer; none where its answers are read from results.

    Views of another size than the comparison's are averaged by area, or enlarged bicubically. A row that may
    fail has white views, or no mesh, where it does."""

    answer: OrbitAnswerer | None = None
    oracle: Callable[[Tensor], Tensor] | None = None
    """[15, 3, S, S] from the 16 true views: what no method can know."""
    mesh: MeshMaker | None = None
    num_samples: int = 1
    source: OrbitSource | None = None
    """What it shares with other rows."""

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        return {**super().identity(), "samples": self.num_samples}


@dataclass(frozen=True, kw_only=True)
class RefinedAnswerer:
    """Hi3D's full answer, or that of a refinement that is shown no depth."""

    source: OrbitSource
    num_samples: int
    depth: bool = True

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[N, 15, 3, R, R]"""
        samples = range(self.num_samples)
        return torch.stack([self.source.refined(given, seed, k, self.depth)[1:] for k in samples])


@dataclass(frozen=True, kw_only=True)
class CoarseAnswerer:
    """Hi3D's first stage alone."""

    source: OrbitSource
    num_samples: int

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[N, 15, 3, r, r]"""
        return self.source.coarse(given, seed)[: self.num_samples, 1:]


@dataclass(frozen=True, kw_only=True)
class UpscaledAnswerer:
    """Hi3D's first stage, enlarged by a network that knows of single pictures only."""

    source: OrbitSource

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[15, 3, 2r, 2r]"""
        return self.source.upscaled(given, seed)[1:]


@dataclass(frozen=True, kw_only=True)
class One2OneAnswerer:
    """The one-to-one model, asked for each view on its own."""

    pipeline: One2OnePipeline
    num_steps: int
    guidance: float

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[15, 3, r, r]"""
        assert given.cameras is not None, "the protocol gives posed views"
        size, count = self.pipeline.resolution, len(targets)
        image, _ = resize_area(given.over(1.0), size, size)
        return self.pipeline.predict(
            image.expand(count, -1, -1, -1),
            relative_camera(given.cameras[[0] * count], targets),
            items=range(count),
            seed=seed,
            num_steps=self.num_steps,
            guidance=self.guidance,
        )


def copy_input(given: Views, targets: Cameras, seed: int) -> Tensor:
    """[15, 3, R, R]: the input everywhere."""
    return given.over(1.0).expand(len(targets), -1, -1, -1)


def mean_of_truth(truth: Tensor) -> Tensor:
    """[15, 3, S, S]: everywhere the mean of the 16 true views."""
    return truth.mean(dim=0).expand(len(SCORED), -1, -1, -1)


def hi3d_rows(
    pipeline: Hi3dPipeline, source: OrbitSource, options: Orbit16Options, names: Sequence[str]
) -> list[OrbitRow]:
    """Rows of the pipeline, of `hi3d`, `coarse_bicubic`, `coarse_swin2sr` and `no_depth`, in this order,
    those that there are networks for."""
    known = pipeline_weights(pipeline)
    rows = []
    for name in (HEADLINE, COARSE, UPSCALED, NO_DEPTH):
        if name not in names or source.lacks(name):
            continue
        count = options.samples_of(name)
        if name == COARSE:
            answer: OrbitAnswerer = CoarseAnswerer(source=source, num_samples=count)
        elif name == UPSCALED:
            answer = UpscaledAnswerer(source=source)
        else:
            answer = RefinedAnswerer(source=source, num_samples=count, depth=name == HEADLINE)
        refining: dict[str, Any] = {}
        if name == UPSCALED and source.upscaler is not None:
            refining = {"upscaler": weights_identity(source.upscaler)}
        elif source.refiner and name != COARSE:
            refining = {"refine": source.refiner.options}
        asked = {**source.options, **refining}
        more: dict[str, Any] = {"num_samples": count, "source": source}
        rows.append(OrbitRow(name=name, answer=answer, weights=known, options=asked, **more))
    return rows


def one2one_row(pipeline: One2OnePipeline, options: Orbit16Options) -> OrbitRow:
    """The one-to-one model's row, at the guidance recorded for one reference (1 where nothing was)."""
    settings = pipeline.bundle.settings if pipeline.bundle else {}
    recorded = float((list(settings.get("guidance_by_references", ())) or [1.0])[0])
    chosen = recorded if options.one2one_guidance is None else options.one2one_guidance
    asked: dict[str, Any] = {"num_steps": options.one2one_steps, "guidance": chosen}
    parts = (pipeline.vae, pipeline.image_encoder, pipeline.unet, pipeline.conditioner)
    return OrbitRow(
        name=OPPONENT,
        answer=One2OneAnswerer(pipeline=pipeline, **asked),
        weights=weights_of(pipeline.bundle, parts),
        options=asked,
    )


def baseline_rows(names: Sequence[str] = BASELINES) -> list[OrbitRow]:
    """The rows that need no network."""
    rows = {
        "copy_input": OrbitRow(name="copy_input", answer=copy_input),
        "mean_of_truth": OrbitRow(name="mean_of_truth", oracle=mean_of_truth),
    }
    return [row for name, row in rows.items() if name in names]


def pipeline_weights(pipeline: Hi3dPipeline) -> dict[str, str | None]:
    """Name and hash of the weights."""
    parts = (pipeline.vae, pipeline.image_encoder, pipeline.unet, pipeline.refiner, pipeline.depth)
    return weights_of(pipeline.bundle, parts)
