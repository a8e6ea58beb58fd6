"""Plane sweep: where the rays of one image's cells pass through another, at a number of depths.

Shapes: V pairs of cameras, D depths, h x w cells. Planes face the camera whose cells they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import project, unproject
from manyview.geometry.trajectories import lens_intrinsics, spherical_transforms
from manyview.types import Cameras

HALF_RANGE = 0.55
"""Planes of a sweep lie this far before and behind the middle: an object's longest side is 1."""


def sweep_depths(distance: float, count: int) -> Tensor:
    """[D] depths through an object that a camera looks at from `distance`."""
    return torch.linspace(distance - HALF_RANGE, distance + HALF_RANGE, count)


def sweep_grid(targets: Cameras, sources: Cameras, depths: Tensor) -> Tensor:
    """[V, D, h, w, 2] where the rays of the targets' cells, at `depths` [D] along z, fall in the sources.

    V cameras of one image size each, or one for all. In the units of `grid_sample`: -1 and 1 are the borders
    of the image, x first.
    """
    rows, columns = targets.sizes[0].tolist()
    pixels = pixel_centers(rows, columns).to(depths).expand(1, len(depths), rows, columns, 2)
    points = unproject(pixels, depths.reshape(1, -1, 1, 1).expand(pixels.shape[:-1]), targets)
    seen, _ = project(points, sources)
    height, width = sources.sizes[0].tolist()
    return seen * (2 / seen.new_tensor([width, height])) - 1


def orbit_sweep_grid(
    turns_deg: Tensor, elevations_deg: Tensor, distance: float, depths: Tensor, cells: int
) -> Tensor:
    """[V, D, cells, cells, 2] as `sweep_grid`, for targets that stand `turns_deg` [V] counter-clockwise of
    their source on an orbit of `elevations_deg` [V], with the lens of `orbit`.

    Of tensors alone, for networks: on any device and without looking at values.
    """
    turns, elevations, depths = (x.float() for x in (turns_deg, elevations_deg, depths))
    target = spherical_transforms(turns, elevations, distance)
    source = spherical_transforms(torch.zeros_like(turns), elevations, distance)
    axes = source[:, :3, :3].mT
    focal = lens_intrinsics(cells)[0][0, 0, 0].to(turns)
    ideal = (pixel_centers(cells, cells).to(turns) - cells / 2) / focal
    rays = torch.cat([ideal, torch.ones_like(ideal[..., :1])], dim=-1).reshape(1, -1, 3)
    turned = _rotate(axes, _rotate(target[:, :3, :3], rays)).unflatten(1, (1, cells, cells))
    shift = _rotate(axes, (target[:, :3, 3] - source[:, :3, 3])[:, None])[:, :, None, None]
    points = turned * depths.to(turns)[:, None, None, None] + shift
    # No point of the sweep is nearer to a camera than this: behind one nothing is projected.
    ahead = points[..., 2:].clamp_min(1e-2)
    return points[..., :2] / ahead * (2 * focal / cells)


def _rotate(matrices: Tensor, vectors: Tensor) -> Tensor:
    """[V, N, 3] of matrices [V, 3, 3] and vectors [V or 1, N, 3]. As sums of products, since autocast would
    multiply matrices in half precision, which moves points by a good part of a cell."""
    return (matrices[:, None] * vectors[..., None, :]).sum(dim=-1)


def relative_sweep_grid(
    source_from_target: Tensor,
    target_lens: Tensor,
    source_lens: Tensor,
    depths: Tensor,
    cells: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """As `sweep_grid`, for pairs of any pinhole cameras told by tensors alone, for networks.

    source_from_target [V, 4, 4] rigid; lenses [V, 4]: fx / width, fy / height, cx / width, cy / height of
    each image; depths [V, D] along the targets' z; cells: rows and columns. Returns the grid
    [V, D, h, w, 2], and bool [V, D, h, w]: in front of the source and inside its image.
    """
    lens, other, depths = (x.float() for x in (target_lens, source_lens, depths))
    pose = source_from_target.float()
    rows, columns = cells
    shares = pixel_centers(rows, columns).to(lens) / lens.new_tensor([columns, rows])
    ideal = (shares[None] - lens[:, None, None, 2:]) / lens[:, None, None, :2]
    rays = torch.cat([ideal, torch.ones_like(ideal[..., :1])], dim=-1).reshape(len(lens), -1, 3)
    turned = _rotate(pose[:, :3, :3], rays).unflatten(1, (1, rows, columns))
    points = turned * depths[:, :, None, None, None] + pose[:, None, None, None, :3, 3]
    ahead = points[..., 2:]
    seen = points[..., :2] / ahead.clamp_min(1e-2)
    place = seen * other[:, None, None, None, :2] + other[:, None, None, None, 2:]
    grid = 2 * place - 1
    inside = (ahead[..., 0] > 1e-2) & (grid.abs() <= 1).all(dim=-1)
    return grid, inside
