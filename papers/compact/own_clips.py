"""What Hi3D's first stage makes of every object of a data set, for its refiner to learn from.

    python papers/compact/own_clips.py --data SET --weights WEIGHTS --out CLIPS --steps 10

SET: packed orbits of 16 views, of any size (manyview render --packed). WEIGHTS: a bundle with the first stage
(papers/compact/bundle.py), or `compact`. CLIPS is then what `manyview train hi3d --stage refine --own` takes
for SET. The same command goes on with a stopped run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from manyview.cli.flags import torch_device
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.data.packed import PackedViews
from manyview.errors import InputError
from manyview.methods import load
from manyview.methods.hi3d.own_clips import draw_own_clips


def main(words: Sequence[str] | None = None) -> int:
    """Draw the clips."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="packed orbits")
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--steps", type=int, help="denoising steps; the weights' choice by default")
    parser.add_argument(
        "--guidance", type=float, nargs=2, metavar=("LOW", "HIGH"), help="at frame 0, highest"
    )
    parser.add_argument("--shape", choices=("linear", "triangular", "constant"), help="of the guidance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="threads on the CPU; torch's choice by default")
    given = parser.parse_args(words)
    silence_loading()
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        source = PackedViews(given.data)
        pipeline: Any = load("hi3d", given.weights, torch_device(given.device))
        draw_own_clips(
            given.out,
            source,
            pipeline,
            num_steps=given.steps,
            guidance=None if given.guidance is None else tuple(given.guidance),
            guidance_shape=given.shape,
            seed=given.seed,
            progress=TerminalProgress(),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
