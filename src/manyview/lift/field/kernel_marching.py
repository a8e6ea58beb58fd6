"""Marching rays through voxels, compiled: density and signed distance, and the gradients of both.

Grid coordinates: node (i, j, k) of a grid [X, Y, Z] sits at the point (i, j, k), lengths are in voxels. Rays
come in grid coordinates with unit directions. The geometry (raw density or distance) is dense; the features
lie in rows [M, 8] that `index` [X, Y, Z] points to (-1: no row, zeros).

What a ray gives, a row of NUM_OUTPUTS: the weighted sums of the 8 features (the first three after a sigmoid:
colour), then opacity, distance along the ray, normal.

No function here starts threads: callers run blocks of rays side by side. The gradient pass writes one record
for each sample, and the scatter gives each thread its own planes of the grid and the records in their
order, so that sums do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from manyview.lift.field.compilation import inner, kernel

NUM_FEATURES = 8
NUM_COLORS = 3
OPACITY, DEPTH, NORMAL = 8, 9, 10
NUM_OUTPUTS = 13
MIN_ALPHA = 1e-4
MAX_ALPHA = 1 - 1e-4
MIN_TRANSMITTANCE = 1e-3
LEAP = 0.8
SHARP_BAND = 6.0

_ZERO, _HALF, _ONE, _TWO = (np.float32(v) for v in (0, 0.5, 1, 2))
_HUGE = np.float32(1e30)
_LOW_ALPHA, _HIGH_ALPHA, _DARK = np.float32(MIN_ALPHA), np.float32(MAX_ALPHA), np.float32(MIN_TRANSMITTANCE)
_LEAP, _SHARP_BAND = np.float32(LEAP), np.float32(SHARP_BAND)


@inner
def clip_ray(o, d, shape, near) -> tuple[np.float32, np.float32]:
    """Where a ray enters and leaves the nodes' box; leave < enter where it misses."""
    enter, leave = near, _HUGE
    for axis in range(3):
        high = np.float32(shape[axis] - 1)
        if abs(d[axis]) < np.float32(1e-9):
            if o[axis] < _ZERO or o[axis] > high:
                leave = -_ONE
        else:
            inverse = _ONE / d[axis]
            a, b = -o[axis] * inverse, (high - o[axis]) * inverse
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    return enter, leave


@inner
def locate(o, d, t, shape, cell, part) -> None:
    """Fill the cell and the position within it, of the point at distance t."""
    for axis in range(3):
        x = o[axis] + t * d[axis]
        i = min(max(int(np.floor(x)), 0), shape[axis] - 2)
        cell[axis] = i
        part[axis] = min(max(x - np.float32(i), _ZERO), _ONE)


@inner
def blend(grid, cell, part) -> np.float32:
    """Trilinear value of a dense grid."""
    i, j, k = cell[0], cell[1], cell[2]
    x, y, z = part[0], part[1], part[2]
    a = grid[i, j, k] + z * (grid[i, j, k + 1] - grid[i, j, k])
    b = grid[i, j + 1, k] + z * (grid[i, j + 1, k + 1] - grid[i, j + 1, k])
    c = grid[i + 1, j, k] + z * (grid[i + 1, j, k + 1] - grid[i + 1, j, k])
    e = grid[i + 1, j + 1, k] + z * (grid[i + 1, j + 1, k + 1] - grid[i + 1, j + 1, k])
    a, c = a + y * (b - a), c + y * (e - c)
    return a + x * (c - a)


@inner
def blend_slope(grid, cell, part, out) -> None:
    """out[:3] = the gradient in position of the trilinear value, made a unit vector."""
    i, j, k = cell[0], cell[1], cell[2]
    x, y, z = part[0], part[1], part[2]
    for axis in range(3):
        out[axis] = _ZERO
    for a in range(2):
        wx, sx = (x, _ONE) if a == 1 else (_ONE - x, -_ONE)
        for b in range(2):
            wy, sy = (y, _ONE) if b == 1 else (_ONE - y, -_ONE)
            for c in range(2):
                wz, sz = (z, _ONE) if c == 1 else (_ONE - z, -_ONE)
                value = grid[i + a, j + b, k + c]
                out[0] += value * sx * wy * wz
                out[1] += value * wx * sy * wz
                out[2] += value * wx * wy * sz
    length = np.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2])
    inverse = _ONE / max(length, np.float32(1e-6))
    for axis in range(3):
        out[axis] *= inverse


@inner
def gather(index, features, cell, part, out) -> None:
    """out[:8] = trilinear features, the first three after a sigmoid."""
    for c in range(NUM_FEATURES):
        out[c] = _ZERO
    for a in range(2):
        wx = part[0] if a == 1 else _ONE - part[0]
        for b in range(2):
            wxy = wx * (part[1] if b == 1 else _ONE - part[1])
            for e in range(2):
                weight = wxy * (part[2] if e == 1 else _ONE - part[2])
                row = index[cell[0] + a, cell[1] + b, cell[2] + e]
                if row >= 0:
                    for c in range(NUM_FEATURES):
                        out[c] += weight * features[row, c]
    for c in range(NUM_COLORS):
        out[c] = _ONE / (_ONE + np.exp(-out[c]))


@inner
def density_alpha(raw, gain) -> tuple[np.float32, np.float32]:
    """Opacity of one step of softplus density, and its derivative in the raw value."""
    e = np.exp(-abs(raw))
    soft = max(raw, _ZERO) + np.log(_ONE + e)
    left = np.exp(-soft * gain)
    slope = _ONE / (_ONE + e) if raw >= _ZERO else e / (_ONE + e)
    return _ONE - left, left * gain * slope


@inner
def log_sigmoid(v) -> np.float32:
    """log(1 / (1 + exp(-v)))."""
    return min(v, _ZERO) - np.log(_ONE + np.exp(-abs(v)))


@inner
def sigmoid(v) -> np.float32:
    """1 / (1 + exp(-v)) without overflow."""
    e = np.exp(-abs(v))
    return _ONE / (_ONE + e) if v >= _ZERO else e / (_ONE + e)


@inner
def section_slope(cosine, anneal) -> tuple[np.float32, np.float32]:
    """NeuS' slope of the distance along the ray, never positive, and its derivative in the true one."""
    open_slope, open_change = _ZERO, _ZERO
    if cosine < _ONE:
        open_slope, open_change = _HALF * cosine - _HALF, _HALF
    true_slope, true_change = (cosine, _ONE) if cosine < _ZERO else (_ZERO, _ZERO)
    return open_slope * (_ONE - anneal) + true_slope * anneal, open_change * (
        _ONE - anneal
    ) + true_change * anneal


@kernel
def march_density(
    start, stop, origins, directions, jitter, grid, index, features, skip, gain, step, near, out, num
) -> None:
    """Rays start..stop through a density grid: fill `out` and the number of samples that count."""
    cell, part = np.zeros(3, np.int64), np.zeros(3, np.float32)
    color = np.zeros(NUM_FEATURES, np.float32)
    for ray in range(start, stop):
        o, d = origins[ray], directions[ray]
        for c in range(NUM_OUTPUTS):
            out[ray, c] = _ZERO
        enter, leave = clip_ray(o, d, grid.shape, near[ray])
        left, count, at = _ONE, 0, 0
        while left > _DARK:
            t = enter + (np.float32(at) + jitter[ray]) * step
            if t >= leave:
                break
            locate(o, d, t, grid.shape, cell, part)
            free = skip[cell[0], cell[1], cell[2]]
            if free > 0:
                at += max(1, int(np.float32(free - 1) / step))
                continue
            at += 1
            alpha, _ = density_alpha(blend(grid, cell, part), gain)
            if alpha <= _LOW_ALPHA:
                continue
            alpha = min(alpha, _HIGH_ALPHA)
            gather(index, features, cell, part, color)
            weight = left * alpha
            for c in range(NUM_FEATURES):
                out[ray, c] += weight * color[c]
            out[ray, OPACITY] += weight
            out[ray, DEPTH] += weight * t
            left *= _ONE - alpha
            count += 1
        num[ray] = count


@kernel
def record_density(
    start, stop, origins, directions, jitter, grid, index, features, skip, gain, step, near, out, g, first,
    places, slopes, feature_slopes,
) -> None:  # fmt: skip
    """The gradient of march_density as records: place, d geometry, d features of each sample that counts."""
    cell, part = np.zeros(3, np.int64), np.zeros(3, np.float32)
    color = np.zeros(NUM_FEATURES, np.float32)
    for ray in range(start, stop):
        o, d = origins[ray], directions[ray]
        rest = out[ray, OPACITY] * g[ray, OPACITY] + out[ray, DEPTH] * g[ray, DEPTH]
        for c in range(NUM_FEATURES):
            rest += out[ray, c] * g[ray, c]
        enter, leave = clip_ray(o, d, grid.shape, near[ray])
        left, at, place = _ONE, 0, first[ray]
        while place < first[ray + 1]:
            t = enter + (np.float32(at) + jitter[ray]) * step
            if t >= leave:
                break
            locate(o, d, t, grid.shape, cell, part)
            free = skip[cell[0], cell[1], cell[2]]
            if free > 0:
                at += max(1, int(np.float32(free - 1) / step))
                continue
            at += 1
            alpha, change = density_alpha(blend(grid, cell, part), gain)
            if alpha <= _LOW_ALPHA:
                continue
            if alpha > _HIGH_ALPHA:
                alpha, change = _HIGH_ALPHA, _ZERO
            gather(index, features, cell, part, color)
            weight = left * alpha
            value = g[ray, OPACITY] + g[ray, DEPTH] * t
            for c in range(NUM_FEATURES):
                value += g[ray, c] * color[c]
                slope = weight * g[ray, c]
                if c < NUM_COLORS:
                    slope *= color[c] * (_ONE - color[c])
                feature_slopes[place, c] = slope
            rest -= weight * value
            slopes[place] = (left * value - rest / (_ONE - alpha)) * change
            for axis in range(3):
                places[place, axis] = np.float32(cell[axis]) + part[axis]
            left *= _ONE - alpha
            place += 1


@kernel
def march_distance(
    start, stop, origins, directions, jitter, grid, index, features, sharpness, anneal, step, near, out, num,
) -> None:  # fmt: skip
    """Rays start..stop through a distance grid (NeuS, Wang et al. 2021, eq. 13)."""
    cell, part = np.zeros(3, np.int64), np.zeros(3, np.float32)
    color, normal = np.zeros(NUM_FEATURES, np.float32), np.zeros(3, np.float32)
    band = max(_TWO, _SHARP_BAND / sharpness)
    for ray in range(start, stop):
        o, d = origins[ray], directions[ray]
        for c in range(NUM_OUTPUTS):
            out[ray, c] = _ZERO
        enter, leave = clip_ray(o, d, grid.shape, near[ray])
        left, count, t = _ONE, 0, enter + jitter[ray] * step
        before = _ZERO
        if t < leave:
            locate(o, d, t, grid.shape, cell, part)
            before = blend(grid, cell, part)
        while left > _DARK and t < leave:
            length = max(step, (before - band) * _LEAP)
            locate(o, d, t + length, grid.shape, cell, part)
            after = blend(grid, cell, part)
            slope, _ = section_slope((after - before) / length, anneal)
            middle, reach = _HALF * (before + after), _HALF * length * slope
            alpha = _ONE - np.exp(
                log_sigmoid(sharpness * (middle + reach)) - log_sigmoid(sharpness * (middle - reach))
            )
            if alpha > _LOW_ALPHA:
                alpha = min(alpha, _HIGH_ALPHA)
                locate(o, d, t + _HALF * length, grid.shape, cell, part)
                gather(index, features, cell, part, color)
                blend_slope(grid, cell, part, normal)
                weight = left * alpha
                for c in range(NUM_FEATURES):
                    out[ray, c] += weight * color[c]
                out[ray, OPACITY] += weight
                out[ray, DEPTH] += weight * (t + _HALF * length)
                for axis in range(3):
                    out[ray, NORMAL + axis] += weight * normal[axis]
                left *= _ONE - alpha
                count += 1
            t += length
            before = after
        num[ray] = count


@kernel
def record_distance(
    start, stop, origins, directions, jitter, grid, index, features, sharpness, anneal, step, near, out, g,
    first, places, slopes, feature_places, feature_slopes, sharpness_slopes,
) -> None:  # fmt: skip
    """The gradient of march_distance as records. Each section gives two records of geometry: its two ends.

    Normals are taken as constants.
    """
    cell, part = np.zeros(3, np.int64), np.zeros(3, np.float32)
    color = np.zeros(NUM_FEATURES, np.float32)
    band = max(_TWO, _SHARP_BAND / sharpness)
    for ray in range(start, stop):
        o, d = origins[ray], directions[ray]
        rest = out[ray, OPACITY] * g[ray, OPACITY] + out[ray, DEPTH] * g[ray, DEPTH]
        for c in range(NUM_FEATURES):
            rest += out[ray, c] * g[ray, c]
        enter, leave = clip_ray(o, d, grid.shape, near[ray])
        left, place, t = _ONE, first[ray], enter + jitter[ray] * step
        sharper = _ZERO
        before = _ZERO
        if t < leave:
            locate(o, d, t, grid.shape, cell, part)
            before = blend(grid, cell, part)
        while place < first[ray + 1] and t < leave:
            length = max(step, (before - band) * _LEAP)
            locate(o, d, t + length, grid.shape, cell, part)
            after = blend(grid, cell, part)
            slope, slope_change = section_slope((after - before) / length, anneal)
            middle, reach = _HALF * (before + after), _HALF * length * slope
            high, low = middle - reach, middle + reach
            alpha = _ONE - np.exp(log_sigmoid(sharpness * low) - log_sigmoid(sharpness * high))
            if alpha > _LOW_ALPHA:
                flat = alpha > _HIGH_ALPHA
                alpha = min(alpha, _HIGH_ALPHA)
                for axis in range(3):
                    places[2 * place, axis] = o[axis] + t * d[axis]
                    places[2 * place + 1, axis] = o[axis] + (t + length) * d[axis]
                    feature_places[place, axis] = o[axis] + (t + _HALF * length) * d[axis]
                locate(o, d, t + _HALF * length, grid.shape, cell, part)
                gather(index, features, cell, part, color)
                weight = left * alpha
                value = g[ray, OPACITY] + g[ray, DEPTH] * (t + _HALF * length)
                for c in range(NUM_FEATURES):
                    value += g[ray, c] * color[c]
                    change = weight * g[ray, c]
                    if c < NUM_COLORS:
                        change *= color[c] * (_ONE - color[c])
                    feature_slopes[place, c] = change
                rest -= weight * value
                g_alpha = left * value - rest / (_ONE - alpha)
                if flat:
                    g_alpha = _ZERO
                g_high = g_alpha * (_ONE - alpha) * sigmoid(-sharpness * high)
                g_low = -g_alpha * (_ONE - alpha) * sigmoid(-sharpness * low)
                sharper += g_high * high + g_low * low
                g_middle = _HALF * sharpness * (g_high + g_low)
                g_cosine = _HALF * sharpness * (g_low - g_high) * slope_change
                slopes[2 * place] = g_middle - g_cosine
                slopes[2 * place + 1] = g_middle + g_cosine
                left *= _ONE - alpha
                place += 1
            t += length
            before = after
        sharpness_slopes[ray] = sharper


@kernel
def scatter_geometry(worker, workers, places, slopes, total) -> None:
    """Add records to the gradient of a dense grid; this worker's planes only."""
    for n in range(len(slopes)):
        x = min(max(places[n, 0], _ZERO), np.float32(total.shape[0] - 1))
        i = min(int(x), total.shape[0] - 2)
        here, next_one = i % workers == worker, (i + 1) % workers == worker
        if not (here or next_one):
            continue
        y = min(max(places[n, 1], _ZERO), np.float32(total.shape[1] - 1))
        z = min(max(places[n, 2], _ZERO), np.float32(total.shape[2] - 1))
        j, k = min(int(y), total.shape[1] - 2), min(int(z), total.shape[2] - 2)
        x, y, z = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        for a in range(2):
            if not (next_one if a == 1 else here):
                continue
            weight = slopes[n] * (x if a == 1 else _ONE - x)
            total[i + a, j, k] += weight * (_ONE - y) * (_ONE - z)
            total[i + a, j, k + 1] += weight * (_ONE - y) * z
            total[i + a, j + 1, k] += weight * y * (_ONE - z)
            total[i + a, j + 1, k + 1] += weight * y * z


@kernel
def scatter_features(worker, workers, places, slopes, index, total) -> None:
    """Add records to the gradient of the rows; this worker's planes only."""
    for n in range(len(slopes)):
        x = min(max(places[n, 0], _ZERO), np.float32(index.shape[0] - 1))
        i = min(int(x), index.shape[0] - 2)
        here, next_one = i % workers == worker, (i + 1) % workers == worker
        if not (here or next_one):
            continue
        y = min(max(places[n, 1], _ZERO), np.float32(index.shape[1] - 1))
        z = min(max(places[n, 2], _ZERO), np.float32(index.shape[2] - 1))
        j, k = min(int(y), index.shape[1] - 2), min(int(z), index.shape[2] - 2)
        x, y, z = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        for a in range(2):
            if not (next_one if a == 1 else here):
                continue
            wx = x if a == 1 else _ONE - x
            for b in range(2):
                wxy = wx * (y if b == 1 else _ONE - y)
                for e in range(2):
                    row = index[i + a, j + b, k + e]
                    if row >= 0:
                        weight = wxy * (z if e == 1 else _ONE - z)
                        for c in range(NUM_FEATURES):
                            total[row, c] += weight * slopes[n, c]
