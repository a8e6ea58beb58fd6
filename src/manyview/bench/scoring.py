"""What is measured on an answered question: distances to the true views, and means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyview.metrics.bootstrap import bootstrap_mean
from manyview.metrics.diversity import pixel_std
from manyview.metrics.image import psnr, ssim_skimage
from manyview.metrics.perceptual import load_lpips_vgg, load_stlpips
from manyview.metrics.report import Skipped

MAX_PSNR_DB = 100.0
"""Equal images have infinite PSNR, which no mean survives; they count as this much."""
_SMALLEST_PERCEPTUAL = 32
_CHUNK = 16

Metric = Callable[[Tensor, Tensor], Tensor]
Record = Mapping[str, Any]
"""One scene's numbers: {"scene", "references": [n of each pair], "rows": {row: {metric: [one a pair]}}}."""


def choose_metrics(perceptual: bool, size: int, device: torch.device | str) -> dict[str, Metric | Skipped]:
    """The metrics of a table by name; those that cannot be computed say why."""
    chosen: dict[str, Metric | Skipped] = {"psnr": capped_psnr, "ssim_skimage": ssim_skimage}
    loaders = {"stlpips_vgg": lambda: load_stlpips("vgg"), "lpips_vgg": load_lpips_vgg}
    for name, load in loaders.items():
        if not perceptual:
            chosen[name] = Skipped("not asked for")
        elif size < _SMALLEST_PERCEPTUAL:
            chosen[name] = Skipped(f"needs at least {_SMALLEST_PERCEPTUAL} pixels a side")
        else:
            distance = load()
            chosen[name] = distance if isinstance(distance, Skipped) else _on_device(distance, device)
    return chosen


def capped_psnr(images: Tensor, targets: Tensor) -> Tensor:
    """[N] PSNR in dB, at most `MAX_PSNR_DB`."""
    return psnr(images, targets).clamp(max=MAX_PSNR_DB)


def score(images: Tensor, targets: Tensor, metrics: Mapping[str, Metric | Skipped]) -> dict[str, list[float]]:
    """Every metric that can be computed for P pairs [P, 3, H, W], one number a pair."""
    return {
        name: torch.cat(
            [metric(a, b) for a, b in zip(images.split(_CHUNK), targets.split(_CHUNK), strict=True)]
        ).tolist()
        for name, metric in metrics.items()
        if not isinstance(metric, Skipped)
    }


def spread(samples: Tensor) -> list[float]:
    """For P pairs the deviation over samples [S, P, 3, H, W], mean over the pixels."""
    return [float(pixel_std(samples[:, [pair]]).mean()) for pair in range(samples.shape[1])]


def estimate(
    records: Sequence[Record],
    row_of: Callable[[int], str],
    metrics: Mapping[str, object],
    num_references: int | None = None,
) -> dict[str, Any]:
    """Mean and 95% interval of every metric over the pairs with that many references (all if None); of a
    `Skipped` one its reason.

    `row_of` names the row for a number of references. Pairs weigh alike; objects are resampled whole.
    """
    summary: dict[str, Any] = {}
    for name, metric in metrics.items():
        if isinstance(metric, Skipped):
            summary[name] = metric.as_json()
            continue
        values, scenes = [], []
        for record in records:
            for pair, count in enumerate(record["references"]):
                if num_references in (None, count):
                    values.append(record["rows"][row_of(count)][name][pair])
                    scenes.append(record["scene"])
        summary[name] = bootstrap_mean(values, scenes).as_json()
    return summary


def _on_device(distance: torch.nn.Module, device: torch.device | str) -> Metric:
    moved = distance.to(device)

    def measure(images: Tensor, targets: Tensor) -> Tensor:
        with torch.inference_mode():
            return moved(images.to(device), targets.to(device)).float().cpu()

    return measure
