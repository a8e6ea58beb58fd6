"""Trilinear values of voxel grids in torch, on any device: the readable form of kernel_marching's look-ups.

Grid coordinates: node (i, j, k) sits at the point (i, j, k).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def corner_weights(points: Tensor, shape: tuple[int, int, int] | torch.Size) -> tuple[Tensor, Tensor]:
    """Flat node numbers [N, 8] and weights [N, 8] of `points` [N, 3] in a grid of `shape`.

    Points outside are moved to the border. The weights carry the gradient to the points.
    """
    limits = torch.tensor([size - 1 for size in shape], dtype=points.dtype, device=points.device)
    inside = torch.minimum(points.clamp_min(0), limits)
    cell = torch.minimum(inside.detach().floor(), limits - 1)
    part = inside - cell
    cell = cell.long()
    numbers, weights = [], []
    for a in (0, 1):
        wx = part[:, 0] if a else 1 - part[:, 0]
        for b in (0, 1):
            wy = part[:, 1] if b else 1 - part[:, 1]
            for c in (0, 1):
                wz = part[:, 2] if c else 1 - part[:, 2]
                row = (cell[:, 0] + a) * shape[1] + cell[:, 1] + b
                numbers.append(row * shape[2] + cell[:, 2] + c)
                weights.append(wx * wy * wz)
    return torch.stack(numbers, dim=1), torch.stack(weights, dim=1)


def blend_grid(grid: Tensor, points: Tensor) -> Tensor:
    """[N] trilinear values of `grid` [X, Y, Z] at `points` [N, 3] in grid coordinates."""
    numbers, weights = corner_weights(points, grid.shape)
    return (grid.reshape(-1)[numbers] * weights).sum(dim=1)


def blend_rows(index: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """[N, C] trilinear values of `rows` [M, C] where `index` [X, Y, Z] says which node has which row.

    Nodes without a row (-1) count as zeros.
    """
    numbers, weights = corner_weights(points, index.shape)
    chosen = index.reshape(-1)[numbers].long()
    weights = weights * (chosen >= 0)
    return functional.embedding_bag(chosen.clamp_min(0), rows, per_sample_weights=weights, mode="sum")


def blend_slope(grid: Tensor, points: Tensor) -> Tensor:
    """[N, 3] gradient in position of the trilinear value, per voxel."""
    with torch.enable_grad():
        places = points.detach().requires_grad_(True)
        values = blend_grid(grid.detach(), places)
        (slope,) = torch.autograd.grad(values.sum(), places)
    return slope
