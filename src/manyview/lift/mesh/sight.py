"""What one view tells about places on a mesh."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from manyview.data.render.occlusion import RayCaster
from manyview.geometry.pixels import inside_image, sample_images
from manyview.geometry.projection import project
from manyview.geometry.rays import camera_rays
from manyview.types import Views

_SAME_PLACE = 1e-3
_JUMP = 0.02
_LEAST_BORDER = 0.02
_LEAST_MASK = 0.5


class Sight:
    """One view and what of the mesh stands in whose way in it."""

    def __init__(self, caster: RayCaster, view: Views, scale: float, border_px: float) -> None:
        """view: one view with a camera. scale: longest side of the mesh, for tolerances."""
        assert view.cameras is not None, "a view with its camera"
        assert len(view) == 1, "one view at a time"
        self._caster = caster
        self._camera = view.cameras.to(torch.float64).to("cpu")
        self._scale = scale
        self._size = view.size
        image = view.images.double().cpu()
        mask = torch.ones_like(image[:, :1]) if view.masks is None else view.masks.double().cpu()
        border = torch.from_numpy(self._border(border_px))[None, None]
        # Premultiplied, so that the colour of what lies outside the mask never mixes in.
        self._layers = torch.cat([image * mask, mask, border], dim=1)

    def look(
        self, points: np.ndarray, normals: np.ndarray, face_normals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For points [T, 3] on the mesh: colour [T, 3], cosine [T], and clearness [T].

        The cosine between normal and direction to the camera, 0 where turned away, is the smaller one of
        those of the smooth and of the face's normal: on fine meshes the first evens out the noise of the
        second, at sharp edges the second keeps the first honest. Clearness in [0, 1] is border times mask, 0
        where the point is hidden or outside the image.
        """
        center = self._camera.centers[0].numpy()
        to_camera = center - points
        distance = np.linalg.norm(to_camera, axis=1)
        unit = to_camera / np.maximum(distance, 1e-12)[:, None]
        cosine = np.minimum((normals * unit).sum(axis=1), (face_normals * unit).sum(axis=1)).clip(0, 1)
        pixels, depth = project(torch.from_numpy(points)[None], self._camera)
        inside = (depth > 0) & inside_image(pixels, self._camera.sizes)
        candidates = np.flatnonzero(inside[0].numpy() & (cosine > 0))
        visible = candidates[self._is_first(center, points[candidates], distance[candidates])]
        color, clear = np.zeros((len(points), 3)), np.zeros(len(points))
        color[visible], clear[visible] = self._sample(pixels[0, visible])
        return color, cosine, clear

    def _is_first(self, center: np.ndarray, points: np.ndarray, distance: np.ndarray) -> np.ndarray:
        directions = points - center
        hits = self._caster.first_hits(np.broadcast_to(center, directions.shape), directions)
        # Hit distances are in lengths of the direction, so the point itself is at 1.
        gap = (1 - hits["distance"]) * distance
        return (hits["face"] < 0) | (gap < _SAME_PLACE * self._scale)

    def _sample(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        values = sample_images(self._layers, pixels[None])[0]
        mask, border = values[3], values[4]
        color = (values[:3] / mask.clamp_min(1e-6)).T
        clear = torch.where(mask >= _LEAST_MASK, mask * border, torch.zeros_like(mask))
        return color.numpy(), clear.numpy()

    def _border(self, border_px: float) -> np.ndarray:
        """[H, W] 1 away from outlines and depth jumps of the mesh, nearly 0 at them."""
        origins, directions = camera_rays(self._camera, *self._size)
        axis = self._camera.world_from_cam[0, :3, 2].numpy()
        flat = directions.reshape(-1, 3).numpy()
        hits = self._caster.first_hits(origins.reshape(-1, 3).numpy(), flat)
        along = hits["distance"] * (flat @ axis)
        depth = np.where(hits["face"] >= 0, along, np.inf).reshape(self._size)
        # A slope of four pixels' worth of depth a pixel is still a surface.
        per_pixel = depth / float(self._camera.K[0, 0, 0])
        limit = np.maximum(_JUMP * self._scale, 4 * np.where(np.isfinite(per_pixel), per_pixel, 0))
        edge = ~np.isfinite(depth)
        for axis_index in range(2):
            with np.errstate(invalid="ignore"):
                step = np.abs(np.diff(depth, axis=axis_index))
            before = [slice(None)] * 2
            after = [slice(None)] * 2
            before[axis_index], after[axis_index] = slice(None, -1), slice(1, None)
            for side in (tuple(before), tuple(after)):
                edge[side] |= ~(step <= limit[side])
        if border_px <= 0 or not edge.any():
            return np.ones(self._size)
        away = ndimage.distance_transform_edt(~edge)
        return np.clip(np.asarray(away) / border_px, _LEAST_BORDER, 1)
