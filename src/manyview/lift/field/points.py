"""A field or surface as coloured points, for programs that cannot draw fields."""

from __future__ import annotations

import numpy as np
import torch

from manyview.errors import InputError
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import unproject
from manyview.lift.field.answers import Renderable
from manyview.lift.field.render import render_field
from manyview.types import Cameras

_CELLS_ALONG = 256


def seen_points(field: Renderable, cameras: Cameras, *, most: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] float32 in the world where the cameras' rays end in `field`, and their colours [N, 3]
    uint8.

    One point (the mean) for each cube of a 256th of the longest side; at most `most`, evenly left out
    beyond that. Raises `InputError` where no camera sees anything.
    """
    points, colors = [], []
    for index in range(len(cameras)):
        camera = cameras[index]
        seen = render_field(field, camera, background=0.0)
        solid = (seen.alphas[0, 0] >= 0.5) & (seen.depths[0, 0] > 0)
        height, width = solid.shape
        pixels = pixel_centers(height, width).to(camera.K)
        places = unproject(pixels[None], seen.depths[0].to(camera.K), camera)[0]
        points.append(places[solid])
        colors.append((seen.images[0] / seen.alphas[0].clamp_min(0.5)).permute(1, 2, 0)[solid])
    positions = torch.cat(points).double().numpy()
    if len(positions) == 0:
        raise InputError("views", "the field is empty", "expected views of one object that agree")
    shades = torch.cat(colors).double().numpy()
    low, high = positions.min(axis=0), positions.max(axis=0)
    side = max(float((high - low).max()), 1e-12) / _CELLS_ALONG
    cells = np.floor((positions - low) / side).astype(np.int64)
    _, where, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    values = np.concatenate((positions, shades), axis=1)
    means = np.stack([np.bincount(where, column, len(count)) / count for column in values.T], axis=1)
    step = -(-len(means) // most)
    means = means[::step]
    bytes_ = np.rint(means[:, 3:].clip(0, 1) * 255).astype(np.uint8)
    return means[:, :3].astype(np.float32), bytes_
