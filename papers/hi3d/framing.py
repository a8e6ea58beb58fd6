"""How much of the frame training objects cover, by elevation and shape: the table in io/photo.py.

    python papers/hi3d/framing.py [--objects 250] [--size 128]

Prints, for each elevation, quartiles of the longer side of the outline (as a share of the frame) for outlines
that are wider than tall and for the others, and quartiles of how far the outline's middle lies below the
frame's. A minute on one core.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from manyview.data.procedural import make_object
from manyview.data.rasterizer import rasterize
from manyview.geometry.trajectories import sphere_cameras
from manyview.io.photo import ELEVATIONS_DEG

FIRST_SEED = 100_000
AZIMUTHS_DEG = (0.0, 67.5, 157.5, 247.5)


def outlines(num_objects: int, elevation_deg: float, size: int) -> np.ndarray:
    """[views, 3]: height, width and how far the middle lies below the frame's, as shares of the frame."""
    cameras = sphere_cameras(torch.tensor(AZIMUTHS_DEG), elevation_deg, size=size)
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + num_objects):
        mesh = make_object(seed)
        for solid in rasterize(mesh.vertices, mesh.faces, cameras).face >= 0:
            rows, columns = (solid.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
            height, width = (int(line[-1] - line[0]) + 1 for line in (rows, columns))
            found.append((height / size, width / size, int(rows[0] + rows[-1] + 1) / 2 / size - 0.5))
    return np.array(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--objects", type=int, default=250)
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    for elevation in ELEVATIONS_DEG:
        height, width, below = outlines(given.objects, elevation, given.size).T
        is_wide = width > height
        for name, values in (
            ("wide", width[is_wide]),
            ("tall", height[~is_wide]),
            ("all", np.maximum(height, width)),
            ("middle", below),
        ):
            low, middle, high = np.percentile(values, (25, 50, 75))
            print(f"{elevation:6.1f} {name:7s} {low:6.3f} {middle:6.3f} {high:6.3f}  of {len(values)}")


if __name__ == "__main__":
    main()
