"""From a capture as people have it to what the networks read: which frames, their masks, their place.

Shapes: V frames of a capture, K of them given, R pixels a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.reframing import reframe
from manyview.io.capture import Capture, read_frame
from manyview.io.cutout import Masks, find_mask
from manyview.io.framing import resize_area, size_within
from manyview.methods.sparsefusion.checks import Finding, check_views
from manyview.methods.sparsefusion.placement import Placement, place
from manyview.methods.sparsefusion.spec import MAX_VIEWS
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views, join_cameras

_READ_SIDE = 1024
_NO_MASK = (
    "has no mask and no plain background; give masks (transparency, mask_path, a masks folder), or let the "
    "package rembg make them: --masks rembg (pip install 'manyview[masks]')"
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A capture in the networks' world."""

    views: Views
    """K given frames, square, R a side, with masks; all observed."""
    others: Cameras
    """The capture's other cameras, framed alike; there may be none."""
    placement: Placement
    chosen: tuple[int, ...]
    """Which frames of the capture are given."""
    findings: tuple[Finding, ...]
    """What looks wrong with the input, worst first."""
    record: dict[str, Any]
    """For the manifest."""

    @property
    def up(self) -> Tensor:
        """[3] up, in either world."""
        return self.placement.up


def prepare(
    capture: Capture,
    resolution: int,
    *,
    num_given: int | None = None,
    masks: Masks = "auto",
    check: bool = True,
    progress: Progress = silent,
    argument: str = "INPUT",
) -> Prepared:
    """The given frames of a capture as the networks read them.

    `num_given`: so many of the observed frames, spread out (`choose_frames`); without it all, and of more
    than eight, eight. `masks`: `auto` takes the capture's own, else those of a plain background; `plain`
    and `rembg` make them anew; `white` takes none, for pictures that are white around the object. `check`
    looks for input that contradicts itself (`checks.check_views`). Raises `InputError` for pictures without
    masks, and for views that cannot be of one object.
    """
    candidates = capture.observed.nonzero()[:, 0].tolist()
    most = min(MAX_VIEWS, len(candidates)) if num_given is None else num_given
    if not 1 <= most <= min(MAX_VIEWS, len(candidates)):
        line = f"expected 1 to {min(MAX_VIEWS, len(candidates))} of {len(candidates)} observed frames"
        raise InputError("--given", most, line)
    places = choose_frames(capture.cameras[candidates], most)
    chosen = tuple(candidates[index] for index in places)
    frames = _read_frames(capture, chosen, masks, resolution, progress, argument)
    pictures, covers, cameras, sources = frames
    placement = place(covers, cameras, argument=argument)
    moved = placement.similarity.apply_to_cameras(cameras.to(torch.float64))
    wanted = placement.frame(moved, resolution)
    views = _reframed(pictures, covers, moved, wanted, [capture.names[index] for index in chosen])
    findings = tuple(check_views(views, argument=argument)) if check and len(views) > 1 else ()
    rest = [index for index in range(len(capture)) if index not in chosen]
    others = placement.similarity.apply_to_cameras(capture.cameras[rest].to(torch.float64))
    record = {
        "kind": capture.kind,
        "frames": len(capture),
        "given": list(chosen),
        "chosen": "all observed" if len(chosen) == len(candidates) else "spread evenly over the directions",
        "masks": sorted(set(sources)),
        "placement": placement.record,
        "findings": [finding.line for finding in findings],
    }
    return Prepared(
        views=views,
        others=placement.frame(others, resolution) if rest else others.to(torch.float32),
        placement=placement,
        chosen=chosen,
        findings=findings,
        record=record,
    )


def choose_frames(cameras: Cameras, count: int) -> list[int]:
    """`count` of V cameras, spread over the directions from which they look, in their order.

    The first camera is taken, then always the one whose direction (its optical axis) is farthest from all
    taken so far. Raises `InputError` for a count that V cameras have not got.
    """
    if not 1 <= count <= len(cameras):
        raise InputError("count", count, f"expected 1 to {len(cameras)}")
    axes = F.normalize(cameras.world_from_cam[:, :3, 2].double(), dim=1)
    places = cameras.centers.double()
    places = (places - places.mean(dim=0)) / places.std().clamp_min(1e-9)
    # Places break the ties of cameras that look the same way.
    where = torch.cat([axes, 0.1 * places], dim=1)
    taken = [0]
    nearest = torch.linalg.vector_norm(where - where[0], dim=1)
    while len(taken) < count:
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.linalg.vector_norm(where - where[taken[-1]], dim=1))
    return sorted(taken)


def _read_frames(
    capture: Capture, chosen: tuple[int, ...], how: Masks, resolution: int, progress: Progress, argument: str
) -> tuple[list[Tensor], list[Tensor], Cameras, list[str]]:
    """Pictures and masks, larger ones averaged down, their cameras, and where the masks are from."""
    pictures, covers, lenses, sources = [], [], [], []
    progress.start(len(chosen), "frames read")
    try:
        for index in chosen:
            image, own = read_frame(capture, index, argument=argument)
            rows, columns = image.shape[-2:]
            height, width = size_within(rows, columns, max(_READ_SIDE, 4 * resolution))
            image, own = resize_area(image, height, width, own)
            mask, source = find_mask(image, own, how)
            if mask is None:
                name = capture.folder / capture.table.files[index]
                raise InputError(argument, str(name), _NO_MASK)
            pictures.append(image)
            covers.append(mask)
            lenses.append(capture.cameras[index].resized(height, width))
            sources.append(source)
            progress.advance()
    finally:
        progress.finish()
    return pictures, covers, join_cameras(lenses), sources


def _reframed(
    pictures: list[Tensor], covers: list[Tensor], moved: Cameras, wanted: Cameras, names: list[str]
) -> Views:
    images, masks = [], []
    for index, (picture, cover) in enumerate(zip(pictures, covers, strict=True)):
        size = tuple(wanted.sizes[index].tolist())
        same = torch.allclose(moved.world_from_cam[index].float(), wanted.world_from_cam[index].float())
        if same and tuple(picture.shape[-2:]) == (moved.sizes[index, 0], moved.sizes[index, 0]):
            image, mask = resize_area(picture, size[0], size[1], cover)
        else:
            image, mask = reframe(picture, moved[index], wanted[index].to(torch.float64), cover)
        assert mask is not None, "there was a mask"
        images.append(torch.where(mask > 0, image, 1.0))
        masks.append(mask)
    return Views(
        images=torch.stack(images),
        masks=torch.stack(masks),
        cameras=wanted.to(torch.float32),
        names=tuple(names),
    )
