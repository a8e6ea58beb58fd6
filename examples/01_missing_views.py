"""Two pictures of an object in, the two missing views of the rig out.

    python examples/01_missing_views.py --out missing_views

Loads DiMViS with the weights in the package and gives it two of the four views of examples/data/demo, 180
degrees apart. The folder holds sheet.png (given views grey, made ones green, below them how much four answers
differ), the views as a scene with cameras, a video and a manifest. As the demo knows the true views, the
distance to them is printed, beside that of the nearest thing without a network: the mean of the given views.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import manyview as mv
from manyview.io.framing import resize_area
from manyview.io.scene import read_scene
from manyview.metrics.image import psnr

DEMO = Path(__file__).parent / "data" / "demo"


def main() -> int:
    """Read, draw, write, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--scene", type=Path, default=DEMO, help="a scene of four views, two of them given")
    parser.add_argument("--weights", default="compact", help="compact, or the folder of a DiMViS bundle")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument("--samples", type=int, default=4, help="answers to draw; their spread is shown")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        pipe = mv.load("dimvis", given.weights)
        views = read_scene(given.scene, split=2)
        result = pipe(views, seed=given.seed, num_steps=given.steps, num_samples=given.samples)
        result.save(given.out)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # The rig starts at the first given view, and so do the demo's views: slot k is view k.
    truth, _ = resize_area(views.over(1.0), pipe.resolution, pipe.resolution)
    made = ~result.views.observed
    mean = truth[~made].mean(dim=0, keepdim=True).expand_as(truth[made])
    print(f"made views: {psnr(result.views.images[made], truth[made]).mean():.1f} dB")
    print(f"mean of the given views: {psnr(mean, truth[made]).mean():.1f} dB")
    print(f"see {given.out / 'sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
