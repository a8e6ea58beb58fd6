"""A `yaw` run's records as the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.bench.yaw import DISTANCES, METRICS
from manyview.bench.yaw_features import unpack_features
from manyview.bench.yaw_options import ZONES, YawOptions
from manyview.metrics.bootstrap import bootstrap_mean
from manyview.metrics.distribution import frechet_distance, kernel_distance
from manyview.metrics.report import Skipped

Record = Mapping[str, Any]
_FEWEST = 20
"""Views and renders below which distances between distributions say nothing."""
_FUNCTIONS = {"frechet": frechet_distance, "kernel": kernel_distance}


def summarise(
    row: str, headline: str, records: Sequence[Record], real: tuple[Tensor, Tensor], options: YawOptions
) -> dict[str, Any]:
    """`metrics` over all reached views and `by_range` of them; of rows other than the headline `difference`.

    records: {"scene", "yaw_deg", "answers": {row: [one a target]}}. real: features [N, F] and yaws [N] of
    held-out renders. `by_range["20"]` and so on hold the single views' metrics of targets up to that, with
    `reached` (share of the targets), `asked`, `views` and `yaw_deg` (mean of the sizes of the yaws reached),
    and the distances to renders in that range (all when full): as many views as renders, of the same range of
    measured yaw. `difference` holds the headline's metrics less this row's over targets that both reached.
    """
    parts = {name: _range(row, records, real, limit, options) for name, limit in ZONES.items()}
    summary: dict[str, Any] = {"metrics": dict(parts["full"]), "by_range": parts}
    if row != headline:
        summary["difference"] = {
            name: _difference(headline, row, records, limit) for name, limit in ZONES.items()
        }
    return summary


def _range(
    row: str,
    records: Sequence[Record],
    real: tuple[Tensor, Tensor],
    limit: float | None,
    options: YawOptions,
) -> dict[str, Any]:
    views = [
        (view, record)
        for record in records
        for view in record["answers"].get(row, ())
        if _within(view, limit)
    ]
    reached = [(view, record) for view, record in views if view["reached"]]
    found: dict[str, Any] = {"asked": len(views), "views": len(reached)}
    if views:
        shares = [float(view["reached"]) for view, _ in views]
        found["reached"] = bootstrap_mean(shares, [record["scene"] for _, record in views]).as_json()
    groups = [record["scene"] for _, record in reached]
    for metric in METRICS:
        values = [view[metric] for view, _ in reached]
        found[metric] = (
            bootstrap_mean(values, groups).as_json() if values else Skipped("none reached").as_json()
        )
    if reached:
        sizes = [abs(view["yaw_deg"]) for view, _ in reached]
        found["yaw_deg"] = bootstrap_mean(sizes, groups).as_json()
    absolute = [
        (unpack_features(view["features"]), record["scene"])
        for view, record in reached
        if limit is None or abs(view["yaw_deg"] + record["yaw_deg"]) <= limit
    ]
    return found | _distances(absolute, real, limit, options)


def _distances(
    views: Sequence[tuple[Tensor, str]], real: tuple[Tensor, Tensor], limit: float | None, options: YawOptions
) -> dict[str, Any]:
    """Of as many views as renders; the interval from resampling whole sources."""
    chosen = real[0] if limit is None else real[0][real[1].abs() <= limit]
    count = min(len(views), len(chosen))
    if count < _FEWEST:
        reason = f"{len(views)} views and {len(chosen)} renders, needs {_FEWEST}"
        return {name: Skipped(reason).as_json() for name in DISTANCES}
    # Evenly spread over the sources, not the first ones alone.
    places = np.linspace(0, len(views) - 1, count).round().astype(int)
    made = torch.stack([views[place][0] for place in places])
    scenes = np.array([views[place][1] for place in places])
    names = np.unique(scenes)
    renders = chosen[:count]
    rng = np.random.default_rng(options.seed)
    drawn = [rng.choice(names, len(names)) for _ in range(options.resamples)]
    found: dict[str, Any] = {"compared": count}
    for name in DISTANCES:
        distance = _FUNCTIONS[name]
        values = []
        for resample in drawn:
            rows = np.concatenate([np.flatnonzero(scenes == scene) for scene in resample])
            if len(rows) > 1:
                values.append(distance(made[torch.from_numpy(rows)], renders))
        interval = [float(value) for value in np.quantile(values, (0.025, 0.975))] if values else None
        found[name] = {"mean": distance(made, renders), "ci95": interval}
    return found


def _difference(first: str, second: str, records: Sequence[Record], limit: float | None) -> dict[str, Any]:
    pairs = [
        (one, other, record["scene"])
        for record in records
        for one, other in zip(
            record["answers"].get(first, ()), record["answers"].get(second, ()), strict=False
        )
        if one["reached"] and other["reached"] and _within(one, limit)
    ]
    found: dict[str, Any] = {"views": len(pairs)}
    for metric in METRICS:
        if pairs:
            values = [one[metric] - other[metric] for one, other, _ in pairs]
            found[metric] = bootstrap_mean(values, [scene for _, _, scene in pairs]).as_json()
        else:
            found[metric] = Skipped("no target that both reached").as_json()
    return found


def _within(view: Mapping[str, Any], limit: float | None) -> bool:
    return limit is None or abs(view["target_deg"]) <= limit
