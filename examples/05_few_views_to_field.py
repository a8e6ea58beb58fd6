"""A few posed views to a field by the Python API: a capture of your own, or an object drawn on the spot.

    python examples/05_few_views_to_field.py --out field
    python examples/05_few_views_to_field.py --capture own/capture --given 3 --out field

Without --capture two views of a procedural object are drawn first. A capture is a folder with transforms.json
(nerfstudio), a COLMAP folder or a CO3D sequence, in any world. Writes a result folder with the given views
and the field seen from a circle of cameras, and OUT/field.safetensors. `manyview synth --method sparsefusion`
does the same from the command line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import manyview as mv
from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit
from manyview.io.capture import open_capture
from manyview.io.scene import write_scene
from manyview.lift.volume_files import write_volume
from manyview.methods.sparsefusion.capture import prepare
from manyview.methods.sparsefusion.distill_options import DistillOptions


def main() -> int:
    """Views to a field."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capture", type=Path, help="a posed capture; a drawn object without it")
    parser.add_argument("--given", type=int, default=2, help="how many of its views are given")
    parser.add_argument("--seed", type=int, default=3, help="which procedural object")
    parser.add_argument("--weights", default="compact", help="compact, a folder, or a hub id")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of diffusion")
    parser.add_argument("--steps", type=int, default=100, help="steps of the field in a round")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    given = parser.parse_args()
    options = DistillOptions(rounds=given.rounds, steps_per_round=given.steps, warmup_steps=4 * given.steps)
    try:
        pipe = mv.load("sparsefusion", weights=given.weights)
        with tempfile.TemporaryDirectory() as folder:
            source = given.capture
            if source is None:
                source = Path(folder) / "drawn"
                cameras = orbit(16, 30.0, size=2 * pipe.resolution)[[0, 3]]
                write_scene(render_seed(given.seed, cameras), source)
            scene = prepare(open_capture(source), pipe.resolution, num_given=given.given)
        for finding in scene.findings:
            print(f"doubtful: {finding.line}", file=sys.stderr)
        circle = orbit(8, 30.0, size=pipe.resolution)
        result = pipe(scene.views, scene.placement.frame(circle, pipe.resolution), options=options)
        assert result.field is not None
        field = scene.placement.field_back(result.field)
        result = replace(result, views=scene.placement.views_back(result.views))
        result.save(given.out, also=lambda folder: write_volume(folder / "field.safetensors", field))
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = ~result.views.observed
    distance = float(torch.linalg.vector_norm(result.views.cameras.centers[made], dim=1).mean())
    print(f"{int(made.sum())} views made from a distance of {distance:.2f}, in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
