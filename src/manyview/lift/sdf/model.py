"""A signed distance field in voxels with colour, rendered as NeuS does."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from manyview.lift.field.answers import RayAnswer
from manyview.lift.field.box import Box
from manyview.lift.field.lookup import blend_grid, blend_slope
from manyview.lift.field.marching import Backend, march_distance
from manyview.lift.field.voxels import VoxelModule

FEATURE_BAND_VOXELS = 6.0
STEP_VOXELS = 0.7
SHARPNESS_RANGE = (0.8, 12.0)


class SdfField(VoxelModule):
    """Distance to a surface (positive outside) and the colour on it.

    `geometry` holds distances in voxels; colour is known within FEATURE_BAND_VOXELS of the surface. Rendered
    by the same functions as a radiance field.
    """

    def __init__(
        self, box: Box, distances: Tensor, *, sharpness: float = 1.0, backend: Backend = "auto"
    ) -> None:
        """`distances` [X, Y, Z] in voxels. `sharpness`: NeuS' s in 1 / voxel; its inverse is about how many
        voxels wide the surface looks."""
        super().__init__(box, distances, distances.abs() <= FEATURE_BAND_VOXELS, backend=backend)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.anneal = 1.0

    @property
    def sharpness(self) -> Tensor:
        """[] NeuS' s in 1 / voxel; a fit keeps it within SHARPNESS_RANGE."""
        return self.log_sharpness.exp()

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Low and high corner of the box in the world."""
        return self.box.low, self.box.high

    def distances(self, points: Tensor) -> Tensor:
        """[N] signed distance in world units of world points [N, 3], positive outside.

        A point outside the box has the nearest border's distance plus the way to the border.
        """
        places = self.box.to_grid(points).float()
        limits = torch.tensor(self.box.shape, dtype=places.dtype, device=places.device) - 1
        away = torch.linalg.vector_norm(places - torch.minimum(places.clamp_min(0), limits), dim=1)
        return (blend_grid(self.geometry, places) + away) * self.box.voxel

    def normals(self, points: Tensor) -> Tensor:
        """[N, 3] unit gradient of the distance at world points [N, 3]: outward on the surface."""
        slope = blend_slope(self.geometry, self.box.to_grid(points).float())
        return torch.nn.functional.normalize(slope, dim=1, eps=1e-6)

    def colors(
        self, points: Tensor, normals: Tensor | None = None, directions: Tensor | None = None
    ) -> Tensor:
        """[N, 3] colour in [0, 1] at world points [N, 3].

        `normals` [N, 3] default to the field's own; `directions` [N, 3] (from the camera) to straight on.
        """
        normals = self.normals(points) if normals is None else normals
        directions = -normals if directions is None else directions
        return self.point_colors(points, normals.float(), directions.float())

    def densities(self, points: Tensor) -> Tensor:
        """[N] per world unit: what a ray that meets the surface head on sees, s (1 - sigmoid(s d))."""
        s = self.sharpness / self.box.voxel
        return s * torch.sigmoid(-s * self.distances(points))

    def render_rays(
        self, origins: Tensor, directions: Tensor, *, background: float = 1.0, jitter: Tensor | None = None
    ) -> RayAnswer:
        """What N rays see; see `Renderable.render_rays`."""
        rays = self.grid_rays(origins, directions, jitter, 0.0)
        out = march_distance(
            rays, self.voxels, self.sharpness, anneal=self.anneal, step=STEP_VOXELS, backend=self.backend
        )
        return self.finish(out, directions, background)

    def refined(self, box: Box) -> SdfField:
        """The same surface on another grid, with true distances away from it.

        The surface looks as many voxels wide as before.
        """
        ratio = self.box.voxel / box.voxel
        with torch.no_grad():
            places = self.box.to_grid(box.nodes()).to(self.geometry.device)
            finer = (blend_grid(self.geometry, places) * ratio).reshape(box.shape)
        fine = SdfField(
            box, redistance(finer), sharpness=float(self.sharpness.detach()), backend=self.backend
        )
        fine.take_features(self)
        return fine


def redistance(distances: Tensor) -> Tensor:
    """[X, Y, Z] about the true distances (in voxels) to the zero surface of `distances`.

    Nodes close to the surface keep their value over the local slope; that and the slope's direction give each
    a foot on the surface. Other nodes take the distance to the foot of the nearest of them. A field without a
    surface is left as it is.
    """
    values = distances.detach().cpu().numpy().astype(np.float32)
    inside = values < 0
    if inside.all() or not inside.any():
        return distances.detach().clone()
    touching = _touching(inside)
    slopes = np.stack(list(np.gradient(values)))
    length = np.sqrt((slopes * slopes).sum(axis=0)).clip(0.3, 3.0)
    own = values / length
    near = np.clip(own, -1.0, 1.0)
    away, where = ndimage.distance_transform_edt(~touching, return_indices=True)  # pyright: ignore
    shift = slopes / length * near
    squared = np.zeros_like(values)
    for axis, nodes in enumerate(np.indices(values.shape, dtype=np.float32, sparse=True)):
        squared += (nodes - where[axis] + shift[axis][tuple(where)]) ** 2
    found = np.sqrt(squared).clip(0.02) * np.where(inside, -1, 1)
    # One step away, across a diagonal mostly, a node's own slope says more than its neighbour's foot.
    close = (away < 1.8) & (np.abs(own) < 1)
    found[close] = own[close]
    found[touching] = near[touching]
    return torch.from_numpy(found.astype(np.float32)).to(distances.device)


def _touching(inside: np.ndarray) -> np.ndarray:
    """bool: nodes with a neighbour (along an axis) on the other side."""
    touching = np.zeros_like(inside)
    for axis in range(inside.ndim):
        change = np.diff(inside, axis=axis)
        low = [slice(None)] * inside.ndim
        high = [slice(None)] * inside.ndim
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        touching[tuple(low)] |= change
        touching[tuple(high)] |= change
    return touching
