"""Any photo as the input the networks were trained on: cut out, centred, scaled, on white.

Training objects have longest side 1 and stand 1.5 from the camera. How much of the frame their outline's
longer side then covers depends on their shape and little on the elevation; `FILLS` has the medians. A photo
has no such scale, so it is given the median: half of all training objects are within 8 % of it. They are
centred by their box in space, not by their outline; for half of them the outline's middle lies within 5 % of
the frame's middle, which is why centring outlines is near enough.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.cutout import Masks, find_mask, read_mask
from manyview.io.framing import composite_over, frame_by_mask, resize_area, size_within
from manyview.io.images import read_image

ELEVATIONS_DEG = (-10.0, 0.0, 10.0, 20.0, 30.0, 40.0)
"""Elevations that Hi3D trains on."""
FILLS = {
    "wide": (0.742, 0.742, 0.742, 0.758, 0.766, 0.766),
    "tall": (0.781, 0.805, 0.805, 0.773, 0.758, 0.742),
}
"""Median share of the frame that the longer side of a training object's outline covers, by elevation, for
outlines wider than tall and for the others: 250 procedural objects, 4 azimuths (papers/hi3d/framing.py)."""
ANY_FILL = 0.76
"""The same over all elevations and shapes."""
_MOST_READ = 2048
NO_MASK = (
    "has no transparency and no plain background; give a mask file (--mask), or let the package rembg cut the"
    " object out: --masks rembg (pip install 'manyview[masks]')"
)


@dataclass(frozen=True, kw_only=True)
class Photo:
    """The framed object."""

    image: Tensor
    """[3, S, S] in [0, 1], over white."""
    alpha: Tensor
    """[1, S, S], 1 = object."""
    record: dict[str, Any]
    """For the manifest: where the mask is from, the share of the frame, whether the photo cuts the object."""

    def resized(self, size: int) -> Photo:
        """The same at another size, averaged by area."""
        image, _ = resize_area(self.image, size, size)
        alpha, _ = resize_area(self.alpha, size, size)
        return Photo(image=image, alpha=alpha, record=self.record)


def training_fill(elevation_deg: float | None, wide: bool) -> float:
    """Share of the frame that training objects of this outline cover; between table entries linearly, beyond
    them as at the end. None for an unknown elevation."""
    if elevation_deg is None:
        return ANY_FILL
    return float(np.interp(elevation_deg, ELEVATIONS_DEG, FILLS["wide" if wide else "tall"]))


def read_photo(
    path: str | os.PathLike[str],
    size: int,
    *,
    mask: Path | None = None,
    masks: Masks = "auto",
    elevation_deg: float | None = None,
    fill: float | None = None,
    argument: str = "INPUT",
) -> Photo:
    """The photo in a file, framed; see `frame_photo`. `mask`: a file with the object's mask.

    Raises `InputError` for broken files, and as `frame_photo`.
    """
    image, alpha = read_image(path, argument=argument)
    if mask is not None:
        height, width = image.shape[-2:]
        alpha = read_mask(mask, height, width, argument="--mask")
        masks = "auto"
    return frame_photo(
        image,
        size,
        alpha=alpha,
        masks=masks,
        elevation_deg=elevation_deg,
        fill=fill,
        name=str(path),
        argument=argument,
    )


def frame_photo(
    image: Tensor,
    size: int,
    *,
    alpha: Tensor | None = None,
    masks: Masks = "auto",
    elevation_deg: float | None = None,
    fill: float | None = None,
    name: str = "image",
    argument: str = "INPUT",
) -> Photo:
    """An image [3, H, W] in [0, 1] with its object in the middle of `size` x `size` pixels of white.

    `alpha` [1, H, W]: the object's mask, for masks = auto; one without any transparent pixel says nothing and
    counts as none. `fill`: share of the frame for the outline's longer side; that of training objects when
    not given. Raises `InputError` where no mask is found or it is empty, and for a `fill` outside (0, 1].
    """
    rows, columns = image.shape[-2:]
    height, width = size_within(rows, columns, max(_MOST_READ, 4 * size))
    if alpha is not None and float(alpha.amin()) > 0.99:
        alpha = None
    image, alpha = resize_area(image, height, width, alpha)
    found, source = find_mask(image, alpha, masks)
    if found is None:
        raise InputError(argument, name, NO_MASK)
    solid = found[0] > 0.5
    if not bool(solid.any()):
        raise InputError(argument, name, f"its mask ({source}) is empty, expected an object")
    lines = (solid.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    tall, broad = (int(line[-1] - line[0]) + 1 for line in lines)
    share = training_fill(elevation_deg, broad > tall) if fill is None else fill
    framed, cover = frame_by_mask(image, found, size, fill=share)
    border = torch.cat([solid[0], solid[-1], solid[:, 0], solid[:, -1]])
    record = {
        "mask": source,
        "fill": round(share, 4),
        "object_pixels": [tall, broad],
        # Then what is outside the photo is missing, and the object stands off the middle.
        "cut_by_border": bool(border.any()),
        "enlarged": bool(max(tall, broad) < share * size),
    }
    return Photo(image=composite_over(framed, cover).clamp(0, 1), alpha=cover, record=record)
