"""Hi3D's tables on our weights: the orbit with and without its second stage, baselines, and meshes.

    manyview render MESHES --out SCENES --protocol orbit16 --size 256
    python papers/hi3d/table.py --data SCENES --work runs/orbit16 --samples 8 --meshes 0 16 32 48

Runs the protocol `orbit16` and writes <results>/hi3d_orbit16.json (every number) and .md, and the tables in
the method's page. Every finished answer is kept in <work>, so a stopped run goes on, and a later one with
more scenes, rows or meshes computes only what is new. A table that is there is replaced with --force. With
`--beside NAME` the files have that name too, and the table a place of its own in the page: for what is slow
and measured on fewer objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.bench.orbit16_options import (
    BEST_MESH,
    COARSE,
    HEADLINE,
    NAMES,
    NO_DEPTH,
    OPPONENT,
    UPSCALED,
    Orbit16Options,
    mesh_name,
)
from manyview.bench.orbit16_run import evaluate_orbit16
from manyview.bench.pages import (
    estimate_cell,
    number_cell,
    open_page,
    shown_command,
    standing,
    table_line,
    table_row,
)
from manyview.bench.script_flags import add_run_flags, add_table_flags, add_work_flag, publish
from manyview.cli.flags import check_output, check_range, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.manifest import write_json
from manyview.methods.hi3d import spec

ROOT = Path(__file__).resolve().parents[2]
STEM = "hi3d_orbit16"
BEGIN = "<!-- measured: written by papers/hi3d/table.py -->"
END = "<!-- end of measured -->"
BEGIN_BESIDE = "<!-- measured beside, {}: written by papers/hi3d/table.py -->"
END_BESIDE = "<!-- end of measured beside, {} -->"
LABELS: dict[str, str] = {
    HEADLINE: "Hi3D",
    COARSE: "without refinement, enlarged bicubically",
    UPSCALED: "without refinement, enlarged by a network (Swin2SR)",
    NO_DEPTH: "refined without depth",
    OPPONENT: "one-to-one model, 15 times",
    "copy_input": "copy of the input",
    "mean_of_truth": "mean of all true views (oracle)",
}
# Decimals, and whether more is better.
METRICS = {
    "psnr": (2, True),
    "ssim_skimage": (3, True),
    "stlpips_vgg": (3, False),
    "lpips_vgg": (3, False),
    "neighbour_mae": (4, False),
    "seam_ratio": (2, False),
    "seam_to_first": (2, False),
}
MESH_METRICS = {"chamfer_mean": (4, False), "chamfer_visible_mean": (4, False), "volume_iou_64": (3, True)}
_COMPARED = ("psnr", "stlpips_vgg", "neighbour_mae")
_PAPER_OF = {"ssim_skimage": "ssim", "lpips_vgg": "lpips"}
# What single samples and the mean of several have to reach, in dB.
GOALS = {"a single sample": 19.5, "the mean of the samples": 20.5}


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "scenes of the protocol orbit16")
    add_work_flag(parser)
    add_table_flags(parser, ROOT / "docs" / "hi3d.md")
    parser.add_argument("--one2one", default="compact", help="weights of the one-to-one model")
    parser.add_argument("--upscaler", help="a Swin2SR to twice the size, by folder or hub id, for its row")
    parser.add_argument("--inputs", type=int, default=1, help="different inputs an object")
    parser.add_argument("--samples", type=int, default=1, help="orbits a question, of Hi3D's first two rows")
    parser.add_argument("--only", nargs="*", choices=NAMES, help="only these rows")
    parser.add_argument("--meshes", type=int, nargs="*", default=[], help="numbers of views between")
    parser.add_argument("--size", type=int, help="pixels a side of the comparison; as the weights make")
    parser.add_argument("--beside", metavar="NAME", help="a table of its own, under this name")
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--every", given.every, 1, 10**6)
        check_range("--size", given.size, 8, 8192)
        stem, marks = place_of(given.beside)
        page = open_page(given.page, *marks, "Hi3D")
        check_output(given.results / f"{stem}.json", allowed=given.force)
        report = evaluate_orbit16(
            HEADLINE,
            given.data,
            given.work / f"{stem}.json",
            Orbit16Options(
                num_inputs=given.inputs,
                only=given.only,
                meshes=given.meshes,
                num_samples=given.samples,
                upscaler=given.upscaler,
                seed=given.seed,
            ),
            weights=given.weights,
            one2one=given.one2one,
            limit=given.limit,
            every=given.every,
            device=torch_device(given.device),
            dtype=torch_dtype(given.dtype),
            size=given.size,
            perceptual=not given.no_perceptual,
            keep=True,
            force=True,
            progress=TerminalProgress(),
        )
        folders = (given.data, given.work, given.results, given.page, given.weights, given.one2one)
        folders = (*folders, given.upscaler) if given.upscaler else folders
        typed = sys.argv[1:] if words is None else words
        command = shown_command("papers/hi3d/table.py", typed, folders)
        text = write_tables(report, command, goals=given.beside is None)
        write_json(given.results / f"{stem}.json", report)
        publish(given, stem, "Hi3D under the protocol orbit16", page, marks, text, text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def place_of(beside: str | None) -> tuple[str, tuple[str, str]]:
    """Name of the files, and the marks of the place in the page. Raises `InputError` for no plain name."""
    if beside is None:
        return STEM, (BEGIN, END)
    if not beside.isidentifier():
        raise InputError("--beside", beside, "expected letters, digits and underscores")
    return f"{STEM}_{beside}", (BEGIN_BESIDE.format(beside), END_BESIDE.format(beside))


def write_tables(report: Mapping[str, Any], command: str, *, goals: bool = True) -> str:
    """What was done, the tables, and what can be read off them; `goals`: whether the levels to be reached
    are, which few objects cannot say."""
    weights = report["weights"]
    rows = rows_of(report)
    lines = [
        f"Measured by `{command}`: {report['scenes']} objects of `{report['data']}`, {report['pairs']} image"
        f" pairs, {report['resolution']} px, {report['dtype']}, seed {report['seed']}, weights"
        f" {Path(weights['name']).name} (sha256 {str(weights['sha256'])[:12]}...), torch"
        f" {report['versions'].get('torch', '?')}, {report['seconds'] / 60:.0f} minutes on"
        f" {report['device']}.",
        "Brackets: 95% interval from resampling whole objects. Gain: PSNR of the first row less this row's,"
        " view by view. neighbour_mae: mean absolute difference of made and true changes from a view to the"
        " next; seam_ratio: the made change from the last view to the first over that between other"
        " neighbours; seam_to_first: over that from the first view to the second, which joins a made view to"
        " the given picture as well. Seconds: one orbit, everything included. The paper's rows are its own"
        " (30 GSO objects at 1024 px) and are not comparable number by number.",
        "",
        *_view_table(report, rows),
        *_distance_table(rows),
        *_mesh_table(rows),
        "",
        *claims(report, goals=goals),
    ]
    notes = {**{name: row for name, row in report["rows"].items() if "skipped" in row}, **report["metrics"]}
    lines += [
        f"- {name}: skipped, {value['skipped']}." for name, value in notes.items() if "skipped" in value
    ]
    for name, row in rows.items():
        if row["failed"]:
            scenes = sorted({one["scene"] for one in row["failed"]})
            lines.append(
                f"- {name}: {len(row['failed'])} without a surface ({', '.join(scenes)}) and are left out."
            )
    return "\n".join(lines) + "\n"


def rows_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All rows that have numbers, the one that counts first."""
    others = {name: row for name, row in report["rows"].items() if "metrics" in row}
    return {report["method"]: report, **others}


def claims(report: Mapping[str, Any], *, goals: bool = True) -> list[str]:
    """What the issue and the paper claim, in words, by the intervals of differences and means."""
    found = []
    rows = rows_of(report)
    first = _label(report["method"])
    for metric in _COMPARED:
        less = {
            _label(name): row["difference"][metric]
            for name, row in report["rows"].items()
            if "mean" in row.get("difference", {}).get(metric, {})
        }
        words = standing(less, METRICS[metric][1])
        if words:
            found.append(f"- {metric}: {first} is {words}.")
    less = report.get("no_depth_less_coarse", {}).get("psnr", {})
    if "mean" in less:
        words = standing({LABELS[COARSE]: less}, True)
        found.append(f"- psnr: {LABELS[NO_DEPTH]} is {words} ({estimate_cell(less, 2)} dB).")
    mean = next((report[key] for key in report if key.startswith("mean_of_")), {})
    for (what, goal), scores in zip(GOALS.items(), (report["metrics"], mean), strict=True):
        if goals and report["method"] in (HEADLINE, COARSE) and "mean" in scores.get("psnr", {}):
            level = scores["psnr"]["mean"]
            verdict = "reached" if level >= goal else "not reached"
            found.append(f"- PSNR of {what}: {level:.2f} dB; {goal} dB {verdict}.")
    seam, true = report["metrics"].get("seam_ratio", {}), report["truth"]["seam_ratio"]
    if "mean" in seam:
        low = (seam["ci95"] or [seam["mean"]])[0]
        verdict = "larger than" if low > 1 else "no larger than"
        beside = f" (true views: {estimate_cell(true, 2)})" if "mean" in true else ""
        found.append(
            f"- The seam's change is {verdict} that between other neighbours: {estimate_cell(seam, 2)}"
            f" times it{beside}, and {estimate_cell(report['metrics']['seam_to_first'], 2)} times that from"
            " the first view to the second."
        )
    best = mesh_name(BEST_MESH)
    if best in rows:
        for metric, (_, better) in MESH_METRICS.items():
            less = {
                f"M = {name.removeprefix('mesh_')}": row["difference"][metric]
                for name, row in rows.items()
                if name.startswith("mesh_") and metric in row.get("difference", {})
            }
            words = standing(less, better)
            if words:
                found.append(f"- {metric}: M = {BEST_MESH} is {words}.")
    return found


def _view_table(report: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    named = {name: row for name, row in rows.items() if "psnr" in row["metrics"]}
    if not named:
        return []
    shown = [
        name
        for name in METRICS
        if name == "lpips_vgg" or any("mean" in row["metrics"].get(name, {}) for row in named.values())
    ]
    lines = [
        table_line(["", *shown, "gain, dB", "s"]),
        table_line(["---", *["---:"] * (len(shown) + 2)]),
    ]
    for name, numbers in spec.PAPER_RESULTS.items():
        cells = [number_cell(numbers.get(_PAPER_OF.get(one, one)), METRICS[one][0]) for one in shown]
        lines.append(table_line([f"paper: {name}", *cells, "", ""]))
    for name in sorted(named, key=_place):
        row, label = named[name], _label(name)
        cells = [label, *(_cell(row["metrics"], one, METRICS) for one in shown)]
        cells.append(_cell(row.get("difference", {}), "psnr", METRICS) if "difference" in row else "")
        lines.append(
            table_row([*cells, f"{row['seconds_an_answer']['mean']:.1f}"], bold=name == report["method"])
        )
        for key in row:
            if key.startswith("mean_of_"):
                cells = [_cell(row[key], one, METRICS) for one in shown]
                lines.append(table_line([f"{label}: {key.replace('_', ' ')} samples", *cells, "", ""]))
    return lines


def _distance_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    named = {name: row["by_distance"] for name, row in rows.items() if "by_distance" in row}
    if not named:
        return []
    angles = list(next(iter(named.values())))
    lines = [
        "",
        "PSNR by distance from the input, degrees:",
        "",
        table_line(["", *angles]),
        table_line(["---", *["---:"] * len(angles)]),
    ]
    for name in sorted(named, key=_place):
        label, parts = _label(name), named[name]
        lines.append(table_line([label, *(number_cell(parts[a]["psnr"]["mean"], 2) for a in angles)]))
        for key in parts[angles[0]]:
            if key.startswith("mean_of_"):
                cells = [number_cell(parts[a][key]["psnr"]["mean"], 2) for a in angles]
                lines.append(table_line([f"{label}: {key.replace('_', ' ')} samples", *cells]))
            if key == "pixel_std":
                cells = [number_cell(parts[a][key]["mean"], 3) for a in angles]
                lines.append(table_line([f"{label}: deviation over samples", *cells]))
    return lines


def _mesh_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    named = {name: row for name, row in rows.items() if "meshes" in row}
    if not named:
        return []
    lines = [
        "",
        "Meshes, M views of splats between the orbit's own; the paper's Chamfer distance is taken for the one"
        " of SyncDreamer's script, of visible points:",
        "",
        table_line(["", *MESH_METRICS, "objects"]),
        table_line(["---", *["---:"] * (len(MESH_METRICS) + 1)]),
    ]
    papers = {f"paper: {name}": numbers for name, numbers in spec.PAPER_MESHES.items() if name != HEADLINE}
    papers |= {f"paper: hi3d, M = {count}": numbers for count, numbers in spec.PAPER_INTERPOLATION.items()}
    for label, numbers in papers.items():
        cells = [label, "-", number_cell(numbers["chamfer"], 4), number_cell(numbers["iou"], 4), ""]
        lines.append(table_line(cells))
    for name, row in named.items():
        label = f"M = {name.removeprefix('mesh_')}" if name.startswith("mesh_") else _label(name)
        cells = [_cell(row["metrics"], one, MESH_METRICS) for one in MESH_METRICS]
        lines.append(table_row([label, *cells, str(row["meshes"])], bold=name == mesh_name(BEST_MESH)))
    return lines


def _cell(scores: Mapping[str, Any], name: str, digits: Mapping[str, tuple[int, bool]]) -> str:
    return estimate_cell(scores.get(name), digits[name][0])


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _place(name: str) -> int:
    return list(LABELS).index(name) if name in LABELS else -1


if __name__ == "__main__":
    sys.exit(main())
