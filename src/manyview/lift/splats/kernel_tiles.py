"""Which Gaussians touch which tile, front to back: a radix sort by depth, then a counting sort by tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from manyview.lift.splats.compilation import inner, kernel
from manyview.lift.splats.kernel_projection import DEPTH, REACH_U, REACH_V, U, V

TILE_WIDTH, TILE_HEIGHT = 16, 16
_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS


@inner()
def sort_by_depth(screen, seen) -> np.ndarray:
    """Indices of the seen Gaussians, nearest first; equal depths keep their order."""
    count = 0
    for i in range(len(seen)):
        count += seen[i]
    order, other = np.empty(count, np.int32), np.empty(count, np.int32)
    keys, other_keys = np.empty(count, np.uint32), np.empty(count, np.uint32)
    depths = np.empty(count, np.float32)
    place = 0
    for i in range(len(seen)):
        if seen[i]:
            order[place], depths[place] = i, screen[i, DEPTH]
            place += 1
    # Positive floats are ordered as their bits are.
    keys[:] = depths.view(np.uint32)
    for shift in range(0, 32, _DIGIT_BITS):
        starts = np.zeros(_DIGITS + 1, np.int64)
        for k in range(count):
            starts[((keys[k] >> np.uint32(shift)) & np.uint32(_DIGITS - 1)) + 1] += 1
        for digit in range(_DIGITS):
            starts[digit + 1] += starts[digit]
        for k in range(count):
            digit = (keys[k] >> np.uint32(shift)) & np.uint32(_DIGITS - 1)
            target = starts[digit]
            starts[digit] = target + 1
            other[target], other_keys[target] = order[k], keys[k]
        order, other = other, order
        keys, other_keys = other_keys, keys
    return order


@inner()
def tile_range(low, high, size, num) -> tuple[Any, Any]:
    """First tile and one past the last that an interval of pixels touches."""
    first = max(np.int64(np.floor(low / np.float32(size))), 0)
    last = min(np.int64(np.floor(high / np.float32(size))) + 1, num)
    return first, max(last, first)


@kernel()
def list_tiles(screen, seen, width, height) -> tuple[np.ndarray, ...]:
    """The pairs (Gaussian, tile), sorted by tile and then by depth.

    Gives `tile_starts` [tiles + 1], `members` [P] (the Gaussian of a pair), `starts` [N + 1] and `places`
    [P]: the pairs of Gaussian i are places[starts[i] : starts[i + 1]].
    """
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    count = len(seen)
    ranges = np.zeros((count, 4), np.int32)
    starts = np.zeros(count + 1, np.int64)
    tile_starts = np.zeros(columns * rows + 1, np.int64)
    for i in range(count):
        if seen[i]:
            u, v, reach_u, reach_v = screen[i, U], screen[i, V], screen[i, REACH_U], screen[i, REACH_V]
            left, right = tile_range(u - reach_u, u + reach_u, TILE_WIDTH, columns)
            top, bottom = tile_range(v - reach_v, v + reach_v, TILE_HEIGHT, rows)
            ranges[i, 0], ranges[i, 1], ranges[i, 2], ranges[i, 3] = left, right, top, bottom
            for row in range(top, bottom):
                for column in range(left, right):
                    tile_starts[row * columns + column + 1] += 1
            starts[i + 1] = (right - left) * (bottom - top)
        starts[i + 1] += starts[i]
    for tile in range(columns * rows):
        tile_starts[tile + 1] += tile_starts[tile]
    total = tile_starts[columns * rows]
    members, places = np.empty(total, np.int32), np.empty(total, np.int32)
    filled = tile_starts.copy()
    order = sort_by_depth(screen, seen)
    for i in order:
        place = starts[i]
        for row in range(ranges[i, 2], ranges[i, 3]):
            for column in range(ranges[i, 0], ranges[i, 1]):
                tile = row * columns + column
                target = filled[tile]
                filled[tile] = target + 1
                members[target], places[place] = i, target
                place += 1
    return tile_starts, members, starts, places
