"""Your own photos from a turntable: a folder of pictures into a scene with cameras, and its missing views.

    python examples/03_own_data_set.py --photos examples/data/demo/images --files 000.png 001.png \
        --azimuths 45 135 --out own

Each file is a picture of the object with a transparent background, taken at an azimuth in degrees
(counter-clockwise seen from above) and one elevation. The pictures are framed as the training views were (the
object in the middle, its longer side a fixed part of the frame) and written as OUT/scene, which every command
reads: `manyview synth OUT/scene ...`, or a data set of many such folders for `manyview train --data`. Then
DiMViS completes it into OUT/result. For photos with cameras of another program, manyview.io reads COLMAP
models, nerfstudio's transforms.json, CO3D and MVImgNet in place of the angles.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import manyview as mv
from manyview.geometry.trajectories import sphere_cameras
from manyview.io.framing import frame_by_mask
from manyview.io.images import read_image
from manyview.io.scene import read_scene, write_scene

SIZE = 256


def main() -> int:
    """Photos to scene, scene to result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--files", nargs="+", required=True, help="their names, in order")
    parser.add_argument("--azimuths", type=float, nargs="+", required=True, help="degrees, one for each file")
    parser.add_argument("--elevation", type=float, default=30.0, help="degrees above the horizon")
    parser.add_argument("--out", type=Path, required=True, help="folder for the scene and the result")
    parser.add_argument("--weights", default="compact", help="compact, or the folder of a DiMViS bundle")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    given = parser.parse_args()
    try:
        if len(given.azimuths) != len(given.files):
            raise mv.InputError(
                "--azimuths", given.azimuths, f"expected {len(given.files)}, one for each file"
            )
        images, masks = [], []
        for name in given.files:
            color, alpha = read_image(given.photos / name)
            if alpha is None:
                raise mv.InputError("--files", name, "expected a transparent background; cut the object out")
            framed = frame_by_mask(color, alpha, SIZE)
            images.append(framed[0])
            masks.append(framed[1])
        cameras = sphere_cameras(given.azimuths, given.elevation, size=SIZE)
        photos = mv.Views(images=torch.stack(images), masks=torch.stack(masks), cameras=cameras)
        write_scene(photos, given.out / "scene")
        pipe = mv.load("dimvis", given.weights)
        # The azimuths say which slots of the rig the photos take; they must be multiples of 90 degrees apart.
        result = pipe(read_scene(given.out / "scene"), num_steps=given.steps)
        result.save(given.out / "result")
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = (~result.views.observed).nonzero()[:, 0].tolist()
    print(f"made views {made} of {len(result.views)}; see {given.out / 'result' / 'sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
