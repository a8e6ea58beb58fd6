"""One image to views at any cameras by the Python API: TUNet, which inverts it once for all of them.

    python examples/07_one_image_to_any_camera.py --out around
    python examples/07_one_image_to_any_camera.py --scene scene/ --view 3 --yaw 60 --views 9 --out around

Without --scene one view of a procedural object is drawn first. Writes a result folder with the given view and
the drawn ones, on a sweep to both sides of it, and prints which ways of putting noise back were selected. A
scene has its cameras in transforms.json, about the origin. `manyview synth --method tunet` does the same from
the command line.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import manyview as mv
from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit, spherical_angles, yaw_sweep
from manyview.io.scene import read_scene
from manyview.types import Views


def main() -> int:
    """A view to its neighbours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", type=Path, help="a scene with cameras; a drawn object without it")
    parser.add_argument("--view", type=int, default=0, help="which of its views is given")
    parser.add_argument("--object", type=int, default=3, help="which procedural object")
    parser.add_argument("--yaw", type=float, default=45.0, help="degrees to both sides")
    parser.add_argument("--views", type=int, default=8, help="how many are drawn")
    parser.add_argument("--candidates", nargs="*", help="ways to draw a view, such as A B B:gaussian")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="compact", help="compact, a folder, or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    given = parser.parse_args()
    try:
        pipe = mv.load("tunet", weights=given.weights)
        size = pipe.resolution
        if given.scene is not None:
            views = read_scene(given.scene, size=size)
        else:
            views = render_seed(given.object, orbit(16, 30.0, size=size))
        if views.cameras is None or not 0 <= given.view < len(views):
            raise mv.InputError("--scene", str(given.scene), "expected cameras, and the view that is named")
        chosen = views[given.view]
        assert chosen.cameras is not None, "asked for above"
        azimuth, elevation, distance = (float(value[0]) for value in spherical_angles(chosen.cameras.centers))
        targets = yaw_sweep(
            -given.yaw,
            given.yaw,
            given.views,
            center_azimuth_deg=azimuth,
            elevation_deg=elevation,
            distance=distance,
            size=size,
        )
        one = Views(images=chosen.images, masks=chosen.masks, cameras=chosen.cameras)
        result = pipe(one, targets, seed=given.seed, candidates=given.candidates or None)
        replace(result, samples=None).save(given.out)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = result.views.images[1:]
    print(f"{len(made)} views of {size} pixels in {given.out}")
    print("selected: " + ", ".join(f"{name} {count}" for name, count in Counter(result.chosen).items()))
    change = (made - result.views.images[:1].to(made)).abs().mean(dim=(1, 2, 3))
    print(f"mean change from the given view: {float(change.mean()):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
