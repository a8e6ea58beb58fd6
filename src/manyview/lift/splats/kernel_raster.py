"""Blending compiled: every tile front to back, and its gradient, on all cores.

A thread works on one tile at a time, in a scratch array with one row of TILE_WIDTH x TILE_HEIGHT numbers for
each quantity. The loops over pixels have no branches, so that the compiler can use vector instructions.
Indices in them are unsigned because Numba lets negative ones count from the end, which costs vectors.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from manyview.lift.splats.compilation import fetch_next, inner, kernel
from manyview.lift.splats.kernel_projection import (
    BLUE,
    CUTOFF,
    DEPTH,
    GREEN,
    OPACITY,
    REACH_V,
    RED,
    A,
    B,
    C,
    U,
    V,
)
from manyview.lift.splats.kernel_tiles import TILE_HEIGHT, TILE_WIDTH
from manyview.lift.splats.projection import MAX_ALPHA, MIN_TRANSMITTANCE

NUM_PIXELS = TILE_WIDTH * TILE_HEIGHT
NUM_CHANNELS = 5
NUM_PAIR_GRADIENTS = 10
CHECK_EVERY = 8

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
LARGEST, SMALLEST = np.float32(MAX_ALPHA), np.float32(MIN_TRANSMITTANCE)

# Rows of the scratch array; the offsets are in pixels. P and Q: pixel centre; T: light that still passes.
P = np.uint64(0 * NUM_PIXELS)
Q = np.uint64(1 * NUM_PIXELS)
T = np.uint64(2 * NUM_PIXELS)
# Forward: the sums. Backward: the gradients of the sums.
SUM_RED = np.uint64(3 * NUM_PIXELS)
SUM_GREEN = np.uint64(4 * NUM_PIXELS)
SUM_BLUE = np.uint64(5 * NUM_PIXELS)
SUM_DEPTH = np.uint64(6 * NUM_PIXELS)
# Backward only: gradient of alpha, what the Gaussians from here on add to the loss, weight, d alpha x alpha.
SUM_ALPHA = np.uint64(7 * NUM_PIXELS)
REST = np.uint64(8 * NUM_PIXELS)
WEIGHT = np.uint64(9 * NUM_PIXELS)
SLOPE = np.uint64(10 * NUM_PIXELS)
NUM_ROWS = 11

# exp(-s) = exp(-s / 8)^8, with the Taylor series in s / 8 < 0.7 (the cut-off is at most log 255 = 5.54):
# the first term left out is 0.7^9 / 9! = 1e-7, eight times that relative to the result.
EIGHTH, LONGEST = np.float32(0.125), np.float32(0.7)
E2, E3, E4, E5, E6, E7, E8 = (
    np.float32(v) for v in (1 / 2, -1 / 6, 1 / 24, -1 / 120, 1 / 720, -1 / 5040, 1 / 40320)
)


@inner()
def exponent(a, b, c, dx, dy) -> np.float32:
    """(d^T conic d) / 2, rounded as in reference.py; no fast mathematics here."""
    return ((a * dx) * dx + (c * dy) * dy) * HALF + (b * dx) * dy


@inner(fastmath=True)
def decay(s) -> np.float32:
    """exp(-s) for 0 <= s <= log 255; some finite number beyond."""
    t = min(s * EIGHTH, LONGEST)
    value = ONE - t * (ONE - t * (E2 + t * (E3 + t * (E4 + t * (E5 + t * (E6 + t * (E7 + t * E8)))))))
    value = value * value
    value = value * value
    return value * value


@inner(fastmath=True)
def blend(room, first, last, g) -> None:
    """Add Gaussian g (a row of the screen table) to the pixels first .. last of a tile."""
    u, v, a, b, c, opacity, cutoff = g[U], g[V], g[A], g[B], g[C], g[OPACITY], g[CUTOFF]
    red, green, blue, depth = g[RED], g[GREEN], g[BLUE], g[DEPTH]
    for p in range(first, last):
        s = exponent(a, b, c, room[P + p] - u, room[Q + p] - v)
        passing = room[T + p]
        alpha = min(opacity * decay(s), LARGEST)
        alpha = alpha if (s <= cutoff) & (passing >= SMALLEST) else ZERO
        weight = alpha * passing
        room[SUM_RED + p] += weight * red
        room[SUM_GREEN + p] += weight * green
        room[SUM_BLUE + p] += weight * blue
        room[SUM_DEPTH + p] += weight * depth
        room[T + p] = passing - weight


@inner(fastmath=True)
def blend_gradient(room, first, last, g) -> None:
    """The loop over pixels of the backward pass: fills WEIGHT and SLOPE, and moves T and REST past g."""
    u, v, a, b, c, opacity, cutoff = g[U], g[V], g[A], g[B], g[C], g[OPACITY], g[CUTOFF]
    red, green, blue, depth = g[RED], g[GREEN], g[BLUE], g[DEPTH]
    for p in range(first, last):
        s = exponent(a, b, c, room[P + p] - u, room[Q + p] - v)
        passing = room[T + p]
        full = opacity * decay(s)
        alpha = min(full, LARGEST)
        alpha = alpha if (s <= cutoff) & (passing >= SMALLEST) else ZERO
        weight = alpha * passing
        gain = room[SUM_RED + p] * red + room[SUM_GREEN + p] * green + room[SUM_BLUE + p] * blue
        gain += room[SUM_DEPTH + p] * depth + room[SUM_ALPHA + p]
        rest = room[REST + p] - weight * gain
        # More alpha here gives this Gaussian its gain and takes the part 1 / (1 - alpha) of what comes after.
        slope = weight * gain - rest * alpha / (ONE - alpha)
        room[SLOPE + p] = slope if full <= LARGEST else ZERO
        room[WEIGHT + p] = weight
        room[REST + p] = rest
        room[T + p] = passing - weight


@inner(fastmath=True)
def gather_pair(room, first, last, g, out) -> None:
    """Sum WEIGHT and SLOPE over the pixels into the ten numbers of a (Gaussian, tile) pair."""
    u, v, a, b, c = g[U], g[V], g[A], g[B], g[C]
    red, green, blue, depth = ZERO, ZERO, ZERO, ZERO
    total, x, y, xx, xy, yy = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for p in range(first, last):
        weight = room[WEIGHT + p]
        red += weight * room[SUM_RED + p]
        green += weight * room[SUM_GREEN + p]
        blue += weight * room[SUM_BLUE + p]
        depth += weight * room[SUM_DEPTH + p]
    for p in range(first, last):
        dx, dy, slope = room[P + p] - u, room[Q + p] - v, room[SLOPE + p]
        total += slope
        by_x, by_y = slope * dx, slope * dy
        x += by_x
        y += by_y
        xx += by_x * dx
        xy += by_x * dy
        yy += by_y * dy
    # The gradient of the exponent is -slope, and d exponent / d u is -(a dx + b dy).
    out[0], out[1] = a * x + b * y, b * x + c * y
    out[2], out[3], out[4] = -HALF * xx, -xy, -HALF * yy
    out[5] = total
    out[6], out[7], out[8], out[9] = red, green, blue, depth


@inner(fastmath=True)
def is_dark(room) -> np.bool_:
    """Whether no pixel of the tile takes anything more."""
    most = ZERO
    for p in range(np.uint64(NUM_PIXELS)):
        most = max(most, room[T + p])
    return most < SMALLEST


@inner()
def pixel_span(g, top) -> tuple[np.uint64, np.uint64]:
    """First and one past the last scratch index of the rows of a tile that a Gaussian reaches."""
    low = np.int64(np.floor(g[V] - g[REACH_V])) - top
    high = np.int64(np.floor(g[V] + g[REACH_V])) - top + 1
    low, high = min(max(low, 0), TILE_HEIGHT), min(max(high, 0), TILE_HEIGHT)
    return np.uint64(low * TILE_WIDTH), np.uint64(max(high, low) * TILE_WIDTH)


@inner()
def open_tile(room, left, top) -> None:
    """Set pixel centres and let all light pass."""
    for y in range(TILE_HEIGHT):
        for x in range(TILE_WIDTH):
            p = np.uint64(y * TILE_WIDTH + x)
            room[P + p], room[Q + p] = np.float32(left + x) + HALF, np.float32(top + y) + HALF
            room[T + p] = ONE


@inner()
def draw_tile(tile, tile_starts, members, screen, room, out) -> None:
    """out [5, H, W] of one tile."""
    height, width = out.shape[1], out.shape[2]
    columns = -(-width // TILE_WIDTH)
    left, top = (tile % columns) * TILE_WIDTH, (tile // columns) * TILE_HEIGHT
    open_tile(room, left, top)
    room[SUM_RED : SUM_DEPTH + np.uint64(NUM_PIXELS)] = ZERO
    for k in range(tile_starts[tile], tile_starts[tile + 1]):
        g = screen[members[k]]
        first, last = pixel_span(g, top)
        blend(room, first, last, g)
        if k % CHECK_EVERY == 0 and is_dark(room):
            break
    for y in range(top, min(top + TILE_HEIGHT, height)):
        for x in range(left, min(left + TILE_WIDTH, width)):
            p = np.uint64((y - top) * TILE_WIDTH + (x - left))
            out[0, y, x], out[1, y, x] = room[SUM_RED + p], room[SUM_GREEN + p]
            out[2, y, x], out[3, y, x] = room[SUM_BLUE + p], room[SUM_DEPTH + p]
            out[4, y, x] = ONE - room[T + p]


@inner()
def trace_tile(tile, tile_starts, members, screen, image, d_image, room, d_pairs) -> None:
    """Gradients of one tile's pairs, d_pairs [P, 10], from those of its pixels."""
    height, width = image.shape[1], image.shape[2]
    columns = -(-width // TILE_WIDTH)
    left, top = (tile % columns) * TILE_WIDTH, (tile // columns) * TILE_HEIGHT
    open_tile(room, left, top)
    room[SUM_RED : REST + np.uint64(NUM_PIXELS)] = ZERO
    for y in range(top, min(top + TILE_HEIGHT, height)):
        for x in range(left, min(left + TILE_WIDTH, width)):
            p = np.uint64((y - top) * TILE_WIDTH + (x - left))
            room[SUM_RED + p], room[SUM_GREEN + p] = d_image[0, y, x], d_image[1, y, x]
            room[SUM_BLUE + p], room[SUM_DEPTH + p] = d_image[2, y, x], d_image[3, y, x]
            room[SUM_ALPHA + p] = d_image[4, y, x]
            rest = ZERO
            for channel in range(NUM_CHANNELS):
                rest += d_image[channel, y, x] * image[channel, y, x]
            room[REST + p] = rest
    start, stop = tile_starts[tile], tile_starts[tile + 1]
    for k in range(start, stop):
        g = screen[members[k]]
        first, last = pixel_span(g, top)
        blend_gradient(room, first, last, g)
        gather_pair(room, first, last, g, d_pairs[k])
        if k % CHECK_EVERY == 0 and is_dark(room):
            d_pairs[k + 1 : stop] = ZERO
            break


@kernel(parallel=True)
def draw_all(workers, counter, order, tile_starts, members, screen, out) -> None:
    """Fill out [5, H, W]; see reference.py for what the channels are."""
    for _ in prange(workers):
        room = np.empty(NUM_ROWS * NUM_PIXELS, np.float32)
        while True:
            turn = fetch_next(counter)
            if turn >= len(order):
                break
            draw_tile(order[turn], tile_starts, members, screen, room, out)


@kernel(parallel=True)
def trace_all(workers, counter, order, lists, screen, image, d_image, d_pairs) -> None:
    """Fill d_pairs [P, 10] from the image and its gradient, both [5, H, W]."""
    tile_starts, members = lists
    for _ in prange(workers):
        room = np.empty(NUM_ROWS * NUM_PIXELS, np.float32)
        while True:
            turn = fetch_next(counter)
            if turn >= len(order):
                break
            trace_tile(order[turn], tile_starts, members, screen, image, d_image, room, d_pairs)
