"""Score Hi3D and its baselines, or results made elsewhere, under the protocol `orbit16`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from manyview.bench.orbit16 import PROTOCOL, Question, check_scene, deal_inputs
from manyview.bench.orbit16_measure import Orbit16Job
from manyview.bench.orbit16_mesh import mesh_rows
from manyview.bench.orbit16_options import (
    BASELINES,
    COARSE,
    HEADLINE,
    NO_DEPTH,
    OPPONENT,
    UPSCALED,
    Orbit16Options,
)
from manyview.bench.orbit16_results import Made, read_answers
from manyview.bench.orbit16_rows import OrbitAnswerer, OrbitRow, baseline_rows, hi3d_rows, one2one_row
from manyview.bench.orbit16_source import OrbitSource, Refiner, find_refiner
from manyview.bench.orbit16_summary import summarise_less, summarise_row, summarise_truth
from manyview.bench.partial import Partial
from manyview.bench.results import find_results
from manyview.bench.scenes import check_limit, check_report, choose_scenes
from manyview.bench.scoring import choose_metrics
from manyview.bench.targets import Asked, load_opponent, open_results, shared_facts
from manyview.errors import InputError
from manyview.io.manifest import peak_memory, to_plain, versions, write_json
from manyview.methods import load
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.report import Skipped
from manyview.progress import Progress, silent
from manyview.types import Cameras

RESULTS_SIZE = 256
_FORMAT = 1
Target = str | os.PathLike[str] | Hi3dPipeline | OrbitAnswerer
FindRefiner = Callable[[Hi3dPipeline, Orbit16Options], Refiner | None]


def evaluate_orbit16(
    target: Target,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: Orbit16Options | None = None,
    *,
    weights: str = "compact",
    one2one: str | One2OnePipeline = "compact",
    refiner: FindRefiner = find_refiner,
    scenes: Sequence[str] | None = None,
    limit: int | None = None,
    every: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    size: int | None = None,
    perceptual: bool = True,
    resume: bool = True,
    keep: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The numbers of metrics.json (see `orbit16_summary` and `orbit16_scores`), written to `out` if given.

    target: `hi3d`, a pipeline, any `OrbitAnswerer`, or a folder of results (bench/orbit16_results.py). The
    method's rows are the full orbit (what counts), that of its first stage enlarged bicubically and by a
    network (`options.upscaler`), and one refined without depth; beside them stand the one-to-one model
    (`one2one`: its weights or pipeline), a copy of the input and the mean of all true views, and meshes of
    the final orbit where `options.meshes` asks for them. Scenes: those named, of these every so many, of
    these the first. `size`: pixels a side of the comparison, of all rows alike; when not given what the
    weights make in the end, else 256. `refiner`: finds the second stage.

    Finished answers are kept in `<out>.partial.jsonl`, each under its own row's options, so that a stopped
    run goes on (`resume`), and with `keep` a later one with more scenes or rows takes them from there. Raises
    `InputError` before anything loads for data that are no orbits of 16, options out of range, and an `out`
    that exists without `force`.
    """
    started = time.perf_counter()
    progress, options = progress or silent, options or Orbit16Options()
    out = None if out is None else Path(out)
    options.check()
    check_limit(limit)
    check_report(out, force)
    folders = choose_scenes(Path(data), scenes, limit, every)
    orbits = {folder.name: check_scene(folder) for folder in folders}
    questions = {
        name: [Question(name, place) for place in deal_inputs(name, options.num_inputs, options.seed)]
        for name in orbits
    }
    who = _choose_rows(target, options, weights, one2one, refiner, device, dtype)
    final = size or who.size or RESULTS_SIZE
    made = None if who.results is None else _read_all(who.results, folders, orbits, questions)
    if made is not None:
        questions = {name: [one for one in asked if one in made] for name, asked in questions.items()}
    metrics = choose_metrics(perceptual, final, device)
    shared = {
        "format": _FORMAT,
        **shared_facts(PROTOCOL, final, options.seed, dtype, device, metrics),
    }
    given_size = max(final, who.size or 0)
    job = Orbit16Job(who.rows, made, metrics, final, given_size, options.seed)
    partial = Partial(out if who.kept else None, {**shared, "given_size": given_size}, resume)
    records = job.measure(folders, questions, partial, progress)
    headline = who.rows[0].name
    summaries = {row.name: summarise_row(row, headline, records, metrics) for row in who.rows}
    report = {
        "method": headline,
        "protocol": PROTOCOL,
        "data": Path(data).resolve().name,
        **summaries.pop(headline),
        "truth": summarise_truth(records),
        "no_depth_less_coarse": summarise_less(NO_DEPTH, COARSE, records, metrics),
        **{key: shared[key] for key in ("resolution", "seed", "dtype", "device")},
        "samples": options.num_samples,
        "scenes": len(records),
        "scene_names": [record["scene"] for record in records],
        "inputs": {name: [one.place for one in asked] for name, asked in questions.items()},
        "pairs": 15 * sum(map(len, questions.values())),
        "options": to_plain({row.name: row.options for row in who.rows}),
        "rows": {**summaries, **{name: reason.as_json() for name, reason in who.skipped.items()}},
        "versions": versions(),
        # Of all answers, also those measured by a run that was stopped. What rows share counts in each.
        "seconds": round(sum(answer["seconds"] for answer in _answers(records)), 3),
        "seconds_this_run": round(time.perf_counter() - started, 3),
        **peak_memory(),
    }
    if out is not None:
        write_json(out, report)
        if not keep:
            partial.close()
    return report


def _choose_rows(
    target: Target,
    options: Orbit16Options,
    weights: str,
    one2one: str | One2OnePipeline,
    refiner: FindRefiner,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> Asked[OrbitRow]:
    who = Asked[OrbitRow]()
    if isinstance(target, str | os.PathLike) and target != HEADLINE:
        who.results = open_results(target, HEADLINE)
        who.rows.append(OrbitRow(name="results", weights={"name": who.results.name}))
    elif isinstance(target, str | Hi3dPipeline):
        _add_hi3d(who, target, options, weights, refiner, device, dtype)
    else:
        assert callable(target), "every other target is a function"
        name = getattr(target, "__name__", type(target).__name__)
        who.rows.append(OrbitRow(name=name, answer=cast(OrbitAnswerer, target)))
        who.kept = False
    if options.meshes and not isinstance(target, Hi3dPipeline) and target != HEADLINE:
        raise InputError("--meshes", tuple(options.meshes), f"are made of orbits of {HEADLINE}")
    if options.wants(OPPONENT):
        opponent = load_opponent(one2one, device, dtype)
        if isinstance(opponent, Skipped):
            who.skipped[OPPONENT] = opponent
        else:
            who.rows.append(one2one_row(opponent, options))
    who.rows += baseline_rows([name for name in BASELINES if options.wants(name)])
    # Last, so that what is first is a row of views where there is any.
    who.rows.sort(key=lambda row: row.mesh is not None)
    who.refuse_none(options.only)
    return who


def _add_hi3d(
    who: Asked[OrbitRow],
    target: str | Hi3dPipeline,
    options: Orbit16Options,
    weights: str,
    refiner: FindRefiner,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    wanted = [name for name in (HEADLINE, COARSE, UPSCALED, NO_DEPTH) if options.wants(name)]
    if not wanted and not options.meshes:
        return  # nothing of it is loaded
    pipeline = load(HEADLINE, weights, device, dtype) if isinstance(target, str) else target
    found = refiner(pipeline, options)
    most = max([1, *(options.samples_of(name) for name in wanted)])
    source = OrbitSource(pipeline, options, found, most)
    who.rows += hi3d_rows(pipeline, source, options, wanted) + mesh_rows(source, options, device)
    who.size = source.size
    why = {name: source.lacks(name) for name in wanted}
    who.skipped |= {name: Skipped(reason) for name, reason in why.items() if reason is not None}


def _read_all(
    root: Path,
    folders: Sequence[Path],
    orbits: Mapping[str, Cameras],
    questions: Mapping[str, Sequence[Question]],
) -> dict[Question, Made]:
    for folder in folders:
        find_results(root, folder.name)
    answers: dict[Question, Made] = {}
    for folder in folders:
        answers |= read_answers(root, folder, orbits[folder.name], questions[folder.name])
    return answers


def _answers(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [answer for record in records for row in record["answers"].values() for answer in row]
