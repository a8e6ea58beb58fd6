"""A `fewview` run's records as the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyview.bench.fewview_rows import Row
from manyview.bench.scoring import Record, estimate
from manyview.metrics.bootstrap import bootstrap_mean


def summarise_row(
    row: Row, headline: str, records: Sequence[Record], metrics: Mapping[str, object]
) -> dict[str, Any]:
    """`weights`, `metrics` over all pairs, `by_references` and `failed`.

    `by_references["2"]` holds every metric, the number of `pairs`, and `seconds` an object (all its scored
    views). Rows other than the headline also have `difference`, there and over all pairs: the headline's
    metric less this row's on the same pair, mean and interval, objects resampled whole.
    """
    failed = [
        {key: value for key, value in one.items() if key != "row"}
        for record in records
        for one in record["failed"]
        if one["row"] == row.name
    ]
    summary: dict[str, Any] = {
        "weights": {"name": None, "sha256": None, **row.weights},
        "metrics": estimate(records, lambda _: row.name, metrics),
        "by_references": {},
        "failed": failed,
    }
    less = None if row.name == headline else paired(records, headline, row.name)
    if less is not None:
        summary["difference"] = estimate(less, lambda _: "less", metrics)
    for count in sorted({count for record in records for count in record["counts"]}):
        part = estimate(records, lambda _: row.name, metrics, count)
        part["pairs"] = sum(list(record["references"]).count(count) for record in records)
        part["seconds"] = _seconds(records, row.name, count)
        if less is not None:
            part["difference"] = estimate(less, lambda _: "less", metrics, count)
        summary["by_references"][str(count)] = part
    return summary


def paired(records: Sequence[Record], first: str, second: str) -> list[dict[str, Any]]:
    """Records with one row, `less`: the first row's numbers less the second's, pair by pair."""
    return [
        {
            "scene": record["scene"],
            "references": record["references"],
            "rows": {
                "less": {
                    metric: [a - b for a, b in zip(values, record["rows"][second][metric], strict=True)]
                    for metric, values in record["rows"][first].items()
                }
            },
        }
        for record in records
    ]


def _seconds(records: Sequence[Record], row: str, count: int) -> dict[str, Any]:
    values, scenes = [], []
    for record in records:
        if count in record["counts"]:
            values.append(record["seconds"][row][list(record["counts"]).index(count)])
            scenes.append(record["scene"])
    return bootstrap_mean(values, scenes).as_json()
