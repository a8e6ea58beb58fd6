"""TUNet's tables on our weights: with and without its parts and fusions, baselines, and the spectrum.

    manyview render MESHES --out SCENES --protocol orbit16 --size 256
    python papers/tunet/table.py --data SCENES --work runs/pair --variants
    full_short=runs/tunet_full_short/export \
        no_cross_attention=runs/tunet_no_cross_attention/export concat=runs/tunet_concat/export

Runs the protocol `pair` and writes <results>/tunet_pair.json (every number) and .md, the spectrum as
<images>/tunet_spectrum.png, and the tables in the method's page. Every finished answer is kept in <work>, so
a stopped run goes on, and a later one with more scenes or rows computes only what is new. A table that is
there is replaced with --force.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from manyview.bench.pages import (
    estimate_cell,
    number_cell,
    open_page,
    shown_command,
    standing,
    table_line,
    table_row,
)
from manyview.bench.pair_options import (
    COPY,
    FEATURES,
    HEADLINE,
    MEAN_ONLY,
    NAMES,
    OPPONENT,
    ORACLE,
    VARIANTS,
    WARP,
    PairOptions,
    parse_variants,
)
from manyview.bench.pair_run import evaluate_pair
from manyview.bench.script_flags import add_run_flags, add_table_flags, add_work_flag, publish
from manyview.cli.flags import check_output, check_range, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import writing_file
from manyview.io.manifest import write_json
from manyview.methods.tunet import spec

ROOT = Path(__file__).resolve().parents[2]
STEM = "tunet_pair"
PLOT = "tunet_spectrum.png"
BEGIN = "<!-- measured: written by papers/tunet/table.py -->"
END = "<!-- end of measured -->"
LABELS: dict[str, str] = {
    HEADLINE: "TUNet, fusion selected",
    MEAN_ONLY: "no fusion: the translated mean",
    "fusion_a": "fusion A",
    "fusion_b": "fusion B",
    ORACLE: "candidate nearest to the truth (oracle)",
    "full_short": "full, trained as briefly as the next two",
    "no_cross_attention": "no cross-attention",
    "concat": "cameras beside the input alone (concat)",
    OPPONENT: "one-to-one model",
    WARP: "pixels moved by estimated depth",
    COPY: "copy of the reference",
}
# Decimals, and whether more is better.
METRICS: dict[str, tuple[int, bool]] = {
    "psnr": (2, True),
    "ssim_skimage": (3, True),
    "stlpips_vgg": (3, False),
    "lpips_vgg": (3, False),
    "frechet_compact_encoder": (3, False),
    "kid_compact_encoder": (4, False),
    "frechet_stvgg16": (2, False),
    "kid_stvgg16": (4, False),
    "hf_power_025": (5, True),
}
_PAPER_OF = {"ssim_skimage": "ssim", "lpips_vgg": "lpips"}
GOAL_PSNR = 19.0
MOST_LOST = 0.5
"""dB that fusion may lose to the mean alone."""
SHOWN_SPECTRA = ("truth", MEAN_ONLY, "fusion_a", "fusion_b", HEADLINE)
_COLORS = ((30, 30, 30), (214, 96, 77), (67, 147, 195), (26, 152, 80), (118, 42, 131))


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "renders, or ordered captures")
    add_work_flag(parser)
    add_table_flags(parser, ROOT / "docs" / "tunet.md")
    parser.add_argument("--one2one", default="compact", help="weights of the one-to-one model")
    parser.add_argument("--variants", nargs="*", default=[], help="name=folder of " + ", ".join(VARIANTS))
    parser.add_argument("--depth-net", type=Path, help="of the row that moves pixels; Hi3D's compact one")
    parser.add_argument("--inputs", type=int, default=1, help="different references an object")
    parser.add_argument("--split", default="all", help="all, 90-5-5 or 1-of-99")
    parser.add_argument("--features", nargs="*", default=list(FEATURES[:1]), choices=FEATURES)
    parser.add_argument("--only", nargs="*", choices=NAMES, help="only these rows")
    parser.add_argument("--size", type=int, help="pixels a side of the comparison; as the weights make")
    parser.add_argument("--perceptual-size", type=int, help="of the perceptual figures, where another")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="for the spectrum")
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--every", given.every, 1, 10**6)
        check_range("--size", given.size, 8, 8192)
        variants = parse_variants(given.variants)
        page = open_page(given.page, BEGIN, END, "TUNet")
        check_output(given.results / f"{STEM}.json", allowed=given.force)
        report = evaluate_pair(
            HEADLINE,
            given.data,
            given.work / f"{STEM}.json",
            PairOptions(
                num_inputs=given.inputs,
                split=given.split,
                only=given.only,
                variants=variants,
                depth_net=given.depth_net,
                features=given.features,
                perceptual_size=given.perceptual_size,
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
        folders = [given.data, given.work, given.results, given.page, given.images, given.weights]
        folders += [given.one2one, *([given.depth_net] if given.depth_net else [])]
        typed = [_shown(word, variants) for word in (sys.argv[1:] if words is None else words)]
        text = write_tables(report, shown_command("papers/tunet/table.py", typed, folders))
        plot = draw_spectra(report)
        with writing_file(given.images / PLOT) as path:
            plot.save(path, format="PNG", optimize=True)
        place = os.path.relpath(given.images / PLOT, given.page.parent)
        picture = f"![Power by spatial frequency]({place})\n\n{spectrum_words(report)}\n"
        write_json(given.results / f"{STEM}.json", report)
        shown = f"{text}\n{picture}"
        publish(given, STEM, "TUNet under the protocol pair", page, (BEGIN, END), text, shown)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def write_tables(report: Mapping[str, Any], command: str) -> str:
    """What was done, the tables, and what can be read off them."""
    weights = report["weights"]
    name = Path(weights["name"]).name if weights["name"] else "none"
    seen = report["perceptual_resolution"]
    at = "" if seen == report["resolution"] else f" (perceptual figures at {seen} px)"
    lines = [
        f"Measured by `{command}`: {report['scenes']} objects of `{report['data']}`, {report['pairs']} image"
        f" pairs, {report['resolution']} px{at}, {report['dtype']}, seed {report['seed']}, weights {name}"
        f" (sha256 {str(weights['sha256'])[:12]}...), torch {report['versions'].get('torch', '?')},"
        f" {report['seconds'] / 60:.0f} minutes on {report['device']}.",
        "Brackets: 95% interval from resampling whole objects. Gain: PSNR of the first row less this row's,"
        " pair by pair. frechet and kid: distances between all made and all true views by the features of the"
        " named network, without intervals; not comparable with published FIDs. hf_power_025: variance of a"
        f" view above a quarter of a cycle per pixel; the true views have {_truth_power(report)}. Seconds:"
        " all targets of a reference. The paper's rows are its own (MVImgNet) and are not comparable number"
        " by number.",
        "",
        *_view_table(report),
        *_distance_table(rows_of(report)),
        "",
        *claims(report),
    ]
    notes = {**{name: row for name, row in report["rows"].items() if "skipped" in row}, **report["metrics"]}
    lines += [
        f"- {name}: skipped, {value['skipped']}." for name, value in notes.items() if "skipped" in value
    ]
    return "\n".join(lines) + "\n"


def rows_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All rows that have numbers, the one that counts first."""
    others = {name: row for name, row in report["rows"].items() if row.get("metrics")}
    first = {report["method"]: report} if report["metrics"] else {}
    return {**first, **others}


def claims(report: Mapping[str, Any]) -> list[str]:
    """What the paper claims, in words, by the intervals of differences and by means."""
    rows, found = rows_of(report), []
    first = _label(report["method"])
    for metric in ("psnr", "stlpips_vgg", "hf_power_025"):
        less = {
            _label(name): row["difference"][metric]
            for name, row in report["rows"].items()
            if "mean" in row.get("difference", {}).get(metric, {})
        }
        words = standing(less, METRICS[metric][1])
        if words:
            found.append(f"- {metric}: {first} is {words}.")
    if report["method"] == HEADLINE and "mean" in report["metrics"].get("psnr", {}):
        level = report["metrics"]["psnr"]["mean"]
        verdict = "reached" if level >= GOAL_PSNR else "not reached"
        found.append(f"- PSNR over all distances: {level:.2f} dB; {GOAL_PSNR:g} dB {verdict}.")
    lost = report["rows"].get(MEAN_ONLY, {}).get("difference", {}).get("psnr")
    if lost and report["method"] == HEADLINE:
        verdict = "within" if -lost["mean"] <= MOST_LOST else "more than"
        found.append(
            f"- Fusion changes PSNR by {estimate_cell(lost, 2)} dB against the mean alone: {verdict} the"
            f" {MOST_LOST:g} dB it may lose."
        )
    if COPY in rows and report["method"] in rows and report["method"] != COPY:
        pairs = zip(report["by_distance"].items(), rows[COPY].get("by_distance", {}).values(), strict=False)
        below = [angle for (angle, own), copy in pairs if own["psnr"]["mean"] <= copy["psnr"]["mean"]]
        where = f"but at {', '.join(below)} degrees" if below else "at every distance"
        found.append(f"- {first} is above the copy of the reference {where}.")
    order = [name for name in VARIANTS if name in rows]
    if len(order) > 1:
        levels = [f"{_label(name)} {rows[name]['metrics']['psnr']['mean']:.2f} dB" for name in order]
        found.append(f"- Trained for equally many steps: {', '.join(levels)}.")
    return found


def spectrum_words(report: Mapping[str, Any]) -> str:
    """What the plot shows."""
    true = report["truth"]["hf_power_025"]["mean"]
    parts = [
        f"{_label(name)} {100 * row['metrics']['hf_power_025']['mean'] / true:.0f} %"
        for name, row in rows_of(report).items()
        if name in SHOWN_SPECTRA and true > 0
    ]
    said = f" Of the true views' power above 0.25 cycles per pixel: {', '.join(parts)}." if parts else ""
    return f"*Mean power of views by spatial frequency, both axes as written, power logarithmic.{said}*"


def draw_spectra(report: Mapping[str, Any]) -> Image.Image:
    """Power over frequency as lines: the truth, and the rows with and without fusion that are there."""
    rows = rows_of(report)
    curves = {
        name: report["truth"]["spectrum"] if name == "truth" else rows[name]["spectrum"]
        for name in SHOWN_SPECTRA
        if name == "truth" or name in rows
    }
    width, height, left, low, top = 720, 420, 70, 46, 14
    page = Image.new("RGB", (width, height), (255, 255, 255))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    logs = {name: [math.log10(max(value, 1e-12)) for value in curve] for name, curve in curves.items()}
    highest = math.ceil(max(max(curve) for curve in logs.values()))
    lowest = max(math.floor(min(min(curve) for curve in logs.values())), highest - 8)
    across, up = width - left - 16, height - low - top

    def place(number: int, count: int, value: float) -> tuple[float, float]:
        share = (min(max(value, lowest), highest) - lowest) / max(highest - lowest, 1)
        return left + across * (number + 0.5) / count, top + up * (1 - share)

    for level in range(lowest, highest + 1):
        y = place(0, 1, level)[1]
        draw.line((left, y, left + across, y), fill=(225, 225, 225))
        draw.text((8, y - 8), f"1e{level}", fill=(90, 90, 90), font=font)
    for tenths in range(6):
        x = left + across * tenths / 5
        draw.line((x, top, x, top + up), fill=(225, 225, 225))
        draw.text((x - 10, top + up + 6), f"{tenths / 10:g}", fill=(90, 90, 90), font=font)
    draw.text((left + across / 2 - 60, height - 20), "cycles per pixel", fill=(60, 60, 60), font=font)
    for color, curve in zip(_COLORS, logs.values(), strict=False):
        points = [place(number, len(curve), value) for number, value in enumerate(curve)]
        draw.line(points, fill=color, width=2, joint="curve")
    for line, (color, name) in enumerate(zip(_COLORS, logs, strict=False)):
        y = top + 8 + 18 * line
        draw.line((left + across - 250, y + 8, left + across - 226, y + 8), fill=color, width=3)
        label = "true views" if name == "truth" else _label(name)
        draw.text((left + across - 218, y), label, fill=(40, 40, 40), font=font)
    return page


def _view_table(report: Mapping[str, Any]) -> list[str]:
    rows = rows_of(report)
    shown = [
        name
        for name in METRICS
        if name == "lpips_vgg" or any("mean" in row["metrics"].get(name, {}) for row in rows.values())
    ]
    lines = [
        table_line(["", *shown, "gain, dB", "s"]),
        table_line(["---", *["---:"] * (len(shown) + 2)]),
    ]
    for setting, named in spec.PAPER_RESULTS.items():
        for name, numbers in named.items():
            cells = [number_cell(numbers.get(_PAPER_OF.get(one, one)), METRICS[one][0]) for one in shown]
            lines.append(table_line([f"paper, {setting}: {name}", *cells, "", ""]))
    for name in sorted(rows, key=_place):
        row = rows[name]
        cells = [_label(name), *(estimate_cell(row["metrics"].get(one), METRICS[one][0]) for one in shown)]
        cells.append(estimate_cell(row["difference"].get("psnr"), 2) if "difference" in row else "")
        cells.append(f"{row['seconds_an_answer']['mean']:.1f}")
        lines.append(table_row(cells, bold=name == report["method"]))
    return lines


def _distance_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    named = {name: row["by_distance"] for name, row in rows.items() if "by_distance" in row}
    if not named:
        return []
    angles = list(next(iter(named.values())))
    lines = [
        "",
        "PSNR by distance from the reference, degrees:",
        "",
        table_line(["", *angles]),
        table_line(["---", *["---:"] * len(angles)]),
    ]
    for name in sorted(named, key=_place):
        parts = named[name]
        cells = [number_cell(parts[a]["psnr"]["mean"] if a in parts else None, 2) for a in angles]
        lines.append(table_line([_label(name), *cells]))
    return lines


def _truth_power(report: Mapping[str, Any]) -> str:
    return estimate_cell(report["truth"]["hf_power_025"], METRICS["hf_power_025"][0])


def _shown(word: str, variants: Mapping[str, Path]) -> str:
    """A word of the command without a place of this machine."""
    for name, folder in variants.items():
        if word == f"{name}={folder}":
            place = folder.parent.name if folder.name == "export" else folder.name
            return f"{name}={place}"
    return word


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _place(name: str) -> int:
    return list(LABELS).index(name) if name in LABELS else -1


if __name__ == "__main__":
    sys.exit(main())
