"""The picture that views are made of, from a photo or a scene, and its framing.

A photo has no scale: its object is framed as training objects are. A scene's view whose camera stands on an
orbit as those of training do is taken as it is, and its camera is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.orbits import elevation_of, is_on_orbit
from manyview.io.cutout import Masks, find_mask, read_mask
from manyview.io.framing import resize_area
from manyview.io.images import read_image
from manyview.io.photo import NO_MASK, Photo, frame_photo
from manyview.io.scene import list_splits, read_scene
from manyview.types import Cameras, Views


@dataclass(frozen=True, kw_only=True)
class Given:
    """A picture before it is framed."""

    image: Tensor
    """[3, H, W] in [0, 1]."""
    alpha: Tensor | None
    """[1, H, W], where it has one."""
    camera: Cameras | None = None
    """Where it stands on an orbit; then the picture is square."""
    elevation_deg: float | None = None
    """Of a camera that looks at the world's origin, wherever it stands."""
    name: str = "image"

    def frame(
        self,
        size: int,
        *,
        elevation_deg: float | None = None,
        masks: Masks = "auto",
        fill: float | None = None,
        argument: str = "INPUT",
    ) -> tuple[Views, dict[str, Any]]:
        """The one view, square, with its mask, and the record of its framing for the manifest.

        `elevation_deg`, where it is known, tells how large training objects appear; `fill`: how large it is
        to appear (`io.photo.frame_photo`). Raises `InputError` where no mask is found.
        """
        if self.camera is None or fill is not None:
            photo = frame_photo(
                self.image,
                size,
                alpha=self.alpha,
                masks=masks,
                elevation_deg=elevation_deg,
                fill=fill,
                name=self.name,
                argument=argument,
            )
            return Views(images=_straight(photo)[None], masks=photo.alpha[None]), photo.record
        image, alpha = resize_area(self.image, size, size, self.alpha)
        cover, source = find_mask(image, alpha, masks)
        if cover is None:
            raise InputError(argument, self.name, NO_MASK)
        camera = replace(self.camera, distortion=None).resized(size, size)
        views = Views(images=image[None], masks=cover[None], cameras=camera)
        return views, {"mask": source, "fill": "as its camera sees it"}


def read_given_view(
    path: str | os.PathLike[str],
    *,
    mask: Path | None = None,
    split: int | None = None,
    index: int | None = None,
    largest: int = 2048,
    argument: str = "INPUT",
) -> Given:
    """The picture in an image file, or one of a scene or folder: view `index`, else the one that is observed.

    `mask`: a file with the mask of an image. `split`: which train_test_split file says what is observed,
    where there are several. Larger pictures of scenes are averaged down to a longer side of `largest`. Raises
    `InputError` as `read_image` and `read_scene`, where several views are observed and none is named, and for
    a number that no view has.
    """
    place = Path(path)
    if place.is_file() and place.name != "transforms.json":
        if index not in (None, 0):
            raise InputError("--slots", index, "expected none, as INPUT is one image")
        image, alpha = read_image(place, argument=argument)
        if mask is not None:
            alpha = read_mask(mask, *image.shape[-2:], argument="--mask")
        return Given(image=image, alpha=alpha, name=str(place))
    if mask is not None:
        raise InputError("--mask", str(mask), "is for one image; a scene has its own")
    folder = place.parent if place.name == "transforms.json" else place
    splits = list_splits(folder) if folder.is_dir() else []
    if split is None and index is None and len(splits) == 1:
        split = splits[0]
    views = read_scene(place, max_side=largest, split=split, argument=argument)
    chosen = choose_view(views, index, argument)
    view = views[chosen]
    camera = view.cameras
    known = camera is not None and view.size[0] == view.size[1] and is_on_orbit(camera)
    return Given(
        image=view.images[0],
        alpha=None if view.masks is None else view.masks[0],
        camera=camera if known else None,
        elevation_deg=None if camera is None else elevation_of(camera),
        name=f"{place}: {views.names[chosen] if views.names else chosen}",
    )


def _straight(photo: Photo) -> Tensor:
    """[3, S, S] the colour that over white is the photo's: views hold straight colour."""
    inner = (photo.image - (1 - photo.alpha)) / photo.alpha.clamp_min(1e-6)
    return torch.where(photo.alpha > 1e-3, inner, 1.0).clamp(0, 1)


def choose_view(views: Views, index: int | None, argument: str = "INPUT") -> int:
    """The view that is the input: the named one, else the only one that is observed.

    Raises `InputError` for a number that no view with an image has, and where not exactly one is observed.
    """
    observed = views.observed.nonzero()[:, 0].tolist()
    if index is not None:
        if not 0 <= index < len(views) or not bool(views.images[index].any()):
            raise InputError("--slots", index, f"expected a view with an image, 0 to {len(views) - 1}")
        return index
    if len(observed) != 1:
        line = "expected one; name it with --slots N, counted from 0"
        raise InputError(argument, f"{len(observed)} given views", line)
    return observed[0]
