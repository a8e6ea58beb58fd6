"""Who answers under `pair`: TUNet with and without its parts, the one-to-one model, moved pixels, a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from manyview.bench.orbit16_measure import bring_to
from manyview.bench.orbit16_options import Orbit16Options
from manyview.bench.orbit16_rows import copy_input
from manyview.bench.orbit16_rows import one2one_row as orbit_one2one_row
from manyview.bench.pair_options import (
    COPY,
    HEADLINE,
    MEAN_ONLY,
    OPPONENT,
    ORACLE,
    WARP,
    PairOptions,
)
from manyview.bench.pair_source import FUSIONS, PairSource
from manyview.bench.pair_warp import WarpAnswerer
from manyview.bench.rows import NamedRow, weights_of
from manyview.bench.scoring import Metric
from manyview.data.latents import weights_identity
from manyview.errors import InputError
from manyview.methods.hi3d.depth import load_depth
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.methods.tunet.select import lowest, pick
from manyview.types import Cameras, Views
from manyview.weights import open_bundle


class PairAnswerer(Protocol):
    """Anything that tells views at cameras from one posed view."""

    def __call__(self, given: Views, targets: Cameras, seed: int, /) -> Tensor:
        """[T, 3, R, R] in [0, 1] over white, of any R, for T cameras. The world's origin is the point that
        the scene is about."""
        ...


class PairOracle(Protocol):
    """What is shown the truth beside the question."""

    def __call__(self, given: Views, targets: Cameras, seed: int, truth: Tensor, /) -> Tensor:
        """[T, 3, R, R] from the true views [T, 3, S, S]."""
        ...


@dataclass(frozen=True, kw_only=True)
class PairRow(NamedRow):
    """One row of the table, with one way to answer; none where its answers are read from results."""

    answer: PairAnswerer | None = None
    oracle: PairOracle | None = None
    upright: bool = False
    """Whether it needs a world whose up axis is z, which captures have not got."""
    source: PairSource | None = None
    """What it shares with other rows."""


def tunet_rows(source: PairSource, names: Sequence[str], distance: Metric | None) -> list[PairRow]:
    """Rows of one pipeline, and of its variants, those named. `distance`: by which the oracle chooses;
    without one there is none."""
    pipeline = source.pipeline
    parts = (pipeline.vae, pipeline.base, pipeline.tunet)
    known = weights_of(pipeline.bundle, parts)
    shared: dict[str, Any] = {"weights": known, "source": source}
    answers: dict[str, PairAnswerer] = {HEADLINE: source.selected, MEAN_ONLY: source.mean}
    answers |= {name: partial(source.fused, candidate) for name, candidate in FUSIONS.items()}
    rows = []
    for name in (HEADLINE, MEAN_ONLY, *FUSIONS):
        if name in names:
            told = source.options if name == HEADLINE else {**source.options, "row": name}
            rows.append(PairRow(name=name, answer=answers[name], options=told, **shared))
    if ORACLE in names and distance is not None:
        rows.append(
            PairRow(
                name=ORACLE,
                oracle=partial(_nearest, source, distance),
                options={**source.options, "row": ORACLE},
                **shared,
            )
        )
    for name, other in source.variants.items():
        if name in names:
            told = {**known, "sha256": weights_identity(other.tunet)}
            rows.append(
                PairRow(
                    name=name,
                    answer=partial(source.variant, name),
                    weights=told,
                    options=source.options,
                    source=source,
                )
            )
    return rows


def one2one_row(pipeline: One2OnePipeline, options: PairOptions) -> PairRow:
    """The one-to-one model's row, as in orbit16."""
    asked = Orbit16Options(one2one_steps=options.one2one_steps, one2one_guidance=options.one2one_guidance)
    row = orbit_one2one_row(pipeline, asked)
    return PairRow(name=OPPONENT, answer=row.answer, weights=row.weights, options=row.options, upright=True)


def warp_row(weights: str | Path | None, device: torch.device | str) -> PairRow:
    """The row that moves pixels by estimated depth; by the depth network of Hi3D's compact weights when None.

    Raises `InputError` where there is none, and for another kind of network.
    """
    place = weights or open_bundle("compact", "hi3d", "--depth-net").folders("depth")["depth"]
    network = load_depth(place, argument="--depth-net")
    if not isinstance(network, DepthNet):
        line = "tells no distances in the frame of our objects; expected an export of hi3d --stage depth"
        raise InputError("--depth-net", str(place), line)
    moved = cast(Any, network).to(device)
    told: dict[str, str | None] = {"name": Path(place).name, "sha256": weights_identity(network)}
    return PairRow(name=WARP, answer=WarpAnswerer(network=moved), weights=told)


def copy_row() -> PairRow:
    """The given view everywhere."""
    return PairRow(name=COPY, answer=copy_input)


def _nearest(
    source: PairSource, distance: Metric, given: Views, targets: Cameras, seed: int, truth: Tensor
) -> Tensor:
    """Of all candidates the one nearest to the truth."""
    drawn, _ = source.drawn(given, targets, seed)
    size = truth.shape[-1]
    apart = torch.stack([distance(bring_to(images, size), truth) for images in drawn.candidates])
    return pick(drawn.candidates, lowest(apart))
