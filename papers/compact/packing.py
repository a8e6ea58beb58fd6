"""What int8 weights cost: the codec's and DiMViS's figures with float16 weights and with packed ones.

    python papers/compact/packing.py --data DATASET --weights BUNDLES/dimvis

DATASET: objects rendered by `manyview render MESH... --protocol orbit16`, not those of a table. BUNDLES: what
`papers/compact/bundle.py --out BUNDLES` wrote with `--float16 vae image_encoder dimvis/unet
dimvis/conditioner`. Its networks are packed into a temporary folder as bundle.py does it; every view goes
through both codecs, and the first rig of every object is completed by both pipelines from each of its 14
subsets. Writes <results>/packing.json, and the paragraph into docs/training/README.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.orbit4 import all_questions, observed_slots, read_orbit
from manyview.bench.pages import fill_place
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.manifest import versions, write_json
from manyview.methods import load
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import decode, encode
from manyview.weights import Bundle, open_bundle, write_bundle
from manyview.weights.packing import pack_component

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- measured: written by papers/compact/packing.py -->"
END = "<!-- end of packing -->"
KINDS = ("float16", "int8")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set of rendered orbits")
    parser.add_argument("--weights", required=True, help="DiMViS with weights that are not packed")
    parser.add_argument("--limit", type=int, help="only the first objects, this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder written to")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "training" / "README.md")
    given = parser.parse_args(words)
    silence_loading()
    try:
        page = given.page.read_text(encoding="utf-8")
        if page.count(BEGIN) != 1 or page.count(END) != 1:
            raise InputError("--page", str(given.page), "has no place for the figures")
        scenes = sorted(path.parent for path in given.data.glob("*/transforms.json"))[: given.limit]
        if not scenes:
            raise InputError("--data", str(given.data), "holds no scene")
        with tempfile.TemporaryDirectory() as folder:
            bundles = dict(zip(KINDS, pack_bundle(given.weights, Path(folder)), strict=True))
            pipelines = {kind: load("dimvis", path) for kind, (_, path) in bundles.items()}
            figures = score(pipelines, scenes, given.seed)
        hashes = {kind: {"all": bundle.sha256, **bundle.hashes} for kind, (bundle, _) in bundles.items()}
        report = {**figures, "scenes": len(scenes), "seed": given.seed, "sha256": hashes}
        text = describe(figures, given.data.name, len(scenes), {kind: hashes[kind]["all"] for kind in KINDS})
        write_json(given.results / "packing.json", {**report, "versions": versions()})
        write_text_atomic(given.page, fill_place(page, BEGIN, END, text + "\n"), argument="--page")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def pack_bundle(weights: str, folder: Path) -> tuple[tuple[Bundle, str], tuple[Bundle, str]]:
    """The bundle `weights` and a copy of it in `folder` with packed networks, each with what opens it."""
    bundle = open_bundle(weights, "dimvis")
    for name, source in bundle.components.items():
        if name == "scheduler":
            shutil.copytree(source, folder / name)
        else:
            pack_component(source, folder / name)
    places = {name: name for name in bundle.components}
    told: dict[str, Any] = {"licence": bundle.licence, "settings": bundle.settings}
    write_bundle(folder, name="packed", method="dimvis", components=places, **told)
    return (bundle, weights), (open_bundle(folder, "dimvis"), str(folder))


@torch.inference_mode()
def score(pipelines: dict[str, Any], scenes: Sequence[Path], seed: int) -> dict[str, Any]:
    """PSNR of codec and answers, against the truth for each kind of weights, and between both kinds."""
    questions = tuple(question for question in all_questions() if question.phase == 0)
    observed = observed_slots(questions)
    sums: dict[str, list[Tensor]] = {}

    def add(place: str, made: dict[str, Tensor], truth: Tensor) -> None:
        for kind in KINDS:
            sums.setdefault(f"{place} {kind}", []).append(psnr(made[kind], truth))
        sums.setdefault(f"{place} between", []).append(psnr(*(made[kind] for kind in KINDS)))

    progress = TerminalProgress()
    progress.start(len(scenes), "objects")
    for scene in scenes:
        views = read_orbit(scene, next(iter(pipelines.values())).resolution)
        add("codec", {kind: decode(p.vae, encode(p.vae, views)) for kind, p in pipelines.items()}, views)
        rigs = views[list(questions[0].azimuths)].expand(len(questions), -1, -1, -1, -1)
        answers = {}
        for kind, pipeline in pipelines.items():
            solver, steps = pipeline.choose_sampler(None, None)
            parts = []
            for count in sorted({question.num_references for question in questions}):
                rows = [row for row, question in enumerate(questions) if question.num_references == count]
                items = [questions[row].item(scene.name, 0) for row in rows]
                chosen = {"solver": solver, "num_steps": steps, "guidance": pipeline.default_guidance(count)}
                parts.append(pipeline.complete(rigs[rows], observed[rows], items=items, seed=seed, **chosen))
            answers[kind] = torch.cat(parts)[~observed]
        add("dimvis", answers, rigs[~observed])
        progress.advance()
    progress.finish()
    figures: dict[str, Any] = {}
    for name, parts in sums.items():
        place, what = name.split()
        values = torch.cat(parts)
        figures.setdefault(place, {"views": len(values)})[f"psnr_{what}"] = float(values.mean())
    return figures


def describe(figures: dict[str, Any], data: str, num_scenes: int, hashes: dict[str, str]) -> str:
    """The figures as a paragraph."""
    codec, answers = figures["codec"], figures["dimvis"]
    return (
        f"Measured by `python papers/compact/packing.py --data {data} --weights BUNDLES/dimvis`:"
        f" {num_scenes} validation objects. Codec, {codec['views']} views:"
        f" **{codec['psnr_float16']:.2f} dB** with float16 weights,"
        f" **{codec['psnr_int8']:.2f} dB** with int8, {codec['psnr_between']:.1f} dB between both. DiMViS,"
        f" {answers['views']} views: **{answers['psnr_float16']:.2f}** and **{answers['psnr_int8']:.2f} dB**,"
        f" {answers['psnr_between']:.1f} dB between both. Weights of DiMViS with its codec and image encoder:"
        f" sha256 {hashes['float16'][:12]}... as float16, {hashes['int8'][:12]}... as int8."
    )


if __name__ == "__main__":
    sys.exit(main())
