"""Score TUNet and its baselines, or results made elsewhere, under the protocol `pair`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manyview.bench.pair import PROTOCOL, PairScene, Question, find_scenes
from manyview.bench.pair_features import find_features
from manyview.bench.pair_measure import PairJob, pair_metrics
from manyview.bench.pair_options import (
    COPY,
    HEADLINE,
    OPPONENT,
    ORACLE,
    PIPELINE_ROWS,
    VARIANTS,
    WARP,
    PairOptions,
)
from manyview.bench.pair_results import read_answers
from manyview.bench.pair_rows import PairAnswerer, PairRow, copy_row, one2one_row, tunet_rows, warp_row
from manyview.bench.pair_source import PairSource, with_translator
from manyview.bench.pair_summary import summarise_row, summarise_truth
from manyview.bench.partial import Partial
from manyview.bench.results import find_results
from manyview.bench.scenes import check_limit, check_report
from manyview.bench.scoring import choose_metrics
from manyview.bench.targets import Asked, load_opponent, open_results, shared_facts
from manyview.io.manifest import peak_memory, to_plain, versions, write_json
from manyview.methods import load
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.metrics.report import Skipped
from manyview.progress import Progress, silent

RESULTS_SIZE = 128
_FORMAT = 1
Target = str | os.PathLike[str] | TunetPipeline | PairAnswerer


def evaluate_pair(
    target: Target,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: PairOptions | None = None,
    *,
    weights: str = "compact",
    one2one: str | One2OnePipeline = "compact",
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
    """The numbers of metrics.json (see `pair_summary`), written to `out` if given.

    target: `tunet`, a pipeline, any `PairAnswerer`, or a folder of results (bench/pair_results.py). The
    method's rows are its own answer (what counts), the translated mean without fusion, each fusion, and the
    oracle, which takes the candidate nearest to the truth by stlpips_vgg and is a bound; then translators
    trained otherwise (`options.variants`), the one-to-one model (`one2one`: its weights or pipeline), pixels
    moved by estimated depth, and a copy of the reference. data: renders or ordered captures (bench/pair.py).
    Scenes: those named, of these every so many, of these the first. `size`: pixels a side of the comparison;
    when not given what the weights make, else 128.

    Finished answers are kept in `<out>.partial.jsonl`, each under its own row's options, so that a stopped
    run goes on (`resume`), and with `keep` a later one with more scenes or rows takes them from there. Raises
    `InputError` before anything loads for data that do not suit, options out of range, and an `out` that
    exists without `force`.
    """
    started = time.perf_counter()
    progress, options = progress or silent, options or PairOptions()
    out = None if out is None else Path(out)
    options.check()
    check_limit(limit)
    check_report(out, force)
    found, short = find_scenes(Path(data), options, scenes, limit, every)
    who = _choose_rows(target, options, weights, one2one, perceptual, device, dtype)
    final = size or who.size or RESULTS_SIZE
    seen = options.perceptual_size or final
    made = None if who.results is None else _read_all(who.results, found)
    metrics = pair_metrics(perceptual, final, seen, device)
    nets, lacking = find_features(options.features, seen, device)
    shared = {
        "format": _FORMAT,
        **shared_facts(PROTOCOL, final, options.seed, dtype, device, metrics),
        "perceptual_resolution": seen,
        "features": {net.name: net.sha256 for net in nets},
    }
    given_size = max(final, who.size or 0)
    job = PairJob(who.rows, made, metrics, nets, final, given_size, seen, options.seed)
    partial = Partial(out if who.kept else None, {**shared, "given_size": given_size}, resume)
    records = job.measure(found, partial, progress)
    headline = who.rows[0].name
    summaries = {row.name: summarise_row(row, headline, records, metrics, nets) for row in who.rows}
    own = summaries.pop(headline)
    own["metrics"] |= {f"frechet_{name}": reason.as_json() for name, reason in lacking.items()}
    report = {
        "method": headline,
        "protocol": PROTOCOL,
        "data": Path(data).resolve().name,
        **own,
        "truth": summarise_truth(records),
        **{key: value for key, value in shared.items() if key not in ("format", "protocol", "metrics")},
        "split": options.split,
        "pairing": {kind: sum(scene.kind == kind for scene in found) for kind in ("orbit", "ordered")},
        "scenes": len(records),
        "scene_names": [record["scene"] for record in records],
        "too_short": short,
        "questions": {
            record["scene"]: {str(one.reference): list(one.targets) for one in record["questions"]}
            for record in records
        },
        "pairs": sum(len(one.targets) for record in records for one in record["questions"]),
        "options": to_plain({row.name: row.options for row in who.rows}),
        "rows": {**summaries, **{name: reason.as_json() for name, reason in who.skipped.items()}},
        "versions": versions(),
        # Of all answers, also those measured by a run that was stopped. What rows share counts in each.
        "seconds": round(
            sum(a["seconds"] for record in records for row in record["answers"].values() for a in row), 3
        ),
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
    options: PairOptions,
    weights: str,
    one2one: str | One2OnePipeline,
    perceptual: bool,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> Asked[PairRow]:
    who = Asked[PairRow]()
    if isinstance(target, str | os.PathLike) and target != HEADLINE:
        who.results = open_results(target, HEADLINE)
        who.rows.append(PairRow(name="results", weights={"name": who.results.name}))
    elif isinstance(target, str | TunetPipeline):
        _add_tunet(who, target, options, weights, perceptual, device, dtype)
    else:
        assert callable(target), "every other target is a function"
        name = getattr(target, "__name__", type(target).__name__)
        who.rows.append(PairRow(name=name, answer=cast(PairAnswerer, target)))
        who.kept = False
    if options.wants(OPPONENT):
        opponent = load_opponent(one2one, device, dtype)
        if isinstance(opponent, Skipped):
            who.skipped[OPPONENT] = opponent
        else:
            who.rows.append(one2one_row(opponent, options))
    if options.wants(WARP):
        who.rows.append(warp_row(options.depth_net, device))
    if options.wants(COPY):
        who.rows.append(copy_row())
    who.refuse_none(options.only)
    return who


def _add_tunet(
    who: Asked[PairRow],
    target: str | TunetPipeline,
    options: PairOptions,
    weights: str,
    perceptual: bool,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    wanted = [name for name in PIPELINE_ROWS if options.wants(name)]
    others = [name for name in VARIANTS if options.wants(name)]
    if not wanted and not any(name in options.variants for name in others):
        return  # nothing of it is loaded
    pipeline = load(HEADLINE, weights, device, dtype) if isinstance(target, str) else target
    variants = {
        name: with_translator(pipeline, options.variants[name]) for name in others if name in options.variants
    }
    source = PairSource(pipeline, options, variants)
    distance = choose_metrics(perceptual and ORACLE in wanted, pipeline.resolution, device)["stlpips_vgg"]
    chosen = None if isinstance(distance, Skipped) else distance
    who.rows += tunet_rows(source, [*wanted, *others], chosen)
    who.size = pipeline.resolution
    if ORACLE in wanted and isinstance(distance, Skipped):
        who.skipped[ORACLE] = Skipped(f"chooses by stlpips_vgg: {distance.reason}")
    lacking = [name for name in others if name not in options.variants]
    who.skipped |= {name: Skipped("no --variants names its weights") for name in lacking}


def _read_all(root: Path, scenes: Sequence[PairScene]) -> dict[Question, Tensor]:
    for scene in scenes:
        find_results(root, scene.name)
    answers: dict[Question, Tensor] = {}
    for scene in scenes:
        answers |= read_answers(root, scene)
    return answers
