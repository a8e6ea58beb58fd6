"""Orbits that Hi3D draws of one picture with several seeds, beside the true views.

    python papers/hi3d/pictures.py --data SCENES --scene Nintendo_Yoshi_Action_Figure --seeds 0 1 2 3

SCENES: orbits of 16 as of `manyview render --protocol orbit16`. Writes <images>/hi3d_<scene>.png, one row for
the true views and one for each seed, every second view, and prints how much the seeds differ by distance from
the given view and how the seam compares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from manyview.bench.orbit16 import Question, distance_deg, read_orbit16
from manyview.bench.orbit16_scores import seam_ratio
from manyview.cli.flags import check_range, check_readable, torch_device
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import writing_file
from manyview.io.sheet import draw_sheet
from manyview.methods import load
from manyview.types import Views

ROOT = Path(__file__).resolve().parents[2]
SHOWN = range(0, 16, 2)


def main(words: Sequence[str] | None = None) -> int:
    """Draw the orbits and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="scenes of the protocol orbit16")
    parser.add_argument("--scene", required=True, help="which of them")
    parser.add_argument("--input", type=int, default=0, help="the view that is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder written to")
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--input", given.input, 0, 15)
        folder = given.data / given.scene
        check_readable("--scene", folder)
        pipeline = load("hi3d", given.weights, torch_device(given.device))
        size = pipeline.refined_resolution if pipeline.refiner is not None else pipeline.resolution
        question = Question(given.scene, given.input)
        true = read_orbit16(folder, size, size)
        asked, _ = true.ask(question)
        orbits = [
            pipeline(asked, seed=seed, progress=TerminalProgress()).views.images for seed in given.seeds
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = torch.stack(orbits)
    rows = beside(true.truth[question.order], made, given.seeds)
    page = draw_sheet(rows, columns=len(SHOWN), words=False)
    given.images.mkdir(parents=True, exist_ok=True)
    with writing_file(given.images / f"hi3d_{given.scene}.png") as path:
        page.save(path, format="PNG", optimize=True)
    for seed, orbit in zip(given.seeds, made, strict=True):
        changes = (orbit.roll(-1, 0) - orbit).abs().mean(dim=(1, 2, 3))
        print(f"seed {seed}: from the last view to the first {seam_ratio(changes)} of the mean change")
    if len(made) > 1:
        spread = made.std(dim=0).mean(dim=(1, 2, 3))
        for view in range(1, 16):
            print(f"{distance_deg(view):6.1f} degrees: deviation between seeds {float(spread[view]):.4f}")
    return 0


def beside(truth: torch.Tensor, made: torch.Tensor, seeds: Sequence[int]) -> Views:
    """The shown views of the true orbit [16, 3, S, S] and of every made one [N, 16, 3, S, S], row by row."""
    rows = [("true", truth), *((f"seed {seed}", orbit) for seed, orbit in zip(seeds, made, strict=True))]
    images, names, observed = [], [], []
    for name, orbit in rows:
        for view in SHOWN:
            images.append(orbit[view].clamp(0, 1))
            names.append(f"{name}, {22.5 * view:g} degrees")
            observed.append(name == "true" or view == 0)
    return Views(images=torch.stack(images), observed=torch.tensor(observed), names=tuple(names))


if __name__ == "__main__":
    sys.exit(main())
