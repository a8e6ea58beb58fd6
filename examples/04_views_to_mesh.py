"""Posed views to a textured mesh by the Python API: a scene of your own, or an object drawn on the spot.

    python examples/04_views_to_mesh.py --out lifted
    python examples/04_views_to_mesh.py --scene own/scene --out lifted

Without --scene the 16 views of a procedural object are drawn first. Writes OUT/mesh.glb (open it in Blender
or drop it into a browser's glTF viewer), OUT/splats.ply for splat viewers, and prints how well both show the
views they were fitted to. `manyview reconstruct` does the same from the command line, with scores on views
held out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import manyview as mv
from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit
from manyview.io.glb import write_glb
from manyview.io.scene import read_scene
from manyview.lift.reconstruction import ReconstructOptions, reconstruct
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.metrics.image import psnr


def main() -> int:
    """Views to splats and mesh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", type=Path, help="folder with transforms.json; a drawn object without it")
    parser.add_argument("--seed", type=int, default=3, help="which procedural object")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the views")
    parser.add_argument("--steps", type=int, default=600, help="steps of each fit")
    parser.add_argument("--out", type=Path, required=True, help="folder for mesh.glb and splats.ply")
    given = parser.parse_args()
    try:
        if given.scene is None:
            views = render_seed(given.seed, orbit(16, 30.0, size=given.size))
        else:
            views = read_scene(given.scene, max_side=given.size)
        splat_options, sdf_options = SplatOptions(num_steps=given.steps), SdfOptions(steps=given.steps)
        splats = reconstruct(views, ReconstructOptions(to="splats", splats=splat_options))
        mesh = reconstruct(views, ReconstructOptions(to="mesh", sdf=sdf_options))
        assert splats.splats is not None
        assert mesh.mesh is not None
        splats.splats.write_ply(given.out / "splats.ply")
        write_glb(given.out / "mesh.glb", mesh.mesh)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, made in (("splats", splats), ("mesh", mesh)):
        level = psnr(made.render(views.cameras).over(1.0).float(), views.over(1.0)).mean()
        print(f"{name}: {float(level):.2f} dB on the fitted views")
    return 0


if __name__ == "__main__":
    sys.exit(main())
