"""A run's records as the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyview.bench.entries import Entry
from manyview.bench.orbit4 import NUM_VIEWS
from manyview.bench.scoring import Record, estimate

_SPREAD = {"pixel_std": None}


def summarise(entry: Entry, records: Sequence[Record], metrics: Mapping[str, object]) -> dict[str, Any]:
    """`weights`, `metrics` over all pairs, and `by_references`.

    `by_references["1"]` holds every metric at the guidance that counts, that `guidance`, the number of
    `pairs`, and beside it `guidance_1`, `guidance_3`, ... (one a strength that was scored) and, for several
    samples, `mean_of_<S>` and `pixel_std`.
    """
    summary: dict[str, Any] = {
        "weights": {"name": None, "sha256": None, **entry.weights},
        "metrics": estimate(records, entry.headline, metrics),
        "by_references": {},
    }
    if entry.num_samples > 1:
        summary["metrics"] |= estimate(records, lambda _: entry.spread_row, _SPREAD)
        summary[f"mean_of_{entry.num_samples}"] = estimate(records, lambda _: entry.mean_row, metrics)
    for count in range(1, NUM_VIEWS):
        pairs = sum(list(record["references"]).count(count) for record in records)
        if pairs == 0:
            continue
        part = summary["by_references"][str(count)] = estimate(records, entry.headline, metrics, count)
        part["pairs"] = pairs
        if entry.chosen:
            part["guidance"] = entry.chosen[count - 1]
        for guidance in entry.candidates:
            row = entry.row(guidance)
            part[f"guidance_{guidance:g}"] = estimate(records, lambda _, row=row: row, metrics, count)
        if entry.num_samples > 1:
            part |= estimate(records, lambda _: entry.spread_row, _SPREAD, count)
            part[f"mean_of_{entry.num_samples}"] = estimate(records, lambda _: entry.mean_row, metrics, count)
    return summary
