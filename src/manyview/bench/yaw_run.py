"""Score the refiner and its rows under the protocol `yaw`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.bench.partial import Partial
from manyview.bench.rows import weights_of
from manyview.bench.scenes import check_report
from manyview.bench.targets import dtype_name
from manyview.bench.yaw import choose_sources, measure_views
from manyview.bench.yaw_features import FeatureNet, load_feature_net
from manyview.bench.yaw_options import DRAG, HEADLINE, NAMES, PROTOCOL, YawOptions
from manyview.bench.yaw_rows import YawRow, choose_rows
from manyview.bench.yaw_summary import summarise
from manyview.errors import InputError
from manyview.io.manifest import peak_memory, to_plain, versions, write_json
from manyview.methods import load
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.methods.refiner.single_views import SingleViewSet
from manyview.methods.refiner.yaw_net import YawNet
from manyview.metrics.report import Skipped
from manyview.progress import Progress, silent
from manyview.weights import component_hash, open_bundle
from manyview.weights.packing import load_component

_FORMAT = 1


def evaluate_yaw(
    target: str | os.PathLike[str] | RefinerPipeline,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    options: YawOptions | None = None,
    *,
    weights: str = "compact",
    yaw_net: Path | YawNet | None = None,
    feature_net: Path | FeatureNet | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    resume: bool = True,
    keep: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The numbers of metrics.json (`yaw`, `yaw_summary`), written to `out` if given.

    target: `refiner` or a pipeline. data: held-out single views (papers/refiner/pack_views.py). yaw_net: the
    network that measures, by default the component `yaw` beside the weights. feature_net: whose features are
    compared, by default the package's image encoder.

    Finished sources are kept in `<out>.partial.jsonl`, each row's under its own options, so that a stopped
    run goes on (`resume`), and with `keep` a later one with more sources or rows takes them from there.
    Raises `InputError` before anything is drawn for other data, options out of range, weights without a yaw
    network where none is given, and an `out` that exists without `force`.
    """
    started = time.perf_counter()
    progress, options = progress or silent, options or YawOptions()
    out = None if out is None else Path(out)
    options.check()
    check_report(out, force)
    held_out = SingleViewSet(Path(data))
    if not isinstance(target, RefinerPipeline) and os.fspath(target) != HEADLINE:
        raise InputError("TARGET", os.fspath(target), f"{PROTOCOL} scores {HEADLINE}")
    net, net_hash = _yaw_net(target, weights, yaw_net, device)
    if not isinstance(feature_net, FeatureNet):
        feature_net = load_feature_net(feature_net, device)
    pipeline = target if isinstance(target, RefinerPipeline) else load(HEADLINE, weights, device, dtype)
    rows = choose_rows(pipeline, net, options)
    if not rows:
        raise InputError("--only", ", ".join(options.only or ()), "these weights have none of them")
    shared = {
        "format": _FORMAT,
        "protocol": PROTOCOL,
        "resolution": pipeline.resolution,
        "seed": options.seed,
        "dtype": dtype_name(dtype),
        "device": torch.device(device).type,
        "yaw_net": net_hash,
        "feature_net": {"name": feature_net.name, "sha256": feature_net.sha256},
        "weights": weights_of(pipeline.bundle, [pipeline.generator, pipeline.depth, pipeline.pose]),
        "tolerance_deg": options.tolerance_deg,
        "frontal_deg": options.frontal_deg,
    }
    records = _measure(pipeline, net, feature_net, rows, options, out, shared, resume, progress)
    images = torch.cat(
        [held_out.images(range(i, min(i + 64, len(held_out)))) for i in range(0, len(held_out), 64)]
    )
    real = feature_net.features(images), held_out.yaw_deg
    headline = rows[0].name
    summaries = {row.name: _summary(row, headline, records, real, options) for row in rows}
    skipped = {
        name: Skipped("no weights given").as_json()
        for name in NAMES
        if name not in summaries and options.wants(name)
    }
    report = {
        "method": headline,
        "data": Path(data).resolve().name,
        **summaries.pop(headline),
        **shared,
        "scenes": len(records),
        "pairs": len(records) * len(options.targets_deg),
        "renders": len(held_out),
        "targets_deg": list(options.targets_deg),
        "source_yaw_deg": [record["yaw_deg"] for record in records],
        "options": to_plain({row.name: row.options for row in rows}),
        "rows": {**summaries, **skipped},
        "versions": versions(),
        "seconds": round(sum(sum(record["seconds"].values()) for record in records), 3),
        "seconds_this_run": round(time.perf_counter() - started, 3),
        **peak_memory(),
    }
    if out is not None:
        write_json(out, report)
        for row in [] if keep else rows:  # one after the other: closing rewrites the file that they share
            _partial(row, out, shared, True).close()
    return report


def _measure(
    pipeline: RefinerPipeline,
    net: YawNet,
    feature_net: FeatureNet,
    rows: list[YawRow],
    options: YawOptions,
    out: Path | None,
    shared: dict[str, Any],
    resume: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """For every source what each row made of it, kept row by row."""
    partials = {row.name: _partial(row, out, shared, resume) for row in rows}
    sources = choose_sources(pipeline, net, feature_net, options)
    asked = [sources[: row.num_sources] for row in rows]
    progress.start(sum(map(len, asked)), "sweeps")
    records: list[dict[str, Any]] = []
    try:
        for number, source in enumerate(sources):
            scene = f"{source.seed:d}"
            record: dict[str, Any] = {"scene": scene, "yaw_deg": source.yaw_deg, "answers": {}, "seconds": {}}
            for row in rows:
                if row.num_sources is not None and number >= row.num_sources:
                    continue
                kept = partials[row.name].find(scene, scene)
                if kept is None:
                    begun = time.perf_counter()
                    images = row.answer(source)
                    views = measure_views(pipeline, net, feature_net, source, images, options)
                    seconds = round(time.perf_counter() - begun, 3)
                    kept = {"scene": scene, "views": views, "seconds": seconds}
                    partials[row.name].add(kept, scene)
                record["answers"][row.name] = kept["views"]
                record["seconds"][row.name] = kept["seconds"]
                progress.advance()
            records.append(record)
    finally:
        progress.finish()
    return records


def _partial(row: YawRow, out: Path | None, shared: dict[str, Any], resume: bool) -> Partial:
    return Partial(out, {**shared, "row": to_plain(row.identity())}, resume)


def _summary(
    row: YawRow,
    headline: str,
    records: list[dict[str, Any]],
    real: tuple[Tensor, Tensor],
    options: YawOptions,
) -> dict[str, Any]:
    own = [record for record in records if row.name in record["answers"]]
    if row.name == DRAG and not own:
        return Skipped("no source").as_json()
    seconds = sum(record["seconds"][row.name] for record in own) / max(len(own), 1)
    return {
        "weights": {"name": None, "sha256": None, **row.weights},
        "sources": len(own),
        "seconds_a_sweep": round(seconds, 3),
        **summarise(row.name, headline, own, real, options),
    }


def _yaw_net(
    target: str | os.PathLike[str] | RefinerPipeline,
    weights: str,
    given: Path | YawNet | None,
    device: torch.device | str,
) -> tuple[YawNet, str]:
    if isinstance(given, YawNet):
        nn.Module.to(given, device)  # not diffusers' own, whose type is narrower
        return given.eval(), "in memory"
    if given is None:
        bundle = target.bundle if isinstance(target, RefinerPipeline) else open_bundle(weights, HEADLINE)
        if bundle is None or "yaw" not in bundle.components:
            line = "these weights come with no network that measures yaw; name one (manyview train refiner"
            raise InputError("--yaw-net", "not given", f"{line} --stage yaw)")
        given = bundle.components["yaw"]
    elif not (given / "config.json").is_file():
        raise InputError("--yaw-net", str(given), "expected the export of the stage yaw (config.json)")
    net = load_component(YawNet, given, torch.float32, argument="--yaw-net")
    nn.Module.to(net, device)
    return net.eval(), component_hash(given)
