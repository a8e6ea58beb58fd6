"""Table 1 of DiMViS on our weights: 1, 2 and 3 references, baselines in the same run.

    python papers/dimvis/table_1.py --data DATASET

DATASET: test objects rendered by `manyview render MESH... --protocol orbit16 --engine cycles --size 256`.
Writes <results>/dimvis_orbit4.json (every number) and <results>/dimvis_orbit4.md (the tables), and puts the
tables into the method's page. A stopped run goes on where it was; one that is done is scored again with
--force.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.bench.pages import estimate_cell, fill_place, number_cell, shown_command, table_line, table_row
from manyview.bench.run import evaluate
from manyview.bench.script_flags import add_run_flags
from manyview.cli.flags import torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.methods.dimvis import spec as dimvis
from manyview.methods.one2one import spec as one2one
from manyview.sampling.solvers import SOLVERS

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- measured: written by papers/dimvis/table_1.py -->"
END = "<!-- end of measured -->"
NAMES = {
    "one2one": "one-to-one model, nearest reference",
    "copy_nearest": "copy of the nearest reference",
    "mean_of_references": "mean of the references",
    "all_white": "all white",
}
METRICS = {"psnr": 2, "ssim_skimage": 3, "stlpips_vgg": 3, "lpips_vgg": 3}


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "data set of test objects")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "dimvis.md", help="page to put it in")
    parser.add_argument("--one2one", default="compact", help="weights of the one-to-one model")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument("--solver", default="ddim", choices=SOLVERS)
    parser.add_argument("--samples", type=int, default=8, help="answers whose mean is scored as well")
    parser.add_argument("--batch", type=int, default=8, help="view sets at once")
    parser.add_argument("--no-perceptual", action="store_true", help="leave out stlpips_vgg and lpips_vgg")
    given = parser.parse_args(words)
    silence_loading()
    try:
        page = given.page.read_text(encoding="utf-8")
        if page.count(BEGIN) != 1 or page.count(END) != 1:
            raise InputError("--page", str(given.page), "has no place for the tables")
        report = evaluate(
            "dimvis",
            given.data,
            "orbit4",
            given.results / "dimvis_orbit4.json",
            weights=given.weights,
            one2one=given.one2one,
            num_steps=given.steps,
            solver=given.solver,
            num_samples=given.samples,
            limit=given.limit,
            seed=given.seed,
            batch_size=given.batch,
            device=torch_device(given.device),
            dtype=torch_dtype(given.dtype),
            perceptual=not given.no_perceptual,
            force=given.force,
            progress=TerminalProgress(),
        )
        folders = (given.data, given.results, given.page, given.weights, given.one2one)
        typed = sys.argv[1:] if words is None else words
        text = write_tables(report, shown_command("papers/dimvis/table_1.py", typed, folders))
        title = "# DiMViS under the protocol orbit4\n\n"
        write_text_atomic(given.results / "dimvis_orbit4.md", title + text)
        write_text_atomic(given.page, fill_place(page, BEGIN, END, text))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def write_tables(report: Mapping[str, Any], command: str) -> str:
    """What was done, one table a number of references, and what can be read off them."""
    weights, rows = report["weights"], report["rows"]
    lines = [
        f"Measured by `{command}`: {report['scenes']} objects of `{report['data']}`, {report['pairs']} image"
        f" pairs, {report['resolution']} px, {report['steps']} steps of {report['solver']},"
        f" {report['dtype']}, seed {report['seed']}, weights {weights['name']} (sha256"
        f" {weights['sha256'][:12]}...), torch {report['versions'].get('torch', '?')},"
        f" {report['seconds'] / 60:.0f} minutes on {report['device']}.",
        "Brackets: 95% interval from resampling whole objects. The guidance that counts was chosen on"
        " validation objects. The paper's rows are its own (256 px, a full-size network, its 30 objects,"
        " the better of guidance 1 and 3 on the test objects) and are not comparable number by number.",
    ]
    for count, part in report["by_references"].items():
        lines += ["", f"**{count} reference{'s' if count != '1' else ''}** ({part['pairs']} pairs)", ""]
        shown = [name for name in METRICS if "mean" in part.get(name, {}) or name == "lpips_vgg"]
        lines += [table_line(["", *shown]), table_line(["---", *["---:"] * len(shown)])]
        for label, paper in (("DiMViS", dimvis.PAPER_RESULTS), ("Zero123-XL", one2one.PAPER_RESULTS)):
            if int(count) in paper:
                numbers = {**paper[int(count)], "ssim_skimage": paper[int(count)]["ssim"]}
                name = f"{label}, as the paper reports it (guidance {numbers['guidance']:g})"
                lines.append(
                    table_line(
                        [name, *(number_cell(numbers.get(metric), METRICS[metric]) for metric in shown)]
                    )
                )
        lines.append(_row(f"ours, one sample (guidance {part['guidance']:g})", part, shown, bold=True))
        for key in sorted(key for key in part if key.startswith("guidance_")):
            lines.append(_row(f"ours, guidance {key.removeprefix('guidance_')}", part[key], shown))
        for key in (key for key in part if key.startswith("mean_of_")):
            lines.append(_row(f"ours, mean of {key.removeprefix('mean_of_')} samples", part[key], shown))
        for name, label in NAMES.items():
            if count in rows.get(name, {}).get("by_references", {}):
                lines.append(_row(label, rows[name]["by_references"][count], shown))
    lines += ["", *claims(report)]
    skipped = {**{k: v for k, v in rows.items() if "skipped" in v}, **report["metrics"]}
    lines += [f"- {name}: skipped, {v['skipped']}." for name, v in skipped.items() if "skipped" in v]
    return "\n".join(lines) + "\n"


def claims(report: Mapping[str, Any]) -> list[str]:
    """What the tables show, said in words and checked by the numbers."""
    parts = list(report["by_references"].values())
    psnr = [part["psnr"] for part in parts]
    found = []
    if all(value["ci95"] for value in psnr) and len(psnr) > 1:
        apart = all(a["ci95"][1] < b["ci95"][0] for a, b in itertools.pairwise(psnr))
        found.append(
            "- PSNR rises with every reference, and the intervals "
            + ("do not overlap." if apart else "overlap, or it does not rise.")
        )
    below = [
        f"{NAMES[name]} at {count}"
        for name in NAMES
        for count, part in report["by_references"].items()
        if count in report["rows"].get(name, {}).get("by_references", {})
        and part["psnr"]["mean"] <= report["rows"][name]["by_references"][count]["psnr"]["mean"]
    ]
    found.append(
        "- Single samples are above every baseline at every number of references in mean PSNR."
        if not below
        else f"- Single samples are not above: {', '.join(below)}."
    )
    spread = [part["pixel_std"]["mean"] for part in parts if "pixel_std" in part]
    if spread:
        falls = all(a > b for a, b in itertools.pairwise(spread))
        numbers = ", ".join(f"{value:.4f}" for value in spread)
        found.append(
            f"- Deviation per pixel over samples, by number of references: {numbers}"
            f" ({'falls' if falls else 'does not fall'})."
        )
    return found


def _row(label: str, values: Mapping[str, Any], shown: Sequence[str], bold: bool = False) -> str:
    return table_row([label, *(estimate_cell(values.get(name), METRICS[name]) for name in shown)], bold)


if __name__ == "__main__":
    sys.exit(main())
