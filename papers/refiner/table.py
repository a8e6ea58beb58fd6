"""The refiner's tables on our weights: against GANSpace and dragging, and without each of its losses.

    python papers/refiner/pack_views.py --out data/held_out --count 1500 --held-out
    python papers/refiner/table.py --data data/held_out --work runs/yaw \
        --ablations no_warp=runs/refiner_no_warp/export no_latent=runs/refiner_no_latent/export \
        no_feature=runs/refiner_no_feature/export no_guard=runs/refiner_no_guard/export

Runs the protocol `yaw` and writes <results>/refiner_yaw.json (every number), the tables in the method's page,
with what toy.py measured where it has been run, and pictures of a few sweeps. Finished sources are kept in
<work>, so a stopped run goes on. Tables that are there are replaced with --force. Exit codes: 0 done, 2 bad
input, 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from manyview.bench.pages import (
    estimate_cell,
    fill_place,
    number_cell,
    open_page,
    shown_command,
    standing,
    table_line,
    table_row,
)
from manyview.bench.yaw import METRICS
from manyview.bench.yaw_options import (
    ABLATIONS,
    DRAG,
    GANSPACE,
    HEADLINE,
    NAMES,
    ZONES,
    YawOptions,
    parse_ablations,
)
from manyview.bench.yaw_run import evaluate_yaw
from manyview.cli.flags import check_output, check_range, torch_device
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic, writing_file
from manyview.io.manifest import read_json, write_json
from manyview.io.sheet import draw_sheet
from manyview.methods import load
from manyview.methods.refiner import spec
from manyview.types import Views

ROOT = Path(__file__).resolve().parents[2]
STEM = "refiner_yaw"
BEGIN = "<!-- measured: written by papers/refiner/table.py -->"
END = "<!-- end of measured -->"
LABELS: dict[str, str] = {
    HEADLINE: "refined",
    GANSPACE: "GANSpace",
    "no_warp": "without the warp loss",
    "no_latent": "without the latent loss",
    "no_feature": "without the feature loss",
    "no_guard": "without the pose guard",
    DRAG: "dragged",
}
DIGITS = {"ssim_skimage": 3, "identity": 3, "warp_l1": 4, "frechet": 3, "kernel": 4}
_PAPER_OF = {"ssim_skimage": "ssim", "identity": "identity", "frechet": "fid", "kernel": "kid"}
_PAPER_ROWS = {GANSPACE: "ganspace", DRAG: "draggan", HEADLINE: "refiner"}
_RANGES = {"20": "+-20 degrees", "40": "+-40 degrees", "full": "all yaws"}


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, and write the tables and pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="held-out single views")
    parser.add_argument("--work", type=Path, required=True, help="folder where finished sources are kept")
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--ablations", nargs="*", default=[], metavar="NAME=RUN", help="rows without a loss")
    parser.add_argument("--only", nargs="*", choices=NAMES, help="only these rows")
    parser.add_argument("--sources", type=int, default=100, help="codes that are turned")
    parser.add_argument("--dragged", type=int, default=12, help="of them those that are dragged")
    parser.add_argument("--yaw-net", type=Path, help="the network that measures; that of the weights else")
    parser.add_argument("--feature-net", type=Path, help="whose features are compared; the package's else")
    parser.add_argument("--pictures", type=int, default=3, help="sweeps drawn; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder written to")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder of pictures")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "refiner.md", help="page to put it in")
    parser.add_argument("--force", action="store_true", help="replace earlier results")
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--pictures", given.pictures, 0, 100)
        page = open_page(given.page, BEGIN, END, "Refiner")
        check_output(given.results / f"{STEM}.json", allowed=given.force)
        options = YawOptions(
            num_sources=given.sources,
            only=given.only,
            ablations=parse_ablations(given.ablations),
            num_dragged=given.dragged,
            seed=given.seed,
        )
        report = evaluate_yaw(
            HEADLINE,
            given.data,
            given.work / f"{STEM}.json",
            options,
            weights=given.weights,
            yaw_net=given.yaw_net,
            feature_net=given.feature_net,
            device=torch_device(given.device),
            keep=True,
            force=True,
            progress=TerminalProgress(),
        )
        write_json(given.results / f"{STEM}.json", report)
        toy = given.results / "refiner_toy.json"
        own = words if words is not None else sys.argv[1:]
        folders = [given.data, given.work, given.weights, given.yaw_net, given.feature_net]
        command = shown_command("papers/refiner/table.py", own, [one for one in folders if one])
        text = draw_page(report, command, read_json(toy) if toy.is_file() else None)
        write_text_atomic(given.page, fill_place(page, BEGIN, END, text), argument="--page")
        draw_pictures(given.images, given.weights, torch_device(given.device), given.seed, given.pictures)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(f"wrote {given.results / f'{STEM}.json'} and the tables in {given.page}")
    return 0


def draw_page(report: Mapping[str, Any], command: str, toy: Mapping[str, Any] | None) -> str:
    """What stands between the page's marks."""
    weights = report["weights"]
    lines = [
        f"Measured by `{command}`: {report['scenes']} codes seen within {report['frontal_deg']:g} degrees of"
        f" the front, {len(report['targets_deg'])} yaws each, {report['renders']} held-out renders. A view"
        f" counts where the yaw network measures its yaw within {report['tolerance_deg']:g} degree of the"
        f" asked one (`reached`: how many do). Features: {report['feature_net']['name']} (sha256"
        f" {report['feature_net']['sha256'][:12]}...), for identity (cosine), Frechet and kernel distance."
        f" Weights sha256 {str(weights['sha256'])[:12]}..., {report['seconds'] / 60:.0f} minutes on"
        f" {report['device']}.",
        "Brackets: 95% interval from resampling whole codes. The paper's rows are its own (faces, 512 px,"
        " Inception and face features, yaw not measured) and are not comparable number by number.",
    ]
    rows = rows_of(report)
    for zone in ZONES:
        lines += ["", f"{_RANGES[zone]}:", "", *zone_table(rows, zone, report["method"])]
    lines += ["", *claims(report)]
    skipped = {name: row["skipped"] for name, row in report["rows"].items() if "skipped" in row}
    lines += [f"- {LABELS[name]}: skipped, {reason}." for name, reason in skipped.items()]
    if toy is not None:
        lines += ["", *toy_lines(toy)]
    return "\n".join(lines) + "\n"


def rows_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All rows that have numbers, the one that counts first."""
    others = {name: row for name, row in report["rows"].items() if "by_range" in row}
    return {report["method"]: report, **others}


def zone_table(rows: Mapping[str, Mapping[str, Any]], zone: str, headline: str) -> list[str]:
    """One range of yaw."""
    columns = ["reached", "mean yaw", *DIGITS]
    lines = [table_line(["", *columns]), table_line(["---", *["---:"] * len(columns)])]
    limit = ZONES[zone]
    for name, published in _PAPER_ROWS.items():
        numbers = spec.PAPER_RANGES[published][None if limit is None else int(limit)]
        cells = [number_cell(numbers.get(_PAPER_OF.get(one, one)), DIGITS[one]) for one in DIGITS]
        lines.append(table_line([f"paper: {LABELS[name]}", "-", "-", *cells]))
    for name, row in rows.items():
        part = row["by_range"][zone]
        cells = [estimate_cell(part.get("reached"), 2), estimate_cell(part.get("yaw_deg"), 1)]
        cells += [estimate_cell(part.get(one), digits) for one, digits in DIGITS.items()]
        lines.append(table_row([LABELS.get(name, name), *cells], bold=name == headline))
    return lines


def claims(report: Mapping[str, Any]) -> list[str]:
    """What the issue and the paper claim, in words, by the intervals of differences at equal measured yaw."""
    found = []
    first = LABELS.get(report["method"], report["method"])
    for metric, better in METRICS.items():
        less = {
            str(LABELS.get(name, name)): row["difference"]["full"][metric]
            for name, row in report["rows"].items()
            if "mean" in row.get("difference", {}).get("full", {}).get(metric, {})
        }
        words = standing(less, better)
        if words:
            found.append(f"- {metric} over all yaws, target by target: {first} is {words}.")
    mine, theirs = report["by_range"]["full"], report["rows"].get(GANSPACE, {})
    other = theirs.get("by_range", {}).get("full", {})
    for metric in ("frechet", "kernel"):
        if "mean" in mine.get(metric, {}) and "mean" in other.get(metric, {}):
            interval, here = other[metric]["ci95"], mine[metric]["mean"]
            verdict = "larger than" if here > other[metric]["mean"] else "no larger than"
            if interval is not None and interval[0] <= here <= interval[1]:
                verdict = "within the interval of"
            found.append(
                f"- {metric}: {first} {here:.{DIGITS[metric]}f} is {verdict} GANSpace's"
                f" {estimate_cell(other[metric], DIGITS[metric])}."
            )
    for name in ABLATIONS:
        row = report["rows"].get(name, {})
        if "difference" in row:
            hurt = [
                metric
                for metric, better in METRICS.items()
                if "mean" in row["difference"]["full"][metric]
                and _sure(row["difference"]["full"][metric], better)
            ]
            found.append(f"- {LABELS[name]} hurts: {', '.join(hurt) or 'nothing that is told apart'}.")
    return found


def toy_lines(toy: Mapping[str, Any]) -> list[str]:
    """What papers/refiner/toy.py measured on a generator of which everything is known."""
    measured, wanted = toy["measured"], toy["wanted"]
    return [
        "On a generator of which everything is known (`python papers/refiner/toy.py`):",
        "",
        f"- Yaw between pictures: off by {measured['yaw_error_deg']:.2f} degrees on average, of turns of"
        f" {measured['turned_deg']:.0f} (wanted: {wanted['yaw_error_deg']:g}).",
        f"- Rank correlation of depths: {measured['depth_rank']:.3f} (wanted: {wanted['depth_rank']:g};"
        f" a depth that is round within the outline: {measured['round_rank']:.3f}).",
        "- Of what turning should not change, the refiner takes back"
        f" {100 * measured['nuisance_removed']:.0f} % (wanted: {100 * wanted['nuisance_removed']:.0f} %),"
        f" while the turn moves by {measured['kept_yaw_off_deg']:.2f} degrees.",
    ]


def draw_pictures(images: Path, weights: str, device: torch.device, seed: int, count: int) -> None:
    """Of a few codes the refined sweep above GANSpace's."""
    if count == 0:
        return
    pipeline = load(HEADLINE, weights, device)
    for number in range(count):
        parts, names, observed = [], [], []
        for label, refined in (("refined", True), ("GANSpace", False)):
            made = pipeline(seed=seed + number, refine=refined, points=False)
            parts.append(made.views.images)
            names += [f"{label}, {float(yaw):.0f}" for yaw in made.yaw_deg]
            observed.append(made.views.observed)
        page = Views(images=torch.cat(parts), observed=torch.cat(observed), names=tuple(names))
        with writing_file(images / f"refiner_{seed + number}.png") as path:
            draw_sheet(page, columns=len(parts[0])).save(path, format="PNG", optimize=True)


def _sure(less: Mapping[str, Any], better: bool) -> bool:
    """Whether the headline is ahead, by the interval of its difference."""
    low, high = less["ci95"] or (less["mean"], less["mean"])
    return low > 0 if better else high < 0


if __name__ == "__main__":
    sys.exit(main())
