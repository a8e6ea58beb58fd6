"""Score a method, or results made elsewhere, under a paper's protocol."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manyview.bench.entries import Entry, Pipeline, baseline_entries, pipeline_entry
from manyview.bench.measure import Job
from manyview.bench.orbit4 import (
    check_orbit,
)
from manyview.bench.partial import Partial
from manyview.bench.predictors import Predictor
from manyview.bench.results import find_results
from manyview.bench.scenes import check_limit, check_report, choose_scenes
from manyview.bench.scoring import choose_metrics
from manyview.bench.summary import summarise
from manyview.bench.targets import load_opponent, open_results, shared_facts
from manyview.errors import InputError
from manyview.io.manifest import peak_memory, versions, write_json
from manyview.methods import METHODS, load, protocol_of
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.report import Skipped
from manyview.progress import Progress, silent
from manyview.sampling.solvers import SOLVERS, Solver

PROTOCOLS = ("orbit4",)
RESULTS_SIZE = 128
_FORMAT = 1


def evaluate(
    target: str | os.PathLike[str] | Pipeline | Predictor,
    data: str | os.PathLike[str],
    protocol: str = "orbit4",
    out: str | os.PathLike[str] | None = None,
    *,
    weights: str = "compact",
    num_steps: int = 50,
    guidance: float | None = None,
    candidates: Sequence[float] = (1.0, 3.0),
    num_samples: int = 1,
    solver: Solver = "ddim",
    limit: int | None = None,
    scenes: Sequence[str] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int = 8,
    size: int | None = None,
    baselines: bool = True,
    one2one: str | One2OnePipeline | None = "compact",
    perceptual: bool = True,
    resume: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The numbers of metrics.json (see docs/dimvis.md), written to `out` if given.

    target: a method's name, a pipeline, any `Predictor`, or a folder of results (see bench/results.py); a
    string that is no method's name is taken for a folder. data: the data set; `scenes` names some of it,
    `limit` takes the first ones.
    Every question is answered at each guidance of `candidates`; which of them counts for how many
    references is what the weights record from validation objects, or `guidance` for all (then the only one
    drawn). num_samples: draws a question at the guidance that counts; the first is scored as every other
    row is, the mean of all and their deviation are reported beside it. baselines: copy of the nearest
    reference, mean of the references, white, and the one-to-one model (`one2one`: its weights or pipeline)
    on the same questions. `size`: pixels a side of the comparison where no weights say it (128).

    Finished scenes are kept in `<out>.partial.jsonl`; a stopped run continues there (`resume`) and comes to
    the same numbers. Raises `InputError` before anything loads for data that are not in the protocol's
    setting, options out of range, and an `out` that exists without `force`.
    """
    started = time.perf_counter()
    progress = progress or silent
    out = None if out is None else Path(out)
    _check_options(target, protocol, num_steps, guidance, num_samples, solver, limit, out, force)
    folders = choose_scenes(Path(data), scenes, limit)
    orbits = {folder.name: check_orbit(folder) for folder in folders}
    drawing = {
        "num_steps": num_steps,
        "solver": solver,
        "seed": seed,
        "batch_size": batch_size,
        "candidates": candidates,
    }
    results: Path | None = None
    if isinstance(target, str | os.PathLike) and target not in METHODS:
        results = _check_results(Path(target), list(orbits))
        entries = [Entry(name="results", predictor=_no_answer, weights={"name": results.name})]
    elif isinstance(target, str | DimvisPipeline | One2OnePipeline):
        pipeline = load(target, weights, device, dtype) if isinstance(target, str) else target
        size = pipeline.resolution
        given: dict[str, Any] = {"guidance": guidance, "num_samples": num_samples}
        entries = [pipeline_entry(pipeline, **drawing, **given)]
    else:
        name = getattr(target, "__name__", type(target).__name__)
        entries = [Entry(name=name, predictor=cast(Predictor, target), num_samples=num_samples)]
    size = size or RESULTS_SIZE
    skipped: dict[str, Skipped] = {}
    if baselines:
        entries += [entry for entry in baseline_entries() if entry.name != entries[0].name]
        if entries[0].name != "one2one" and one2one is not None:
            opponent = _opponent_of_size(one2one, size, device, dtype)
            if isinstance(opponent, Skipped):
                skipped["one2one"] = opponent
            else:
                entries.append(pipeline_entry(opponent, **drawing, guidance=None, num_samples=1))
    metrics = choose_metrics(perceptual, size, device)
    options = {
        "format": _FORMAT,
        **shared_facts(protocol, size, seed, dtype, device, metrics),
        "steps": num_steps,
        "solver": solver,
        "entries": [entry.identity() for entry in entries],
    }
    # A predictor handed over as a function has no hash, so its numbers are not kept from run to run.
    partial = Partial(out if entries[0].weights.get("sha256") else None, options, resume)
    job = Job(entries, metrics, results, size, batch_size)
    records = job.measure(folders, orbits, partial, progress)
    summaries = {entry.name: summarise(entry, records, metrics) for entry in entries}
    headline = summaries.pop(entries[0].name)
    report = {
        "method": entries[0].name,
        "protocol": protocol,
        "data": Path(data).resolve().name,
        **headline,
        "resolution": size,
        "scenes": len(records),
        "scene_names": list(orbits),
        "pairs": sum(len(record["references"]) for record in records),
        "seed": seed,
        **{key: options[key] for key in ("steps", "solver", "dtype", "device")},
        "samples": entries[0].num_samples,
        "rows": {**summaries, **{name: reason.as_json() for name, reason in skipped.items()}},
        "versions": versions(),
        # Of all scenes, also those measured by a run that was stopped.
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "seconds_this_run": round(time.perf_counter() - started, 3),
        **peak_memory(),
    }
    if out is not None:
        write_json(out, report)
        partial.close()
    return report


def _no_answer(images: Tensor, observed: Tensor, items: Sequence[int]) -> Tensor:
    raise AssertionError("results are read, not asked")


def _opponent_of_size(
    one2one: str | One2OnePipeline, size: int, device: torch.device | str, dtype: torch.dtype | None
) -> One2OnePipeline | Skipped:
    pipeline = load_opponent(one2one, device, dtype)
    if isinstance(pipeline, One2OnePipeline) and pipeline.resolution != size:
        return Skipped(f"its weights make {pipeline.resolution} pixels a side, the target's {size}")
    return pipeline


def _check_results(root: Path, scenes: Sequence[str]) -> Path:
    open_results(root, *METHODS)
    for scene in scenes:
        find_results(root, scene)
    return root


def _check_options(
    target: object,
    protocol: str,
    num_steps: int,
    guidance: float | None,
    num_samples: int,
    solver: str,
    limit: int | None,
    out: Path | None,
    force: bool,
) -> None:
    if isinstance(target, str) and target in METHODS and protocol_of(target) not in PROTOCOLS:
        raise InputError("--protocol", protocol, f"is not for {target}")
    if protocol not in PROTOCOLS:
        raise InputError("--protocol", protocol, f"expected one of {', '.join(PROTOCOLS)}")
    if solver not in SOLVERS:
        raise InputError("--solver", solver, f"expected one of {', '.join(SOLVERS)}")
    if not 1 <= num_steps <= 1000:
        raise InputError("--steps", num_steps, "expected 1 to 1000")
    if guidance is not None and not guidance >= 0:
        raise InputError("--guidance", guidance, "expected a number of at least 0")
    if num_samples < 1:
        raise InputError("--samples", num_samples, "expected at least 1")
    check_limit(limit)
    check_report(out, force)
