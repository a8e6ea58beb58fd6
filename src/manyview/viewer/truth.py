"""Real images of views that a method made: which belongs to which, and how far they are apart."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.matching import match_cameras
from manyview.io.framing import resize_area
from manyview.io.scene import read_scene
from manyview.metrics.image import psnr
from manyview.types import Views


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Real images over white, as far as known."""

    images: Tensor
    """[V, 3, H, W]; zeros where unknown."""
    known: Tensor
    """bool [V]"""
    psnr: Tensor
    """[V] dB over white, whole images; NaN where unknown, infinity where equal."""
    matched_by: str
    """"camera" or "name"."""


def match_truth(views: Views, scene: str | os.PathLike[str], *, argument: str = "--truth") -> Truth:
    """The images of `scene` that show what `views` show.

    Where both have cameras, a view belongs to the frame whose camera stands in the same place and looks the
    same way; otherwise to the frame of its name. Images of another size but the same shape are averaged
    by area. Raises `InputError` for a scene that shares no view, and for images of another shape.
    """
    real = read_scene(scene, argument=argument)
    if views.cameras is not None and real.cameras is not None:
        partners, matched_by = match_cameras(views.cameras, real.cameras), "camera"
    else:
        by_name = {name: index for index, name in enumerate(real.names)}
        partners, matched_by = [by_name.get(name, -1) for name in views.names], "name"
    known = torch.tensor([partner >= 0 for partner in partners])
    if not bool(known.any()):
        raise InputError(argument, os.fspath(scene), f"shares no view with the folder (by {matched_by})")
    height, width = views.size
    if abs(real.size[0] * width - real.size[1] * height) > max(real.size):
        sizes = f"{real.size[1]} x {real.size[0]} pixels"
        raise InputError(argument, os.fspath(scene), f"{sizes}, expected the shape of {width} x {height}")
    shown, over = views.over(1.0), real.over(1.0)
    images = torch.zeros_like(shown)
    scores = torch.full((len(views),), torch.nan)
    for index, partner in enumerate(partners):
        if partner < 0:
            continue
        image = over[partner]
        images[index] = image if real.size == views.size else resize_area(image, height, width)[0]
        scores[index] = psnr(shown[index : index + 1], images[index : index + 1])[0]
    return Truth(images=images, known=known, psnr=scores, matched_by=matched_by)
