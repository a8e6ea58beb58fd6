"""Multiresolution grids, compiled: look-up and its gradient. See encodings.py for what is computed.

Callers run blocks of points (look-up) or whole levels (gradient of the table) side by side, so that no two
threads write to one place and sums keep the order of the points.
"""

from __future__ import annotations

import numpy as np

from manyview.lift.field.compilation import inner, kernel

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_PRIME_Y, _PRIME_Z = np.uint32(2654435761), np.uint32(805459861)


@inner
def row_of(x, y, z, stride, size, hashed) -> int:
    """The row of a corner within its level."""
    if hashed:
        mixed = np.uint32(x) ^ (np.uint32(y) * _PRIME_Y) ^ (np.uint32(z) * _PRIME_Z)
        return np.int64(mixed) % size
    row = x
    if stride <= size:
        row += y * stride
        if stride * stride <= size:
            row += z * stride * stride
    return row % size


@inner
def outside(point) -> bool:
    """Whether a point lies outside the unit cube."""
    within = True
    for axis in range(3):
        within = within and point[axis] >= _ZERO and point[axis] <= _ONE
    return not within


@kernel
def encode(start, stop, points, table, offsets, scales, strides, hashed, out) -> None:
    """out [N, L C] for points start..stop of [N, 3]."""
    num_levels, channels = len(scales), table.shape[1]
    for n in range(start, stop):
        if outside(points[n]):
            for c in range(num_levels * channels):
                out[n, c] = _ZERO
            continue
        for level in range(num_levels):
            first, size = offsets[level], offsets[level + 1] - offsets[level]
            px = points[n, 0] * scales[level] + _HALF
            py = points[n, 1] * scales[level] + _HALF
            pz = points[n, 2] * scales[level] + _HALF
            x, y, z = np.int64(px), np.int64(py), np.int64(pz)
            fx, fy, fz = px - np.float32(x), py - np.float32(y), pz - np.float32(z)
            place = level * channels
            for c in range(channels):
                out[n, place + c] = _ZERO
            for corner in range(8):
                a, b, e = corner & 1, (corner >> 1) & 1, corner >> 2
                weight = (fx if a == 1 else _ONE - fx) * (fy if b == 1 else _ONE - fy)
                weight *= fz if e == 1 else _ONE - fz
                row = first + row_of(x + a, y + b, z + e, strides[level], size, hashed[level])
                for c in range(channels):
                    out[n, place + c] += weight * table[row, c]


@kernel
def add_table_slopes(level, points, g, offsets, scales, strides, hashed, total) -> None:
    """Add the gradient of one level's rows to `total` [rows, C]."""
    channels = total.shape[1]
    first, size, place = offsets[level], offsets[level + 1] - offsets[level], level * channels
    for n in range(len(points)):
        if outside(points[n]):
            continue
        px = points[n, 0] * scales[level] + _HALF
        py = points[n, 1] * scales[level] + _HALF
        pz = points[n, 2] * scales[level] + _HALF
        x, y, z = np.int64(px), np.int64(py), np.int64(pz)
        fx, fy, fz = px - np.float32(x), py - np.float32(y), pz - np.float32(z)
        for corner in range(8):
            a, b, e = corner & 1, (corner >> 1) & 1, corner >> 2
            weight = (fx if a == 1 else _ONE - fx) * (fy if b == 1 else _ONE - fy)
            weight *= fz if e == 1 else _ONE - fz
            row = first + row_of(x + a, y + b, z + e, strides[level], size, hashed[level])
            for c in range(channels):
                total[row, c] += weight * g[n, place + c]
