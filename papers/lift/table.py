"""How good and how fast the lifts are on scanned objects, by the public command alone.

    manyview render MESHES --out SCENES --protocol orbit32 --size 256
    python papers/lift/table.py --data SCENES --work runs

Runs `manyview reconstruct SCENE --to KIND` for every scene (16 views fitted, 16 between them at elevations 15
to 45 degrees held out; the true mesh known), one command after the other, and gathers their metrics.json into
<results>/lift.json and .md. What is done already is kept, so a stopped run goes on. Seconds are those of the
fits on this machine while it did nothing else that the caller started.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.manifest import read_json, versions, write_json
from manyview.io.scene import list_scenes
from manyview.metrics.bootstrap import bootstrap_mean

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {
    "psnr": ("PSNR, dB", 2),
    "ssim_skimage": ("SSIM", 3),
    "chamfer_mean": ("Chamfer", 4),
    "chamfer_visible_mean": ("Chamfer, visible", 4),
    "volume_iou_64": ("IoU", 3),
    "f_score_0.01": ("F-score at 0.01", 3),
    "normal_consistency": ("normals", 3),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run, gather, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="scenes of the protocol orbit32")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--kinds", nargs="+", default=["splats", "field", "mesh"])
    parser.add_argument("--limit", type=int, help="only the first scenes, this many")
    parser.add_argument("--every", type=int, default=1, help="every so many scenes")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--name", default="lift", help="stem of the result files")
    parser.add_argument("flags", nargs="*", help="further flags of manyview reconstruct, after --")
    given = parser.parse_args(words)
    try:
        scenes = list_scenes(given.data)[:: given.every][: given.limit]
        rows = {kind: [run(scene, kind, given) for scene in scenes] for kind in given.kinds}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {
        "scenes": [scene.name for scene in scenes],
        "flags": given.flags,
        "machine": platform.machine(),
        "versions": versions(),
        "rows": {kind: summarize(records, scenes) for kind, records in rows.items()},
        "by_scene": {
            kind: {scene.name: short(record) for scene, record in zip(scenes, records, strict=True)}
            for kind, records in rows.items()
        },
    }
    text = write_table(report)
    write_json(given.results / f"{given.name}.json", report)
    write_text_atomic(given.results / f"{given.name}.md", text)
    print(text)
    return 0


def run(scene: Path, kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """metrics.json of one command; nothing is run where it is there already."""
    out = given.work / kind / scene.name
    if not (out / "metrics.json").is_file():
        command = [sys.executable, "-m", "manyview.cli", "reconstruct", str(scene), "--to", kind]
        command += ["--out", str(out), "--turntable", "0", "--resume", *given.flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise InputError(scene.name, f"exit code {done.returncode}", done.stderr.strip().splitlines()[-1])
        print(f"{kind} {scene.name} done", file=sys.stderr, flush=True)
    return read_json(out / "metrics.json")


def short(record: dict[str, Any]) -> dict[str, Any]:
    """The scores and seconds of one scene."""
    scores = {name: record["metrics"][name]["mean"] for name in COLUMNS if name in record["metrics"]}
    return {
        **scores,
        "fitted_psnr": record["fitted"]["metrics"]["psnr"]["mean"],
        "seconds": record["seconds"],
    }


def summarize(records: list[dict[str, Any]], scenes: list[Path]) -> dict[str, Any]:
    """Means over scenes with intervals from resampling them, and the seconds of the fits."""
    names = [scene.name for scene in scenes]
    found: dict[str, Any] = {}
    for name in COLUMNS:
        if all(name in record["metrics"] for record in records):
            found[name] = bootstrap_mean([r["metrics"][name]["mean"] for r in records], names)
    seconds = [sum(record["seconds"].values()) for record in records]
    found["seconds"] = {"median": statistics.median(seconds), "most": max(seconds)}
    return found


def write_table(report: dict[str, Any]) -> str:
    """One row a kind."""
    heads = ["", *(head for head, _ in COLUMNS.values()), "seconds an object, median (most)"]
    flags = f", `{' '.join(report['flags'])}`" if report["flags"] else ""
    lines = [
        "# Lifts of scanned objects\n",
        f"`python papers/lift/table.py`{flags}: {len(report['scenes'])} objects, 16 fitted views at elevation"
        " 30 and 16 held-out views between them at elevations 15 to 45, lengths in units of the longest side,"
        " means over objects with 95% intervals from resampling them.\n",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for kind, row in report["rows"].items():
        cells = [kind]
        for name, (_, digits) in COLUMNS.items():
            value = row.get(name)
            if value is None:
                cells.append("")
                continue
            low, high = value.ci95 if value.ci95 is not None else (value.mean, value.mean)
            cells.append(f"{value.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        cells.append(f"{row['seconds']['median']:.0f} ({row['seconds']['most']:.0f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
