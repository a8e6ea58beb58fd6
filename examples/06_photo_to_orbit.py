"""One photo to an orbit of views, splats and a mesh by the Python API.

    python examples/06_photo_to_orbit.py --out turned
    python examples/06_photo_to_orbit.py --photo own/photo.png --elevation 20 --out turned

Without --photo one view of a procedural object is drawn first. The object has to be cut out (transparency, or
a plain background). Writes a result folder with the orbit and its cameras, OUT/mesh.glb and OUT/splats.ply.
`manyview synth --method hi3d` does the same from the command line, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import manyview as mv
from manyview.data.given import read_given_view
from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit
from manyview.io.images import write_png
from manyview.methods.hi3d.products import lift_options, lift_orbit


def main() -> int:
    """A photo to an orbit to a mesh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photo", type=Path, help="an image; a drawn object without it")
    parser.add_argument("--elevation", type=float, default=20.0, help="degrees from which it was taken")
    parser.add_argument("--object", type=int, default=3, help="which procedural object")
    parser.add_argument("--seed", type=int, default=0, help="another one, another back of the object")
    parser.add_argument("--weights", default="compact", help="compact, a folder, or a hub id")
    parser.add_argument("--interpolated", type=int, default=16, help="views of the splats for the mesh")
    parser.add_argument("--lift-steps", type=int, help="steps of each fit")
    parser.add_argument("--no-mesh", action="store_true", help="splats alone")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    given = parser.parse_args()
    try:
        pipe = mv.load("hi3d", weights=given.weights)
        with tempfile.TemporaryDirectory() as folder:
            photo = given.photo
            if photo is None:
                photo = Path(folder) / "drawn.png"
                drawn = render_seed(given.object, orbit(1, given.elevation, size=256))
                write_png(photo, drawn.images[0], None if drawn.masks is None else drawn.masks[0])
            views, framing = read_given_view(photo).frame(256, elevation_deg=given.elevation)
        result = pipe(views, elevation_deg=given.elevation, seed=given.seed)
        options = lift_options(interpolated=given.interpolated, num_steps=given.lift_steps, seed=given.seed)
        made = lift_orbit(result.views, ["splats"] if given.no_mesh else ["splats", "mesh"], options)
        result = replace(
            result,
            splats=made.splats.splats if made.splats else None,
            mesh=made.mesh.mesh if made.mesh else None,
            manifest={**result.manifest, "framing": framing},
        )
        result.save(given.out)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kind, line in made.failed.items():
        print(f"no {kind}: {line}", file=sys.stderr)
    print(f"{len(result.views)} views of {result.views.size[0]} pixels in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
