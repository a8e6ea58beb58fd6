"""What keeps a grid of distances a smooth field of distances, and flat where nobody looks."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from manyview.lift.field.kernel_marching import NUM_FEATURES
from manyview.lift.field.kernel_smoothing import add_slopes, diffuse, measure
from manyview.lift.field.marching import GridRays, march_distance, run_blocks
from manyview.lift.field.pixels import PixelSource
from manyview.lift.sdf.model import STEP_VOXELS, SdfField, redistance

BAND_VOXELS = 4.0
# Rays that graze the cone under an object give it a fortieth of what a seen surface gets.
_SEEN_SHARE = 0.12
_HOLE = 2
_RAYS_A_VIEW = 1200
# An explicit step of diffusion in three dimensions is stable up to 1/6.
_FLOW = 0.15
_ROUND_STEPS = 20
_BLOCK = 1 << 14


class Regularity:
    """Regularisers of one field's grid in a band about its surface; build anew once that has moved."""

    def __init__(self, field: SdfField) -> None:
        self._nodes = _band_nodes(field)
        _, y, z = field.box.shape
        self._strides = (y * z, z)
        self._room = np.zeros((field.geometry.numel(), 4), np.float32)

    def add_gradient(self, field: SdfField, eikonal: float, bend: float) -> None:
        """Add to the geometry's gradient that of the means over the band of eikonal (|slope| - 1)^2 / 2 and
        bend Laplacian^2 / 2."""
        if field.geometry.grad is None or len(self._nodes) == 0 or (eikonal <= 0 and bend <= 0):
            return
        grid, total = field.geometry.detach().reshape(-1).numpy(), field.geometry.grad.reshape(-1).numpy()
        nodes, room, strides = self._nodes, self._room, self._strides
        shares = np.float32(eikonal / len(nodes)), np.float32(bend / len(nodes))
        run_blocks(len(nodes), lambda a, b: measure(a, b, nodes, grid, *strides, room), block=_BLOCK)
        run_blocks(
            len(nodes), lambda a, b: add_slopes(a, b, nodes, *strides, room, *shares, total), block=_BLOCK
        )


def flow_nodes(field: SdfField, nodes: np.ndarray, steps: int) -> None:
    """Steps of mean curvature flow at some nodes of a field of true distances.

    Where nobody looks the surface so pulls itself flat, like a soap film that hangs on the seen part.
    """
    if len(nodes) == 0:
        return
    grid = field.geometry.detach().reshape(-1).numpy()
    _, y, z = field.box.shape
    change, amount = np.zeros_like(grid), np.float32(-_FLOW)
    for _ in range(steps):
        change[nodes] = 0
        run_blocks(
            len(nodes), lambda a, b: diffuse(a, b, nodes, grid, y * z, z, amount, change), block=_BLOCK
        )
        grid[nodes] += change[nodes]


def settle(field: SdfField, unseen: Tensor, rounds: int) -> None:
    """Let the unseen part flow for `rounds` rounds of _ROUND_STEPS, with true distances after each."""
    for _ in range(rounds):
        flow_nodes(field, _band_nodes(field, unseen), _ROUND_STEPS)
        with torch.no_grad():
            field.geometry.copy_(redistance(field.geometry))


def _band_nodes(field: SdfField, chosen: Tensor | None = None) -> np.ndarray:
    """int64 flat numbers of the nodes (of `chosen`) near the surface that have six neighbours."""
    band = torch.zeros(field.box.shape, dtype=torch.bool)
    middle = (slice(1, -1),) * 3
    band[middle] = field.geometry.detach()[middle].abs() < BAND_VOXELS
    if chosen is not None:
        band &= chosen
    return band.reshape(-1).nonzero()[:, 0].numpy()


def unseen_nodes(field: SdfField, source: PixelSource) -> Tensor:
    """bool [X, Y, Z]: nodes that no surface seen by a view of `source` is near."""
    generator = torch.Generator().manual_seed(0)
    batch = source.draw(_RAYS_A_VIEW * len(source), generator)
    with torch.enable_grad():
        features = field.features
        wanted = features.requires_grad
        features.requires_grad_(True)
        rays = field.grid_rays(batch.origins, batch.directions, None, 0.0)
        weights = _gathered_weights(field, rays)
        features.requires_grad_(wanted)
    index = field.index.long()
    on_surface = field.geometry.detach().abs() < 1
    usual = float(weights.sum()) / max(1, int(on_surface.sum()))
    seen = (index >= 0) & (weights[index.clamp_min(0)] > _SEEN_SHARE * usual)
    # Filling the holes that a finite number of rays leaves. One node more than closing does: the flow would
    # eat from the edge of the seen part if that were all that is held.
    around = ndimage.generate_binary_structure(3, 2)
    wide = ndimage.binary_dilation(seen.numpy(), around, iterations=_HOLE)
    near = ndimage.binary_erosion(wide, around, iterations=_HOLE - 1, border_value=1)
    return ~torch.from_numpy(near)


def _gathered_weights(field: SdfField, rays: GridRays) -> Tensor:
    """[M] the weight that rays give to each row: the gradient of a summed free feature in it."""
    out = march_distance(
        rays, field.voxels, field.sharpness.detach(), step=STEP_VOXELS, backend=field.backend
    )
    last = NUM_FEATURES - 1
    (slopes,) = torch.autograd.grad(out[:, last].sum(), field.features)
    return slopes[:, last]
