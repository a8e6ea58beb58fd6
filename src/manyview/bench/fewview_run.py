"""Score SparseFusion and its baselines, or results made elsewhere, under the protocol `fewview`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.fewview import Deal, deal_scene
from manyview.bench.fewview_measure import FewviewJob
from manyview.bench.fewview_options import BASELINES, HEADLINE, REGRESSOR, FewviewOptions
from manyview.bench.fewview_results import read_answers
from manyview.bench.fewview_rows import (
    MODES,
    Answerer,
    Row,
    baseline_rows,
    regressor_row,
    sparsefusion_rows,
)
from manyview.bench.fewview_summary import summarise_row
from manyview.bench.partial import Partial
from manyview.bench.results import find_results
from manyview.bench.rows import weights_of
from manyview.bench.scenes import check_limit, check_report, choose_scenes
from manyview.bench.scoring import choose_metrics
from manyview.bench.targets import Asked, made_or_skipped, open_results, shared_facts
from manyview.io.manifest import peak_memory, to_plain, versions, write_json
from manyview.methods import load
from manyview.methods.sparsefusion.pipeline import SparseFusionPipeline
from manyview.metrics.report import Skipped
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

RESULTS_SIZE = 128
_FORMAT = 1
Target = str | os.PathLike[str] | SparseFusionPipeline | Answerer


def evaluate_fewview(
    target: Target,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: FewviewOptions | None = None,
    *,
    weights: str = "compact",
    regressor: str | Row = "compact",
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
    """The numbers of metrics.json (see docs/sparsefusion.md), written to `out` if given.

    target: `sparsefusion`, a pipeline, any `Answerer`, or a folder of results (bench/fewview_results.py). The
    method's rows are the field (what counts), the EFT and the diffusion model each alone; beside them stand
    the regressor (`regressor`: its weights, or its row) and the rows that need no network. Scenes: those
    named, of these every so many, of these the first. `size`: pixels a side where no weights say it (128).

    Finished answers are kept in `<out>.partial.jsonl`, each under its own row's options, so that a stopped
    run goes on (`resume`), and with `keep` a later one with more scenes or rows takes them from there. Raises
    `InputError` before anything loads for data that do not suit the protocol, options out of range, and an
    `out` that exists without `force`.
    """
    started = time.perf_counter()
    progress, options = progress or silent, options or FewviewOptions()
    out = None if out is None else Path(out)
    options.check()
    check_limit(limit)
    check_report(out, force)
    folders = choose_scenes(Path(data), scenes, limit, every)
    asked: dict[str, Any] = {"counts": options.counts, "num_scored": options.num_scored, "seed": options.seed}
    dealt = {folder.name: deal_scene(folder, **asked) for folder in folders}
    deals = {name: deal for name, (deal, _) in dealt.items()}
    who = _choose_rows(target, options, weights, regressor, device, dtype, size)
    final = who.size or RESULTS_SIZE
    made = None if who.results is None else _read_all(who.results, dealt, options, final)
    metrics = choose_metrics(perceptual, final, device)
    shared = {
        "format": _FORMAT,
        **shared_facts("fewview", final, options.seed, dtype, device, metrics),
    }
    partial = Partial(out if who.kept else None, shared, resume)
    job = FewviewJob(who.rows, made, metrics, options.counts, final, options.seed)
    records = job.measure(folders, deals, partial, progress)
    headline = who.rows[0].name
    summaries = {row.name: summarise_row(row, headline, records, metrics) for row in who.rows}
    report = {
        "method": headline,
        "protocol": "fewview",
        "data": Path(data).resolve().name,
        **summaries.pop(headline),
        **{key: shared[key] for key in ("resolution", "seed", "dtype", "device")},
        "inputs": list(options.counts),
        "ray_rows": options.ray_rows,
        "scenes": len(records),
        "scene_names": [record["scene"] for record in records],
        "frames": {name: _listed(deal, options.counts) for name, deal in deals.items()},
        "pairs": sum(len(record["references"]) for record in records),
        "options": to_plain({row.name: row.options for row in who.rows}),
        "rows": {**summaries, **{name: reason.as_json() for name, reason in who.skipped.items()}},
        "versions": versions(),
        # Of all answers, also those measured by a run that was stopped.
        "seconds": round(sum(sum(map(sum, record["seconds"].values())) for record in records), 3),
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
    options: FewviewOptions,
    weights: str,
    regressor: str | Row,
    device: torch.device | str,
    dtype: torch.dtype | None,
    size: int | None,
) -> Asked[Row]:
    rows: list[Row] = []
    results: Path | None = None
    kept = True
    if isinstance(target, str | os.PathLike) and target != HEADLINE:
        results = open_results(target, HEADLINE)
        rows.append(Row(name="results", answer=_no_answer, weights={"name": results.name}))
    elif isinstance(target, str | SparseFusionPipeline):
        wanted = [name for name in MODES if options.wants(name)]
        if wanted:  # else nothing of it is loaded
            pipeline = load(HEADLINE, weights, device, dtype) if isinstance(target, str) else target
            known = weights_of(pipeline.bundle, (pipeline.vae, pipeline.eft, pipeline.unet))
            rows, size = sparsefusion_rows(pipeline, known, options, wanted), pipeline.resolution
    else:
        assert callable(target), "every other target is a function"
        rows.append(Row(name=getattr(target, "__name__", type(target).__name__), answer=target))
        kept = False
    skipped: dict[str, Skipped] = {}
    if options.wants(REGRESSOR) and isinstance(regressor, Row):
        rows.append(regressor)
    elif options.wants(REGRESSOR):
        row = made_or_skipped(lambda: regressor_row(str(regressor), options.ray_rows, device, dtype))
        if isinstance(row, Skipped):
            skipped[REGRESSOR] = row
        else:
            rows.append(row)
    rows += baseline_rows([name for name in BASELINES if options.wants(name)], device)
    who = Asked(rows, size, skipped, results, kept)
    who.refuse_none(options.only)
    return who


def _no_answer(given: Views, targets: Cameras, seed: int) -> Tensor:
    raise AssertionError("results are read, not asked")


def _read_all(
    root: Path, dealt: Mapping[str, tuple[Deal, Cameras]], options: FewviewOptions, size: int
) -> dict[str, dict[int, Tensor]]:
    for scene in dealt:
        find_results(root, scene)
    return {
        scene: read_answers(root, scene, deal, cameras, options.counts, size)
        for scene, (deal, cameras) in dealt.items()
    }


def _listed(deal: Deal, counts: Sequence[int]) -> dict[str, Any]:
    return {
        "inputs": {str(count): list(deal.inputs(count)) for count in counts},
        "scored": list(deal.scored),
    }
