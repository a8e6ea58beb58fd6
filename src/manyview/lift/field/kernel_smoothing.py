"""Regularisers of a voxel grid, compiled, for a list of inner nodes (flat numbers) with six neighbours."""

from __future__ import annotations

import numpy as np

from manyview.lift.field.compilation import inner, kernel

_HALF, _ONE, _SIX = np.float32(0.5), np.float32(1), np.float32(6)
_TINY = np.float32(1e-6)


@inner
def laplacian(grid, n, sy, sz) -> np.float32:
    """Sum of the six neighbours minus six times the node; `grid` is flat, its strides sy and sz (and 1)."""
    around = grid[n - sy] + grid[n + sy] + grid[n - sz] + grid[n + sz] + grid[n - 1] + grid[n + 1]
    return around - _SIX * grid[n]


@kernel
def measure(start, stop, nodes, grid, sy, sz, room) -> None:
    """room [*, 4] at each node: (|slope| - 1) times the unit slope (central differences), the Laplacian."""
    for m in range(start, stop):
        n = nodes[m]
        x, y, z = (
            _HALF * (grid[n + sy] - grid[n - sy]),
            _HALF * (grid[n + sz] - grid[n - sz]),
            _HALF * (grid[n + 1] - grid[n - 1]),
        )
        length = np.sqrt(x * x + y * y + z * z)
        share = (length - _ONE) / max(length, _TINY)
        room[n, 0], room[n, 1], room[n, 2] = share * x, share * y, share * z
        room[n, 3] = laplacian(grid, n, sy, sz)


@kernel
def add_slopes(start, stop, nodes, sy, sz, room, eikonal, bend, total) -> None:
    """Add the gradient of the sum over nodes of eikonal (|slope| - 1)^2 / 2 + bend Laplacian^2 / 2."""
    for m in range(start, stop):
        n = nodes[m]
        flow = (room[n - sy, 0] - room[n + sy, 0]) + (room[n - sz, 1] - room[n + sz, 1])
        flow += room[n - 1, 2] - room[n + 1, 2]
        curve = room[n - sy, 3] + room[n + sy, 3] + room[n - sz, 3] + room[n + sz, 3]
        curve += room[n - 1, 3] + room[n + 1, 3] - _SIX * room[n, 3]
        total[n] += _HALF * eikonal * flow + bend * curve


@kernel
def diffuse(start, stop, nodes, grid, sy, sz, amount, total) -> None:
    """total += -amount times the Laplacian: the gradient of amount / 2 times the squared differences."""
    for m in range(start, stop):
        n = nodes[m]
        total[n] -= amount * laplacian(grid, n, sy, sz)
