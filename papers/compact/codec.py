"""How well the codec gives views back: the ceiling of every method that works on its latents.

    python papers/compact/codec.py --data DATASET

DATASET: objects rendered by `manyview render MESH... --protocol orbit16`. Every view is composited over
white, resized by area to the codec's resolution, encoded and decoded. Writes <results>/codec.json, and the
sentence into docs/training/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from manyview.bench.orbit4 import read_orbit
from manyview.bench.pages import fill_place
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.manifest import versions, write_json
from manyview.metrics.bootstrap import bootstrap_mean
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import decode, encode
from manyview.weights import open_bundle
from manyview.weights.packing import load_component

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- measured: written by papers/compact/codec.py -->"
END = "<!-- end of measured -->"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set of rendered orbits")
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder written to")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "training" / "README.md")
    given = parser.parse_args(words)
    silence_loading()
    try:
        page = given.page.read_text(encoding="utf-8")
        if page.count(BEGIN) != 1 or page.count(END) != 1:
            raise InputError("--page", str(given.page), "has no place for the figure")
        bundle = open_bundle(given.weights, "dimvis")
        scenes = sorted(path.parent for path in given.data.glob("*/transforms.json"))
        if not scenes:
            raise InputError("--data", str(given.data), "holds no scene")
        codec = load_component(AutoencoderKL, bundle.folders("vae")["vae"], torch.float32)
        scores, objects = score(codec, scenes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    estimate = bootstrap_mean(scores, objects)
    low, high = estimate.ci95 or (estimate.mean, estimate.mean)
    entry = next(item for item in bundle.manifest_entries() if item["name"].endswith("/vae"))
    size = int(codec.config["sample_size"])
    text = (
        f"Measured by `python papers/compact/codec.py --data {given.data.name}`: {len(scenes)} objects,"
        f" {len(scores)} views of {size} px over white, codec sha256 {entry['sha256'][:12]}...: **PSNR"
        f" {estimate.mean:.2f} dB** [{low:.2f}, {high:.2f}]."
    )
    figures = {"psnr": {"mean": estimate.mean, "ci95": [low, high]}, "scenes": len(scenes)}
    write_json(
        given.results / "codec.json",
        {**figures, "views": len(scores), "resolution": size, "weights": entry, "versions": versions()},
    )
    write_text_atomic(given.page, fill_place(page, BEGIN, END, text + "\n"))
    print(text)
    return 0


@torch.inference_mode()
def score(codec: AutoencoderKL, scenes: Sequence[Path]) -> tuple[list[float], list[str]]:
    """PSNR of every view, and the object it shows."""
    progress = TerminalProgress()
    progress.start(len(scenes), "objects")
    scores: list[float] = []
    objects: list[str] = []
    for scene in scenes:
        views = read_orbit(scene, int(codec.config["sample_size"]))
        scores += psnr(decode(codec, encode(codec, views)), views).tolist()
        objects += [scene.name] * len(views)
        progress.advance()
    progress.finish()
    return scores, objects


if __name__ == "__main__":
    sys.exit(main())
