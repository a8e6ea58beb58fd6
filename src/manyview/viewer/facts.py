"""What a page says in words: how a folder came to be, and under which terms. No paths, only names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from manyview.viewer.contents import Contents

Facts = list[tuple[str, str]]


def list_facts(contents: Contents) -> Facts:
    """(name, value) rows: views, seed, licence of the weights, command, scores, counts of what is drawn.

    Seed and licence are always there: where the manifest does not tell, the row says so.
    """
    manifest = contents.manifest
    rows: Facts = [("views", _views(contents))]
    if "command" in manifest:
        rows.append(("made by", str(manifest["command"])))
    if isinstance(manifest.get("input"), str):
        rows.append(("from", PurePath(manifest["input"]).name))
    rows.append(("seeds", _seeds(manifest)))
    rows += _weights(manifest)
    if contents.truth is not None:
        rows.append(("PSNR against truth", _mean_psnr(contents)))
    rows += _scores(contents.metrics)
    rows += _shapes(contents)
    version = manifest.get("versions", {}).get("manyview")
    if version is not None:
        rows.append(("version", f"manyview {version}"))
    if isinstance(manifest.get("seconds"), int | float):
        rows.append(("took", f"{manifest['seconds']:.1f} s"))
    return rows


def _views(contents: Contents) -> str:
    if contents.views is None:
        return "none"
    counts = {status: contents.statuses.count(status) for status in dict.fromkeys(contents.statuses)}
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    height, width = contents.views.size
    lens = contents.views.cameras is not None and contents.views.cameras.distortion is not None
    note = "; lens distortion is not drawn" if lens else ""
    return f"{len(contents.views)} ({parts}), {width} x {height} pixels{note}"


def _seeds(manifest: Mapping[str, Any]) -> str:
    seeds = manifest.get("seeds", manifest.get("seed"))
    if isinstance(seeds, list):
        return ", ".join(str(seed) for seed in seeds)
    return "not recorded" if seeds is None else str(seeds)


def _weights(manifest: Mapping[str, Any]) -> Facts:
    entries = [entry for entry in manifest.get("weights", []) if isinstance(entry, Mapping)]
    if not entries:
        return [("licence", str(manifest.get("licence", "not recorded")))]
    names = ", ".join(PurePath(str(entry.get("name", "?"))).name for entry in entries)
    licences = ", ".join(dict.fromkeys(str(entry.get("licence", "not recorded")) for entry in entries))
    return [("weights", names), ("licence", licences)]


def _mean_psnr(contents: Contents) -> str:
    assert contents.truth is not None, "only called with one"
    made = [
        float(score)
        for score, status in zip(contents.truth.psnr, contents.statuses, strict=True)
        if status != "observed" and math.isfinite(float(score))
    ]
    matched = int(contents.truth.known.sum())
    where = f"{matched} of {len(contents.statuses)} views known, found by {contents.truth.matched_by}"
    return f"{sum(made) / len(made):.2f} dB, mean over {len(made)} made views ({where})" if made else where


def _scores(metrics: Mapping[str, Any]) -> Facts:
    found = metrics.get("metrics", {})
    if not isinstance(found, Mapping):
        return []
    means = {
        name: value.get("mean") if isinstance(value, Mapping) else value for name, value in found.items()
    }
    return [
        (str(name), f"{mean:.4g}")
        for name, mean in means.items()
        if isinstance(mean, int | float) and not isinstance(mean, bool)
    ]


def _shapes(contents: Contents) -> Facts:
    rows: Facts = []
    if contents.splats is not None:
        rows.append(("splats", f"{len(contents.splats):,}"))
    if contents.points is not None:
        rows.append(("points", f"{len(contents.points.positions):,}"))
    if contents.mesh is not None:
        rows.append(("mesh", f"{len(contents.mesh.faces):,} triangles"))
    return rows
