"""Where Gaussians begin: the frame of the fit, the visual hull of the masks, first colours and sizes."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity, focus_point
from manyview.geometry.pixels import inside_image, sample_images
from manyview.geometry.projection import project, projection_matrices
from manyview.lift.splats.model import Splats
from manyview.types import Cameras, Views

DISTANCE = 1.5
"""Mean distance of the cameras from the origin in the frame of the fit."""
_COARSE_GRID, _GRID = 32, 64
_FRACTIONS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
_FEWEST_CELLS = 32


def fit_frame(cameras: Cameras) -> tuple[Cameras, Similarity]:
    """The cameras moved so that what they look at is the origin and their mean distance is DISTANCE, and how.

    What they look at is the point nearest to the optical axes. Where that says nothing (one camera, all
    axes parallel, or a point behind the cameras) it is the point on the mean axis as far away as the world's
    origin, which is where objects of this package stand.
    """
    centers, axes = cameras.centers, cameras.world_from_cam[:, :3, 2]
    try:
        focus = focus_point(cameras)
        ahead = bool((((focus - centers) * axes).sum(dim=-1) > 0).float().mean() > 0.5)
    except InputError:
        focus, ahead = centers.mean(dim=0), False
    if not ahead:
        distances = torch.linalg.vector_norm(centers, dim=-1, keepdim=True)
        distances = torch.where(distances > 0, distances, torch.ones_like(distances))
        focus = (centers + distances * axes).mean(dim=0)
    spread = float(torch.linalg.vector_norm(centers - focus, dim=-1).mean())
    scale = DISTANCE / spread if spread > 0 else 1.0
    similarity = Similarity(scale, torch.eye(3).to(focus), -scale * focus)
    return similarity.apply_to_cameras(cameras), similarity


def scene_box(cameras: Cameras) -> float:
    """Half the side of the cube about the origin that the cameras of a fit frame see: the widest view of the
    plane through the origin."""
    half_width = cameras.sizes[:, 1] / (2 * cameras.K[:, 0, 0])
    half_height = cameras.sizes[:, 0] / (2 * cameras.K[:, 1, 1])
    distance = torch.linalg.vector_norm(cameras.centers, dim=-1)
    return float((torch.maximum(half_width, half_height) * distance).max())


def hull_cells(views: Views, half_side: float) -> tuple[Tensor, float]:
    """Centres [M, 3] of the cells of the visual hull, of a grid over the cube, and a cell's side.

    A cell is inside if its centre is on the mask in every view that sees it; where the masks contradict
    each other, in as large a fraction of them as leaves something. Without masks every cell that half of the
    cameras see. Raises `InputError` where all masks are empty.
    """
    assert views.cameras is not None, "the caller has checked"
    if views.masks is not None and not bool((views.masks > 0.5).any()):
        raise InputError("views.masks", "all empty", "expected the object in at least one mask")
    cells, side = _grid(half_side, _COARSE_GRID, views.images.device)
    inside = _choose_cells(views, cells)
    # A finer look at the box of what was found; without any, thin things may show there.
    half = min(half_side, float(inside.abs().max()) + side) if len(inside) else half_side
    cells, side = _grid(half, _GRID, views.images.device)
    inside = _choose_cells(views, cells)
    if len(inside) == 0:
        raise InputError("views.masks", "have nothing in common", "expected masks of one object")
    return inside, side


def _grid(half: float, num: int, device: torch.device) -> tuple[Tensor, float]:
    side = 2 * half / num
    line = (torch.arange(num, device=device) + 0.5) * side - half
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3), side


def _choose_cells(views: Views, cells: Tensor) -> Tensor:
    cameras = views.cameras
    assert cameras is not None, "the caller has checked"
    seen_by, on_mask = torch.zeros(len(cells)).to(cells), torch.zeros(len(cells)).to(cells)
    for index, matrix in enumerate(projection_matrices(cameras)):
        height, width = cameras.sizes[index].tolist()
        across, down, depth = (matrix[:, :3] @ cells.mT + matrix[:, 3:]).unbind()
        # Nearest pixel; points at or behind the camera fall outside by way of infinity.
        scale = torch.where(depth > 0, 1 / depth, torch.inf)
        column, row = (across * scale).floor(), (down * scale).floor()
        sees = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        seen_by += sees
        if views.masks is not None:
            place = torch.where(sees, row * width + column, 0).long()
            on_mask += sees & (views.masks[index].reshape(-1) > 0.5)[place]
    often = seen_by >= max(1, math.ceil(0.5 * len(views)))
    if views.masks is None:
        return cells[often]
    fraction = torch.where(often, on_mask / seen_by.clamp_min(1), 0)
    for least in _FRACTIONS:
        chosen = fraction >= least
        if int(chosen.sum()) >= _FEWEST_CELLS:
            return cells[chosen]
    best = float(fraction.max())
    return cells[fraction >= best] if best > 0 else cells[:0]


def start_splats(
    views: Views, num_points: int, sh_degree: int, generator: torch.Generator, half_side: float
) -> Splats:
    """`num_points` small Gaussians inside the visual hull, coloured by the mean of the views there."""
    cells, side = hull_cells(views, half_side)
    chosen = torch.randint(len(cells), (num_points,), generator=generator)
    jitter = torch.rand(num_points, 3, generator=generator) - 0.5
    points = cells[chosen.to(cells.device)] + jitter.to(cells) * side
    scales = neighbour_distances(points).clamp(0.1 * side, 4 * side)
    return Splats.from_points(points, mean_colors(views, points), scales, opacity=0.1, sh_degree=sh_degree)


def neighbour_distances(points: Tensor) -> Tensor:
    """[N] root mean square distance to the three nearest other points."""
    coordinates = points.detach().cpu().numpy().astype(np.float64)
    distances, _ = KDTree(coordinates).query(coordinates, k=min(4, len(coordinates)))
    nearest = np.sqrt(np.square(np.atleast_2d(distances)[:, 1:]).mean(axis=1)) if len(points) > 1 else [0.0]
    return torch.as_tensor(nearest, dtype=points.dtype, device=points.device)


def mean_colors(views: Views, points: Tensor) -> Tensor:
    """[N, 3] mean over the views of the colour at the points' projections, weighted by the mask."""
    assert views.cameras is not None, "the caller has checked"
    total, weight = torch.zeros_like(points), torch.zeros_like(points[:, :1])
    for index in range(len(views)):
        pixels, depth = project(points[None], views.cameras[index])
        sees = inside_image(pixels, views.cameras.sizes[index : index + 1])[0] & (depth[0] > 0)
        share = sees[:, None].to(points)
        if views.masks is not None:
            share = share * sample_images(views.masks[index : index + 1], pixels)[0].mT
        total += share * sample_images(views.images[index : index + 1], pixels)[0].mT
        weight += share
    return torch.where(weight > 0, total / weight.clamp_min(1e-6), 0.5)
