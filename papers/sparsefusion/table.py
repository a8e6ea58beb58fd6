"""SparseFusion's table on our weights: 2, 3 and 6 inputs, the method's parts and the baselines in one run.

    manyview render MESHES --out SCENES --protocol orbit32 --size 256
    python papers/sparsefusion/table.py --data SCENES --work runs/fewview

Runs the protocol `fewview` and writes <results>/sparsefusion_fewview.json (every number) and .md, and the
table in the method's page. Every finished answer is kept in <work>, so a stopped run goes on, and a later
one with more scenes or rows computes only what is new. A table that is there is replaced with --force.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.bench.fewview_options import COUNTS, HEADLINE, NAMES, NUM_SCORED, RAY_ROWS, FewviewOptions
from manyview.bench.fewview_run import evaluate_fewview
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
from manyview.methods.sparsefusion import spec

ROOT = Path(__file__).resolve().parents[2]
STEM = "sparsefusion_fewview"
BEGIN = "<!-- measured: written by papers/sparsefusion/table.py -->"
END = "<!-- end of measured -->"
LABELS: dict[str, str] = {
    HEADLINE: "SparseFusion (field)",
    "eft": "EFT alone",
    "vldm": "diffusion alone (VLDM)",
    "pixelnerf": "regressor after PixelNeRF",
    "field_fit": "field fitted to the inputs",
    "splats_fit": "splats fitted to the inputs",
    "copy_nearest": "copy of the nearest input",
    "mean_of_inputs": "mean of the inputs",
}
# Decimals, and whether more is better.
METRICS = {"psnr": (2, True), "ssim_skimage": (3, True), "stlpips_vgg": (3, False), "lpips_vgg": (3, False)}


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "scenes of the protocol orbit32")
    add_work_flag(parser)
    add_table_flags(parser, ROOT / "docs" / "sparsefusion.md")
    parser.add_argument("--regressor", default="compact", help="weights of the regressor")
    parser.add_argument("--inputs", type=int, nargs="+", default=list(COUNTS), help="numbers of inputs")
    parser.add_argument("--scored", type=int, default=NUM_SCORED, help="frames scored an object")
    parser.add_argument("--rows", type=int, default=RAY_ROWS, help="rays a side of EFT and regressor")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="only these rows")
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--every", given.every, 1, 10**6)
        page = open_page(given.page, BEGIN, END, "SparseFusion")
        check_output(given.results / f"{STEM}.json", allowed=given.force)
        report = evaluate_fewview(
            HEADLINE,
            given.data,
            given.work / f"{STEM}.json",
            FewviewOptions(
                counts=given.inputs,
                num_scored=given.scored,
                only=given.only,
                ray_rows=given.rows,
                seed=given.seed,
            ),
            weights=given.weights,
            regressor=given.regressor,
            limit=given.limit,
            every=given.every,
            device=torch_device(given.device),
            dtype=torch_dtype(given.dtype),
            perceptual=not given.no_perceptual,
            keep=True,
            force=True,
            progress=TerminalProgress(),
        )
        folders = (given.data, given.work, given.results, given.page, given.weights, given.regressor)
        typed = sys.argv[1:] if words is None else words
        text = write_table(report, shown_command("papers/sparsefusion/table.py", typed, folders))
        write_json(given.results / f"{STEM}.json", report)
        publish(given, STEM, "SparseFusion under the protocol fewview", page, (BEGIN, END), text, text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def write_table(report: Mapping[str, Any], command: str) -> str:
    """What was done, one table a number of inputs, and what can be read off them."""
    weights = report["weights"]
    scored = {len(frames["scored"]) for frames in report["frames"].values()}
    lines = [
        f"Measured by `{command}`: {report['scenes']} objects of `{report['data']}`, {_listed(scored)} views"
        f" of each scored, {report['pairs']} image pairs, {report['resolution']} px, pictures of EFT and"
        f" regressor from {report['ray_rows']} x {report['ray_rows']} rays, {report['dtype']}, seed"
        f" {report['seed']}, weights {weights['name']} (sha256 {str(weights['sha256'])[:12]}...), torch"
        f" {report['versions'].get('torch', '?')}, {report['seconds'] / 60:.0f} minutes on"
        f" {report['device']}.",
        "Brackets: 95% interval from resampling whole objects. Gain: PSNR of the first row less this row's,"
        " view by view. Seconds: an object's scored views, everything included. The paper's rows are its own"
        " (CO3D at 256 px, one model a category, given frames scored as well) and are not comparable number"
        " by number.",
    ]
    for count, part in report["by_references"].items():
        lines += ["", f"**{count} input{'s' if count != '1' else ''}** ({part['pairs']} pairs)", ""]
        rows = {report["method"]: part} | {
            name: row["by_references"][count]
            for name, row in report["rows"].items()
            if count in row.get("by_references", {})
        }
        shown = [name for name in METRICS if "mean" in part.get(name, {}) or name == "lpips_vgg"]
        lines += [
            table_line(["", *shown, "gain, dB", "s"]),
            table_line(["---", *["---:"] * (len(shown) + 2)]),
        ]
        for name, numbers in spec.PAPER_RESULTS.get(int(count), {}).items():
            cells = [number_cell(numbers.get(metric), METRICS[metric][0]) for metric in shown]
            lines.append(table_line([f"paper: {name}", *cells, "", ""]))
        for name in sorted(rows, key=_place):
            lines.append(_row(_label(name), rows[name], shown, bold=name == report["method"]))
    lines += ["", *claims(report)]
    notes = {**{name: row for name, row in report["rows"].items() if "skipped" in row}, **report["metrics"]}
    lines += [
        f"- {name}: skipped, {value['skipped']}." for name, value in notes.items() if "skipped" in value
    ]
    for name, row in {report["method"]: report, **report["rows"]}.items():
        if row.get("failed"):
            scenes = sorted({one["scene"] for one in row["failed"]})
            lines.append(
                f"- {_label(name)}: {len(row['failed'])} fits found nothing"
                f" ({', '.join(scenes)}) and count as white."
            )
    return "\n".join(lines) + "\n"


def claims(report: Mapping[str, Any]) -> list[str]:
    """Whether the first row is ahead of every other one, in words, by the intervals of the differences."""
    found = []
    for metric in ("psnr", "stlpips_vgg"):
        better = METRICS[metric][1]
        for count, part in report["by_references"].items():
            if "mean" not in part.get(metric, {}):
                continue
            less = {
                _label(name): row["by_references"][count]["difference"][metric]
                for name, row in report["rows"].items()
                if metric in row.get("by_references", {}).get(count, {}).get("difference", {})
            }
            words = standing(less, better)
            if words:
                found.append(f"- {metric}, {count} inputs: {words}.")
    return found


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _place(name: str) -> int:
    return list(LABELS).index(name) if name in LABELS else -1


def _row(label: str, values: Mapping[str, Any], shown: Sequence[str], bold: bool = False) -> str:
    cells = [label, *(estimate_cell(values.get(name), METRICS[name][0]) for name in shown)]
    cells.append(estimate_cell(values.get("difference", {}).get("psnr"), 2) if "difference" in values else "")
    cells.append(f"{values['seconds']['mean']:.1f}")
    return table_row(cells, bold)


def _listed(numbers: set[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


if __name__ == "__main__":
    sys.exit(main())
