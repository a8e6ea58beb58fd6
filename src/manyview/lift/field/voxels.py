"""Fields held by voxels: a dense grid of geometry, rows of features where there is something."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from manyview.lift.field.answers import RayAnswer
from manyview.lift.field.box import Box
from manyview.lift.field.kernel_marching import DEPTH, NORMAL, NUM_COLORS, NUM_FEATURES, OPACITY
from manyview.lift.field.lookup import blend_grid, blend_rows
from manyview.lift.field.marching import Backend, GridRays, Voxels, march_density
from manyview.lift.field.shading import Shader

STEP_VOXELS = 0.5
_EMPTY_RAW = -12.0


class VoxelModule(nn.Module):
    """What density and distance voxels share: the box, the rows, the shader."""

    index: Tensor

    def __init__(self, box: Box, geometry: Tensor, active: Tensor, *, backend: Backend = "auto") -> None:
        """`geometry` [X, Y, Z] float32; `active` bool [X, Y, Z]: nodes that get a row of features."""
        super().__init__()
        assert tuple(geometry.shape) == box.shape, "the geometry has a value for each node of the box"
        self.box = box
        self.backend: Backend = backend
        self.geometry = nn.Parameter(geometry.float().contiguous())
        self.register_buffer("index", number_nodes(active))
        self.features = nn.Parameter(geometry.new_zeros(max(1, int(active.sum())), NUM_FEATURES))
        self.shader = Shader()

    @property
    def voxels(self) -> Voxels:
        """For marching."""
        return Voxels(geometry=self.geometry, index=self.index, features=self.features)

    def grid_rays(self, origins: Tensor, directions: Tensor, jitter: Tensor | None, near: float) -> GridRays:
        """World rays in grid coordinates; no sample comes before `near` world units."""
        count = len(origins)
        return GridRays(
            origins=self.box.to_grid(origins).float(),
            directions=directions.float(),
            jitter=origins.new_full((count,), 0.5) if jitter is None else jitter.float(),
            near=origins.new_full((count,), near / self.box.voxel),
        )

    def point_colors(self, points: Tensor, normals: Tensor, directions: Tensor) -> Tensor:
        """[N, 3] in [0, 1], colour at world points [N, 3] seen along unit directions [N, 3]."""
        raw = blend_rows(self.index, self.features, self.box.to_grid(points).float())
        features = torch.cat((raw[:, :NUM_COLORS].sigmoid(), raw[:, NUM_COLORS:]), dim=1)
        return self.shader(features, torch.ones_like(raw[:, 0]), directions, normals).clamp(0, 1)

    def finish(self, out: Tensor, directions: Tensor, background: float) -> RayAnswer:
        """Marched sums as an answer in world units."""
        alphas, normals = out[:, OPACITY], out[:, NORMAL : NORMAL + 3]
        shaded = self.shader(out[:, :NUM_FEATURES], alphas, directions.float(), normals.detach())
        depths = torch.where(alphas > 1e-3, out[:, DEPTH] / alphas.clamp_min(1e-3), 0) * self.box.voxel
        colors = shaded + background * (1 - alphas)[:, None]
        return RayAnswer(colors=colors, alphas=alphas, depths=depths, normals=normals)

    def take_features(self, other: VoxelModule) -> None:
        """Copy another module's features (read at this one's nodes) and shader."""
        rows = self.index.reshape(-1) >= 0
        places = other.box.to_grid(self.box.nodes()[rows].to(other.geometry.device))
        with torch.no_grad():
            self.features[: len(places)] = blend_rows_filled(other.index, other.features, places)
        self.shader.load_state_dict(other.shader.state_dict())


class VoxelField(VoxelModule):
    """Density and colour in voxels, the fast field on a CPU.

    Density is softplus(raw) x gain, raw interpolated before the softplus so that surfaces can be sharper than
    a voxel. Empty regions are skipped.
    """

    skip: Tensor

    def __init__(
        self, box: Box, geometry: Tensor, active: Tensor, *, gain: float, backend: Backend = "auto"
    ) -> None:
        """`gain`: density per world unit where softplus(raw) is 1."""
        super().__init__(box, geometry, active, backend=backend)
        self.gain = gain
        self.register_buffer("skip", distance_to_cells(cells_of(active)))

    def densities(self, points: Tensor) -> Tensor:
        """See `Field.densities`. Zero outside the box and in skipped cells."""
        places = self.box.to_grid(points).float()
        limits = torch.tensor(self.box.shape, device=places.device) - 1
        within = ((places >= 0) & (places <= limits)).all(dim=1)
        cells = torch.minimum(places.long().clamp_min(0), limits - 1)
        within &= self.skip[cells[:, 0], cells[:, 1], cells[:, 2]] == 0
        return functional.softplus(blend_grid(self.geometry, places)) * self.gain * within

    def colors(self, points: Tensor, directions: Tensor) -> Tensor:
        """See `Field.colors`."""
        return self.point_colors(points, torch.zeros_like(points).float(), directions.float())

    def render_rays(
        self, origins: Tensor, directions: Tensor, *, background: float = 1.0, jitter: Tensor | None = None
    ) -> RayAnswer:
        """See `Renderable.render_rays`."""
        rays = self.grid_rays(origins, directions, jitter, 0.0)
        step = self.gain * STEP_VOXELS * self.box.voxel
        out = march_density(rays, self.voxels, self.skip, gain=step, step=STEP_VOXELS, backend=self.backend)
        return self.finish(out, directions, background)

    def refined(self, box: Box, threshold: float = 1e-3) -> VoxelField:
        """The same field on another grid, without what is as good as empty.

        A node is dropped where no neighbour within two old voxels stops more than `threshold` of the light on
        a way of one old voxel.
        """
        places = self.box.to_grid(box.nodes()).to(self.geometry.device)
        with torch.no_grad():
            # Where nothing is active the raw value means nothing.
            raw = torch.where(self.index >= 0, self.geometry, torch.full_like(self.geometry, _EMPTY_RAW))
            opacity = 1 - torch.exp(-functional.softplus(raw) * self.gain * self.box.voxel)
            full = ndimage.binary_dilation((opacity > threshold).cpu().numpy(), iterations=2)
            full = torch.from_numpy(full).to(raw.device) & (self.index >= 0)
            geometry = blend_grid(self.geometry, places).reshape(box.shape)
            active = (blend_grid(full.float(), places) > 0).reshape(box.shape)
        fine = VoxelField(box, geometry, active, gain=self.gain, backend=self.backend)
        fine.take_features(self)
        return fine


def raw_for_opacity(opacity: float, gain: float, length: float) -> float:
    """The raw density at which a way of `length` world units stops the share `opacity` of the light."""
    soft = -math.log1p(-opacity) / (gain * length)
    return soft + math.log(-math.expm1(-soft))


def number_nodes(active: Tensor) -> Tensor:
    """int32 [X, Y, Z]: 0, 1, ... at active nodes, -1 elsewhere."""
    index = torch.full(active.shape, -1, dtype=torch.int32, device=active.device)
    index[active] = torch.arange(int(active.sum()), dtype=torch.int32, device=active.device)
    return index


def cells_of(active: Tensor) -> Tensor:
    """bool [X-1, Y-1, Z-1]: cells with all their eight nodes active."""
    cells = active
    for axis in range(3):
        count = cells.shape[axis]
        cells = cells.narrow(axis, 0, count - 1) & cells.narrow(axis, 1, count - 1)
    return cells


def distance_to_cells(cells: Tensor) -> Tensor:
    """uint8 [X-1, Y-1, Z-1]: 0 in `cells`, else the way to the nearest in cells (largest coordinate)."""
    free = ~cells.cpu().numpy()
    if free.all():
        steps = np.full(free.shape, 255)
    else:
        steps = ndimage.distance_transform_cdt(free, metric="chessboard")
    assert isinstance(steps, np.ndarray), "scipy gives an array"
    return torch.from_numpy(np.minimum(steps, 255).astype(np.uint8)).to(cells.device)


def blend_rows_filled(index: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """As `blend_rows`, but averaging over the corners that have a row."""
    share = blend_rows(index, rows.new_ones(len(rows), 1), points)
    return blend_rows(index, rows, points) / share.clamp_min(1e-6)
