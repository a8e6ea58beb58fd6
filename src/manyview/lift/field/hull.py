"""The visual hull: what all masks allow, as a signed distance."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import sample_images
from manyview.geometry.projection import project
from manyview.lift.field.box import Box, make_box, view_cube
from manyview.types import Cameras

_CHUNK = 1 << 18
_TOLERANCES = (0.0, 0.13, 0.26)
_SEARCH_NODES = 48


class VisualHull:
    """Signed distance to the intersection of the cones of V masks."""

    def __init__(self, masks: Tensor, cameras: Cameras, tolerance: float = 0.0) -> None:
        """`masks` [V, 1, H, W] in [0, 1] for V `cameras`.

        `tolerance`: the share of views that may contradict the others (a point is outside once more views
        than that carve it away). Raises `InputError` for a mask without object.
        """
        for index, mask in enumerate(masks):
            if float(mask.max()) < 0.5:
                raise InputError(
                    f"views.masks[{index}]", "is empty", "expected the object in every observed mask"
                )
        self._maps = torch.stack([signed_mask(mask[0]) for mask in masks])[:, None]
        self._cameras = cameras
        self._skipped = int(tolerance * len(masks))

    def distances(self, points: Tensor) -> Tensor:
        """[N] about the distance in world units of `points` [N, 3] to the hull, positive outside.

        In each view: the distance to the outline in the image times depth over focal length; then the largest
        over the views. Exact near faces of the hull up to the bend of the cone, too small at edges outside.
        """
        return torch.cat([self._distances(part) for part in points.split(_CHUNK)])

    def _distances(self, points: Tensor) -> Tensor:
        num_views = len(self._cameras)
        values = []
        for index in range(num_views):
            camera = self._cameras[index]
            pixels, depths = project(points[None], camera)
            focal = float(camera.K[0, 0, 0] + camera.K[0, 1, 1]) / 2
            found = sample_images(self._maps[index][None], pixels.nan_to_num(0.0, 0.0, 0.0))[0, 0]
            # Behind a camera there is no object.
            away = torch.full_like(found, float(self._maps.shape[-1]))
            values.append(torch.where(depths[0] > 0, found, away) * depths[0].abs() / focal)
        stacked = torch.stack(values)
        if self._skipped == 0:
            return stacked.amax(dim=0)
        return stacked.topk(self._skipped + 1, dim=0).values[-1]


def signed_mask(mask: Tensor) -> Tensor:
    """[H, W] signed distance in pixels to the outline of `mask` [H, W], positive outside.

    Partial coverage of a pixel moves the outline within it.
    """
    cover = mask.detach().cpu().numpy()
    inside = cover >= 0.5
    outer = ndimage.distance_transform_edt(~inside) if inside.any() else np.full(cover.shape, cover.size**0.5)
    inner = (
        ndimage.distance_transform_edt(inside) if not inside.all() else np.full(cover.shape, cover.size**0.5)
    )
    assert isinstance(outer, np.ndarray), "scipy gives an array"
    assert isinstance(inner, np.ndarray), "scipy gives an array"
    distance = np.where(inside, 0.5 - inner, outer - 0.5)
    # At the outline itself the coverage says more than the distance to the next pixel.
    edge = (np.abs(distance) < 0.75) & (cover > 0.02) & (cover < 0.98)
    return torch.from_numpy(np.where(edge, 0.5 - cover, distance).astype(np.float32))


def find_hull(masks: Tensor, cameras: Cameras, margin: float = 0.06) -> tuple[VisualHull, Box]:
    """The hull of V masks and a coarse box about it, `margin` of its longest side wider on each side.

    Where the views contradict each other so that nothing is left, up to a quarter of them may be outvoted.
    Raises `InputError` where nothing is left even then.
    """
    start = make_box(*_larger(*view_cube(cameras)), _SEARCH_NODES)
    nodes = start.nodes()
    for tolerance in _TOLERANCES:
        hull = VisualHull(masks, cameras, tolerance)
        near = nodes[hull.distances(nodes) < 0.9 * start.voxel]
        if len(near) == 0:
            continue
        low, high = near.amin(dim=0) - start.voxel / 2, near.amax(dim=0) + start.voxel / 2
        fine = make_box(tuple(low.tolist()), tuple(high.tolist()), _SEARCH_NODES)
        inner = fine.nodes()
        inner = inner[hull.distances(inner) < 0.5 * fine.voxel]
        if len(inner) == 0:
            continue
        low, high = inner.amin(dim=0) - fine.voxel / 2, inner.amax(dim=0) + fine.voxel / 2
        pad = margin * float((high - low).max())
        return hull, make_box(tuple((low - pad).tolist()), tuple((high + pad).tolist()), _SEARCH_NODES)
    raise InputError("views.masks", "share no volume", "expected masks and cameras of one object")


def _larger(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The cube 1.6 times as wide: an object may be larger than what a view shows at its distance."""
    grow = [0.3 * (b - a) for a, b in zip(low, high, strict=True)]
    return (
        tuple(a - g for a, g in zip(low, grow, strict=True)),
        tuple(b + g for b, g in zip(high, grow, strict=True)),
    )
