"""An `orbit16` run's records as the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyview.bench.fewview_summary import paired
from manyview.bench.orbit16 import SCORED, distance_deg
from manyview.bench.orbit16_options import BEST_MESH, mesh_name
from manyview.bench.orbit16_rows import OrbitRow
from manyview.bench.orbit16_scores import PER_MESH, PER_ORBIT, PER_PAIR
from manyview.bench.scoring import Record, estimate
from manyview.metrics.bootstrap import bootstrap_mean
from manyview.metrics.report import Skipped

_SPREAD = {"pixel_std": None}
_STEPS = [round(distance_deg(view) * 2) for view in SCORED]
"""Distance of every scored view from the input, in half degrees, so that it is a whole number."""


def summarise_row(
    row: OrbitRow, headline: str, records: Sequence[Record], metrics: Mapping[str, object]
) -> dict[str, Any]:
    """`weights`, `metrics` over all answers, `by_distance`, `difference`, `seconds_an_answer`, `failed`.

    For several samples `mean_of_<S>` beside the metrics, which have `pixel_std` too. `by_distance["22.5"]`
    holds the same of the views that far from the input and their number, `pairs`. `difference`: of rows other
    than the headline the headline's metric less this row's on the same views; of mesh rows other than the one
    with 16 views between, that one's less this row's on the same objects, those where both found a surface.
    """
    name, mean = row.name, f"mean_of_{row.num_samples}"
    failed = [
        {"scene": record["scene"], "reason": answer["failed"]}
        for record in records
        for answer in record["answers"][name]
        if "failed" in answer
    ]
    summary: dict[str, Any] = {"weights": {"name": None, "sha256": None, **row.weights}, "metrics": {}}
    views = part_of(records, [name], "views")
    if any(record["references"] for record in views):
        summary["metrics"] = _estimate(views, name, metrics)
        summary["metrics"] |= _estimate(part_of(records, [name], "pairs"), name, dict.fromkeys(PER_PAIR))
        for metric in PER_ORBIT:
            summary["metrics"][metric] = _of_orbits(records, name, metric)
        summary["by_distance"] = {}
        for steps in sorted(set(_STEPS)):
            part = _estimate(views, name, metrics, steps)
            part["pairs"] = sum(list(record["references"]).count(steps) for record in views)
            summary["by_distance"][f"{steps / 2:g}"] = part
    if row.num_samples > 1:
        spread, means = part_of(records, [name], "spread"), part_of(records, [name], "mean")
        summary["metrics"] |= _estimate(spread, name, _SPREAD)
        summary[mean] = _estimate(means, name, metrics)
        for key, part in summary["by_distance"].items():
            steps = round(2 * float(key))
            part |= _estimate(spread, name, _SPREAD, steps)
            part[mean] = _estimate(means, name, metrics, steps)
    meshes = part_of(records, [name], "mesh")
    if any(record["references"] for record in meshes):
        summary["metrics"] |= _estimate(meshes, name, dict.fromkeys(PER_MESH))
        summary["meshes"] = sum(len(record["references"]) for record in meshes)
    difference = {}
    if name != headline:
        difference = _less(records, headline, name, "views", metrics)
        difference |= _less(records, headline, name, "pairs", dict.fromkeys(PER_PAIR))
    if name != mesh_name(BEST_MESH):
        difference |= _less(records, mesh_name(BEST_MESH), name, "mesh", dict.fromkeys(PER_MESH))
    if difference:
        summary["difference"] = difference
    seconds = [(a["seconds"], record["scene"]) for record in records for a in record["answers"][name]]
    summary["seconds_an_answer"] = bootstrap_mean(*map(list, zip(*seconds, strict=True))).as_json()
    return {**summary, "failed": failed}


def summarise_less(
    first: str, second: str, records: Sequence[Record], metrics: Mapping[str, object]
) -> dict[str, Any]:
    """The first row's metrics less the second's on the same views, for two rows of which none is the
    headline; empty where one of them is missing."""
    if not all({first, second} <= set(record["answers"]) for record in records):
        return {}
    found = _less(records, first, second, "views", metrics)
    return found | _less(records, first, second, "pairs", dict.fromkeys(PER_PAIR))


def summarise_truth(records: Sequence[Record]) -> dict[str, Any]:
    """What the true views have: `seam_ratio` and `seam_to_first` at the inputs' seams."""
    found = {}
    for name in ("seam_ratio", "seam_to_first"):
        found[name] = _mean([(turn[name], record["scene"]) for record in records for turn in record["truth"]])
    return found


def part_of(records: Sequence[Record], rows: Sequence[str], part: str) -> list[dict[str, Any]]:
    """One part of the answers of some rows as `scoring.Record`, of the questions where all of them have it.

    `references`: for each scored view its distance from the input in half degrees, elsewhere 0.
    """
    found = []
    for record in records:
        one: dict[str, Any] = {"scene": record["scene"], "references": [], "rows": {row: {} for row in rows}}
        for answers in zip(*(record["answers"].get(row, []) for row in rows), strict=True):
            if not all(part in answer for answer in answers):
                continue
            count = 0
            for row, answer in zip(rows, answers, strict=True):
                for metric, value in answer[part].items():
                    values = value if isinstance(value, list) else [value]
                    one["rows"][row].setdefault(metric, []).extend(values)
                    count = len(values)
            one["references"] += _STEPS if count == len(_STEPS) else [0] * count
        found.append(one)
    return found


def _less(
    records: Sequence[Record], first: str, second: str, part: str, metrics: Mapping[str, object]
) -> dict[str, Any]:
    if not all(first in record["answers"] for record in records):
        return {}
    both = part_of(records, [first, second], part)
    if not any(record["references"] for record in both):
        return {}
    return _estimate(paired(both, first, second), "less", metrics)


def _estimate(
    records: Sequence[Record], row: str, metrics: Mapping[str, object], steps: int | None = None
) -> dict[str, Any]:
    return estimate(records, lambda _: row, metrics, steps)


def _of_orbits(records: Sequence[Record], row: str, metric: str) -> dict[str, Any]:
    return _mean(
        [
            (answer["orbit"][metric], record["scene"])
            for record in records
            for answer in record["answers"][row]
            if "orbit" in answer
        ]
    )


def _mean(found: Sequence[tuple[float | None, str]]) -> dict[str, Any]:
    """Of those that there are."""
    known = [(value, scene) for value, scene in found if value is not None]
    if not known:
        return Skipped("nothing changes from view to view").as_json()
    values, scenes = zip(*known, strict=True)
    return bootstrap_mean(list(values), list(scenes)).as_json()
