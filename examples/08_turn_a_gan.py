"""A code of a generator, or a photo, turned: views, cameras, points and a mesh by the Python API.

    python examples/08_turn_a_gan.py --out turned
    python examples/08_turn_a_gan.py --weights WEIGHTS --photo own/photo.png --mesh --out turned

WEIGHTS: a bundle of the refiner (docs/refiner.md says how it is trained); the bundled one knows procedural
animals alone. Draws the code of --seed, or finds that of a photo, turns it to yaws from -40 to 40 degrees,
refines what was turned, and writes a result folder with the views, the cameras that the networks found,
OUT/points.ply and, with --mesh, OUT/mesh.glb. Prints, for every asked yaw, the one that was reached.
`manyview synth gan:WEIGHTS --method refiner` does the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import manyview as mv
from manyview.data.given import read_given_view
from manyview.io.mesh_files import write_points


def main() -> int:
    """A code to a sweep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="compact", help="compact, a folder, or a hub id")
    parser.add_argument("--photo", type=Path, help="an image instead of a drawn code")
    parser.add_argument("--seed", type=int, default=0, help="another one, another object")
    parser.add_argument("--yaws", type=float, nargs="+", default=[-40, -20, 0, 20, 40], help="degrees")
    parser.add_argument("--no-refine", action="store_true", help="GANSpace's sweep, for comparison")
    parser.add_argument("--mesh", action="store_true", help="a mesh too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    given = parser.parse_args()
    try:
        pipe = mv.load("refiner", weights=given.weights)
        views = None
        if given.photo is not None:
            views, _ = read_given_view(given.photo).frame(pipe.resolution)
        result = pipe(
            views,
            targets=given.yaws,
            seed=given.seed,
            refine=False if given.no_refine else None,
            mesh=given.mesh,
        )
        points, colors = result.points, result.colors

        def also(folder: Path) -> None:
            if points is not None and colors is not None:
                write_points(folder / "points.ply", points, colors)

        result.save(given.out, also=also)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result.failed:
        print(f"no points or mesh: {result.failed}", file=sys.stderr)
    for asked, reached in zip(given.yaws, result.yaw_deg.tolist(), strict=True):
        print(f"asked for {asked:6.1f} degrees, reached {reached:6.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
