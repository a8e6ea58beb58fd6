"""A `pair` run's records as the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyview.bench.fewview_summary import paired
from manyview.bench.pair_features import FeatureNet, unpack
from manyview.bench.pair_measure import HF_POWER
from manyview.bench.pair_rows import PairRow
from manyview.bench.scoring import Record, estimate
from manyview.metrics.bootstrap import bootstrap_mean
from manyview.metrics.distribution import frechet_distance, kernel_distance
from manyview.metrics.report import Skipped

_FEWEST = 10
"""Pictures without which two sets are not compared."""


def summarise_row(
    row: PairRow,
    headline: str,
    records: Sequence[Record],
    metrics: Mapping[str, object],
    nets: Sequence[FeatureNet],
) -> dict[str, Any]:
    """`weights`, `metrics` over all pairs, `by_distance`, `difference`, `spectrum`, `seconds_an_answer`.

    `by_distance["22.5"]` holds the metrics of the pairs that far apart and their number, `pairs`.
    `difference`: the headline's metric less this row's on the same pairs, objects resampled whole. `metrics`
    also has `frechet_<network>` and `kid_<network>`, distances between the features of all made and all true
    views, one number each: resampled sets hold pictures twice, which biases both, so there is no interval.
    `spectrum`: mean power over rings of frequency.
    """
    name = row.name
    mine = [record for record in records if record["answers"].get(name)]
    summary: dict[str, Any] = {"weights": {"name": None, "sha256": None, **row.weights}}
    if not mine:
        return {**summary, "metrics": {}, "skipped": "captures have no upright world, which it needs"}
    views = [_record(record, [name]) for record in mine]
    summary["metrics"] = estimate(views, lambda _: name, metrics)
    summary["metrics"] |= _distances(mine, name, nets)
    summary["by_distance"] = {}
    for steps in sorted({steps for record in views for steps in record["references"]}):
        part = estimate(views, lambda _: name, metrics, steps)
        part["pairs"] = sum(list(record["references"]).count(steps) for record in views)
        summary["by_distance"][f"{steps / 2:g}"] = part
    both = [record for record in mine if record["answers"].get(headline)]
    if name != headline and both:
        less = paired([_record(record, [headline, name]) for record in both], headline, name)
        summary["difference"] = estimate(less, lambda _: "less", metrics)
    summary["spectrum"] = _spectrum([answer for record in mine for answer in record["answers"][name]])
    seconds = [(answer["seconds"], r["scene"]) for r in mine for answer in r["answers"][name]]
    summary["seconds_an_answer"] = bootstrap_mean(*map(list, zip(*seconds, strict=True))).as_json()
    return summary


def summarise_truth(records: Sequence[Record]) -> dict[str, Any]:
    """What the true views have: their power of fine detail, and their spectrum."""
    values = [
        (value, record["scene"])
        for record in records
        for truth in record["truth"]
        for value in truth["views"][HF_POWER]
    ]
    power = bootstrap_mean(*map(list, zip(*values, strict=True))).as_json()
    spectrum = _spectrum([truth for record in records for truth in record["truth"]])
    return {HF_POWER: power, "spectrum": spectrum}


def _record(record: Record, rows: Sequence[str]) -> dict[str, Any]:
    """As `scoring.Record`; `references`: the distance of every pair in half degrees."""
    found: dict[str, Any] = {
        "scene": record["scene"],
        "references": [steps for question in record["questions"] for steps in question.steps],
        "rows": {row: {} for row in rows},
    }
    for row in rows:
        for answer in record["answers"][row]:
            for metric, values in answer["views"].items():
                found["rows"][row].setdefault(metric, []).extend(values)
    return found


def _spectrum(answers: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean over pairs of the power over rings."""
    weights = torch.tensor([float(len(answer["views"][HF_POWER])) for answer in answers], dtype=torch.float64)
    power = torch.tensor([answer["spectrum"] for answer in answers], dtype=torch.float64)
    return ((weights[:, None] * power).sum(dim=0) / weights.sum()).tolist()


def _distances(records: Sequence[Record], row: str, nets: Sequence[FeatureNet]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for net in nets:
        made = _features([answer for record in records for answer in record["answers"][row]], net.name)
        true = _features([truth for record in records for truth in record["truth"]], net.name)
        for name, distance in (("frechet", frechet_distance), ("kid", kernel_distance)):
            if min(len(made), len(true)) < _FEWEST:
                value: dict[str, Any] = Skipped(f"needs at least {_FEWEST} pictures").as_json()
            else:
                value = {"mean": distance(made, true), "ci95": None}
            found[f"{name}_{net.name}"] = value
    return found


def _features(answers: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    parts = [unpack(answer["features"][name], len(answer["views"][HF_POWER])) for answer in answers]
    return torch.cat(parts)
