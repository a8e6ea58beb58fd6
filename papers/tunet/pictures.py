"""Views that TUNet draws of one picture, beside the mean it translates and the true views.

    python papers/tunet/pictures.py --data SCENES --scene Nintendo_Yoshi_Action_Figure

SCENES: renders of the protocol pair. Writes <images>/tunet_<scene>.png, one row each for the true views, the
translated mean without fusion, both fusions and the selected view, every second view of the orbit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from manyview.bench.pair import PairScene, answer_seed, find_scenes
from manyview.bench.pair_options import HEADLINE, PairOptions
from manyview.bench.pair_source import FUSIONS, PairSource
from manyview.cli.flags import torch_device
from manyview.cli.progress import silence_loading
from manyview.errors import InputError
from manyview.io.atomic import writing_file
from manyview.io.framing import resize_area
from manyview.io.sheet import draw_sheet
from manyview.methods import load
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.types import Views

ROOT = Path(__file__).resolve().parents[2]
MOST_SHOWN = 8


def main(words: Sequence[str] | None = None) -> int:
    """Draw the views and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="scenes of the protocol pair")
    parser.add_argument("--scene", required=True, help="which of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder written to")
    given = parser.parse_args(words)
    silence_loading()
    try:
        options = PairOptions(seed=given.seed)
        (scene,), _ = find_scenes(given.data, options, [given.scene])
        pipeline = load(HEADLINE, given.weights, torch_device(given.device))
        rows, angles = draw(pipeline, scene, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page = draw_sheet(beside(rows, angles), columns=len(angles) + 1, words=False)
    given.images.mkdir(parents=True, exist_ok=True)
    out = given.images / f"tunet_{given.scene.replace('/', '_')}.png"
    with writing_file(out) as path:
        page.save(path, format="PNG", optimize=True)
    print(f"{len(rows)} rows of {len(angles)} views in {out.name}")
    return 0


def draw(
    pipeline: TunetPipeline, scene: PairScene, options: PairOptions
) -> tuple[dict[str, Tensor], list[float]]:
    """Rows [1 + T, 3, S, S], the reference first in each, and how far the shown targets are from it."""
    question = scene.questions[0]
    size = pipeline.resolution
    views = scene.read(size)
    assert views.cameras is not None, "the protocol reads posed scenes"
    given, targets = views[question.reference], views.cameras[list(question.targets)]
    seed = answer_seed(question, options.seed)
    source = PairSource(pipeline, options)
    made = {
        "true": views.over(1.0)[list(question.targets)],
        "mean only": source.mean(given, targets, seed),
        **{
            name.replace("_", " "): source.fused(candidate, given, targets, seed)
            for name, candidate in FUSIONS.items()
        },
        "selected": source.selected(given, targets, seed),
    }
    # In the order of the orbit, every second view at most; the farthest among them.
    chosen = list(range(len(question.targets)))
    while len(chosen) > MOST_SHOWN:
        chosen = chosen[1::2]
    first = resize_area(given.over(1.0), size, size)[0]
    rows = {name: torch.cat([first, images[chosen].clamp(0, 1)]) for name, images in made.items()}
    return rows, [question.steps[number] / 2 for number in chosen]


def beside(rows: Mapping[str, Tensor], angles: Sequence[float]) -> Views:
    """All rows as views of one page; the reference and the true views count as given."""
    names, observed = [], []
    for name in rows:
        names += [f"{name}: reference", *(f"{name}, {angle:g} degrees" for angle in angles)]
        observed += [True, *[name == "true"] * len(angles)]
    return Views(images=torch.cat(list(rows.values())), observed=torch.tensor(observed), names=tuple(names))


if __name__ == "__main__":
    sys.exit(main())
