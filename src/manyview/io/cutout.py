"""Masks of an object in a picture: its own, those of a plain background, or by the package rembg.

Shapes: image [3, H, W] in [0, 1]; mask [1, H, W] in [0, 1], 1 = object.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from manyview.errors import InputError, MissingDependency
from manyview.io.images import read_image

Masks = Literal["auto", "plain", "rembg", "white"]
"""Where masks are from: the picture's own or else a plain background; one of the others alone. `white` is for
pictures that are white around the object."""
_PLAIN_SHARE = 0.8
"""So much of the border has to be background: an object may run out of the picture on one side."""
_SPREAD = 0.04
"""Largest deviation (in a channel, of 1) of a background that still counts as plain."""
_FEWEST, _MOST = 0.002, 0.9
"""Shares of the picture that an object may cover."""


def find_mask(image: Tensor, mask: Tensor | None, how: Masks) -> tuple[Tensor | None, str]:
    """The mask [1, H, W] of a picture [3, H, W] and where it is from; None where there is none to find.

    `mask`: the picture's own, for `auto`.
    """
    if how == "rembg":
        return cut_by_rembg(image), "rembg"
    if how == "white":
        # Half of what a picture shows as object: SparseFusion's tenth of a step from white.
        return ((1 - image).amax(dim=0, keepdim=True) > 0.1).to(image.dtype), "white background"
    if how == "auto" and mask is not None:
        return mask, "the picture's own"
    return cut_from_plain(image), "plain background"


def read_mask(path: str | os.PathLike[str], height: int, width: int, *, argument: str = "INPUT") -> Tensor:
    """[1, H, W] of a mask file: drawn in grey (white is the object), or in transparency alone.

    Raises `InputError` for a broken file and for another size than its image's.
    """
    colors, alpha = read_image(path, argument=argument)
    if tuple(colors.shape[-2:]) != (height, width):
        raise InputError(argument, str(path), f"expected {width} x {height} pixels as its image")
    plain = float(colors.amax()) == float(colors.amin())
    return alpha if alpha is not None and plain else colors.mean(dim=0, keepdim=True)


def cut_from_plain(image: Tensor) -> Tensor | None:
    """The mask of what stands on a plain background, or None where the background is not plain.

    The background's colour is a plane over the picture (light falls off towards a side) fitted to the border
    pixels, those that do not follow it left out. It counts as plain where four fifths of the border follow
    it closely. The object is what differs from it, its holes filled, specks dropped; shadows darker than the
    background's own variation belong to it.
    """
    height, width = image.shape[-2:]
    edge = max(2, round(0.02 * min(height, width)))
    border = torch.ones(height, width, dtype=torch.bool)
    border[edge:-edge, edge:-edge] = False
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    design = torch.stack((torch.ones_like(u), u, v), dim=-1)
    rows, values = design[border], image[:, border].mT.float()
    kept = (values - values.median(dim=0).values).abs().amax(dim=1) < 3 * _SPREAD
    plane = torch.zeros(3, 3)
    for _ in range(3):
        if int(kept.sum()) < _PLAIN_SHARE * len(values):
            return None
        plane = torch.linalg.lstsq(rows[kept], values[kept]).solution
        residual = (values - rows @ plane).abs().amax(dim=1)
        kept = residual < 2 * _SPREAD
    spread = float((values - rows @ plane)[kept].square().mean().sqrt())
    if spread > _SPREAD or int(kept.sum()) < _PLAIN_SHARE * len(values):
        return None
    away = (image.float() - (design @ plane).permute(2, 0, 1)).abs().amax(dim=0)
    # From the noise of the background on; at least two steps in 255, which compression leaves everywhere.
    low = max(0.02, 3 * spread)
    core = np.asarray(ndimage.binary_fill_holes((away > 2 * low).numpy()))
    labels, count = ndimage.label(core)  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        return None
    areas = np.bincount(labels.ravel())[1:]
    solid = np.isin(labels, 1 + np.flatnonzero(areas >= 0.02 * areas.max()))
    if not _FEWEST <= solid.mean() <= _MOST:
        return None
    soft = ((away - low) / low).clamp(0, 1).numpy()
    near = ndimage.binary_dilation(solid, iterations=1)
    inner = ndimage.binary_erosion(solid, iterations=1)
    mask = np.where(inner, 1.0, np.where(near, np.maximum(soft, 0), 0.0)).astype(np.float32)
    return torch.from_numpy(mask)[None]


def cut_by_rembg(image: Tensor) -> Tensor:
    """The mask that the package rembg gives (its network is fetched by it on first use).

    Raises `MissingDependency` where rembg is not installed.
    """
    try:
        from rembg import remove  # pyright: ignore[reportMissingImports]
    except ImportError:
        accepted = "needs a package: pip install 'manyview[masks]'"
        raise MissingDependency("--masks", "rembg", accepted) from None
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    found = np.asarray(remove(pixels, only_mask=True))
    if found.shape[:2] != tuple(image.shape[-2:]):
        raise InputError("--masks", f"rembg gave {found.shape}", f"expected {tuple(image.shape[-2:])}")
    return torch.from_numpy(found.astype(np.float32).reshape(*found.shape[:2], -1)[..., 0] / 255)[None]
