"""projection.py compiled: Gaussians onto one screen, and the gradient of that, on all cores.

Gaussians are taken in blocks; threads fetch the next block from a counter. Everything is float32, and the
forward pass has projection.py's order of operations.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from manyview.lift.splats import harmonics
from manyview.lift.splats.compilation import fetch_next, inner, kernel
from manyview.lift.splats.projection import DILATION

BLOCK = 256

# Columns of a Gaussian on the screen, one cache line each.
U, V, A, B, C, OPACITY, CUTOFF, RED, GREEN, BLUE, DEPTH, REACH_U, REACH_V = range(13)
NUM_COLUMNS = 16

# Entries of a camera after the 12 of cam_from_world's upper part.
CENTER, FOCAL, PRINCIPAL, SLOPES, NEAR, SIZE = 12, 15, 17, 19, 23, 24
NUM_CAMERA = 26
NUM_CAMERA_GRADIENT = 15

ZERO, HALF, ONE, TWO, THREE, FIVE = (np.float32(v) for v in (0, 0.5, 1, 2, 3, 5))
TINY = np.float32(1e-12)
SPREAD, SPREAD_SQUARED = np.float32(DILATION), np.float32(DILATION * DILATION)
BAND_0, BAND_1 = np.float32(harmonics.BAND_0), np.float32(harmonics.BAND_1)
CROSS, FLAT = (np.float32(v) for v in harmonics.BAND_2)
OUTER, MIXED, INNER, POLAR = (np.float32(v) for v in harmonics.BAND_3)


@inner(fastmath=True)
def fill_basis(x, y, z, num, out) -> None:
    """out[:num] = the harmonics at a unit direction."""
    out[0] = BAND_0
    if num > 1:
        out[1], out[2], out[3] = -BAND_1 * y, BAND_1 * z, -BAND_1 * x
    if num > 4:
        xx, yy, zz = x * x, y * y, z * z
        out[4], out[5], out[6] = CROSS * x * y, -CROSS * y * z, FLAT * (THREE * zz - ONE)
        out[7], out[8] = -CROSS * x * z, HALF * CROSS * (xx - yy)
        if num > 9:
            ring = FIVE * zz - ONE
            out[9], out[10] = -OUTER * y * (THREE * xx - yy), MIXED * x * y * z
            out[11], out[12], out[13] = -INNER * y * ring, POLAR * z * (FIVE * zz - THREE), -INNER * x * ring
            out[14], out[15] = HALF * MIXED * z * (xx - yy), -OUTER * x * (xx - THREE * yy)


@inner(fastmath=True)
def basis_gradient(x, y, z, num, f) -> tuple[np.float32, ...]:
    """The gradient in (x, y, z) of sum_k f[k] basis_k."""
    gx, gy, gz = -BAND_1 * f[3], -BAND_1 * f[1], BAND_1 * f[2]
    if num > 4:
        gx += CROSS * (y * f[4] - z * f[7] + x * f[8])
        gy += CROSS * (x * f[4] - z * f[5] - y * f[8])
        gz += TWO * THREE * FLAT * z * f[6] - CROSS * (y * f[5] + x * f[7])
    if num > 9:
        wide, ring = THREE * OUTER * (x * x - y * y), FIVE * z * z - ONE
        twist = TWO * THREE * OUTER * x * y
        gx += MIXED * z * (y * f[10] + x * f[14]) - INNER * ring * f[13] - twist * f[9] - wide * f[15]
        gy += MIXED * z * (x * f[10] - y * f[14]) - INNER * ring * f[11] - wide * f[9] + twist * f[15]
        gz += MIXED * (x * y * f[10] + HALF * (x * x - y * y) * f[14])
        gz += THREE * POLAR * ring * f[12] - TWO * FIVE * INNER * z * (y * f[11] + x * f[13])
    return gx, gy, gz


@inner()
def to_camera(m, cam) -> tuple[np.float32, ...]:
    """A world point in the camera's frame."""
    x = ((cam[0] * m[0] + cam[1] * m[1]) + cam[2] * m[2]) + cam[3]
    y = ((cam[4] * m[0] + cam[5] * m[1]) + cam[6] * m[2]) + cam[7]
    z = ((cam[8] * m[0] + cam[9] * m[1]) + cam[10] * m[2]) + cam[11]
    return x, y, z


@inner()
def fill_rotation(q, out) -> tuple[np.float32, ...]:
    """out [3, 3] = the rotation of a quaternion; gives back the normalised quaternion and 1 / length."""
    inverse = ONE / np.sqrt(((q[0] * q[0] + q[1] * q[1]) + q[2] * q[2]) + q[3] * q[3])
    w, x, y, z = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    out[0, 0], out[1, 1] = ONE - TWO * (y * y + z * z), ONE - TWO * (x * x + z * z)
    out[2, 2] = ONE - TWO * (x * x + y * y)
    out[0, 1], out[1, 0] = TWO * (x * y - w * z), TWO * (x * y + w * z)
    out[0, 2], out[2, 0] = TWO * (x * z + w * y), TWO * (x * z - w * y)
    out[1, 2], out[2, 1] = TWO * (y * z - w * x), TWO * (y * z + w * x)
    return w, x, y, z, inverse


@inner()
def fill_jacobian(x, y, inverse_z, cam, out) -> None:
    """out = (x by x, x by z, y by y, y by z) of the perspective projection, slopes kept near the picture."""
    slope_x = min(max(x * inverse_z, cam[SLOPES]), cam[SLOPES + 1])
    slope_y = min(max(y * inverse_z, cam[SLOPES + 2]), cam[SLOPES + 3])
    out[0] = inverse_z * cam[FOCAL]
    out[1] = -(out[0] * slope_x)
    out[2] = inverse_z * cam[FOCAL + 1]
    out[3] = -(out[2] * slope_y)


@inner()
def fill_axes(jacobian, cam, rotation, scales, world, own, axes) -> None:
    """world = J W, own = J W R, axes = J W R diag(scales), each [2, 3]."""
    for i in range(2):
        for k in range(3):
            world[i, k] = jacobian[2 * i] * cam[4 * i + k] + jacobian[2 * i + 1] * cam[8 + k]
        for k in range(3):
            own[i, k] = (world[i, 0] * rotation[0, k] + world[i, 1] * rotation[1, k]) + (
                world[i, 2] * rotation[2, k]
            )
            axes[i, k] = own[i, k] * scales[k]


@inner()
def covariance(q) -> tuple[np.float32, ...]:
    """Entries xx, xy, yy of q q^T plus the dilation, and the determinant, of q [2, 3]."""
    first = (q[0, 0] * q[0, 0] + q[0, 1] * q[0, 1]) + q[0, 2] * q[0, 2]
    second = (q[1, 0] * q[1, 0] + q[1, 1] * q[1, 1]) + q[1, 2] * q[1, 2]
    mixed = (q[0, 0] * q[1, 0] + q[0, 1] * q[1, 1]) + q[0, 2] * q[1, 2]
    n0 = q[0, 1] * q[1, 2] - q[0, 2] * q[1, 1]
    n1 = q[0, 2] * q[1, 0] - q[0, 0] * q[1, 2]
    n2 = q[0, 0] * q[1, 1] - q[0, 1] * q[1, 0]
    area = (n0 * n0 + n1 * n1) + n2 * n2
    determinant = (area + (first + second) * SPREAD) + SPREAD_SQUARED
    return first + SPREAD, mixed, second + SPREAD, determinant


@inner()
def project_one(i, means, scales, quaternions, opacities, cutoffs, offsets, cam, room, out) -> bool:
    """Fill columns U to CUTOFF, DEPTH and the reaches of Gaussian i; False where it is not on the screen."""
    x, y, z = to_camera(means[i], cam)
    cut = cutoffs[i]
    if not (z > cam[NEAR] and cut > ZERO):
        return False
    inverse_z = ONE / z
    u = (x * inverse_z) * cam[FOCAL] + cam[PRINCIPAL]
    v = (y * inverse_z) * cam[FOCAL + 1] + cam[PRINCIPAL + 1]
    if offsets.shape[0] > 0:
        u, v = u + offsets[i, 0], v + offsets[i, 1]
    jacobian, rotation, world, own, axes = room[0], room[1:4], room[4:6], room[6:8], room[8:10]
    fill_jacobian(x, y, inverse_z, cam, jacobian)
    fill_rotation(quaternions[i], rotation)
    fill_axes(jacobian, cam, rotation, scales[i], world, own, axes)
    a, b, c, determinant = covariance(axes)
    inverse = ONE / determinant
    reach_u, reach_v = np.sqrt((TWO * cut) * a), np.sqrt((TWO * cut) * c)
    out[i, U], out[i, V] = u, v
    out[i, A], out[i, B], out[i, C] = c * inverse, -b * inverse, a * inverse
    out[i, OPACITY], out[i, CUTOFF], out[i, DEPTH] = opacities[i], cut, z
    out[i, REACH_U], out[i, REACH_V] = reach_u, reach_v
    inside = u + reach_u >= ZERO and u - reach_u <= cam[SIZE]
    return inside and v + reach_v >= ZERO and v - reach_v <= cam[SIZE + 1]


@inner(fastmath=True)
def color_one(i, means, sh, cam, basis, out) -> None:
    """Fill the colour columns of Gaussian i."""
    x, y, z = means[i, 0] - cam[CENTER], means[i, 1] - cam[CENTER + 1], means[i, 2] - cam[CENTER + 2]
    inverse = ONE / max(np.sqrt(x * x + y * y + z * z), TINY)
    num = sh.shape[1]
    fill_basis(x * inverse, y * inverse, z * inverse, num, basis)
    red, green, blue = HALF, HALF, HALF
    for k in range(num):
        red += basis[k] * sh[i, k, 0]
        green += basis[k] * sh[i, k, 1]
        blue += basis[k] * sh[i, k, 2]
    out[i, RED], out[i, GREEN], out[i, BLUE] = max(red, ZERO), max(green, ZERO), max(blue, ZERO)


@kernel(parallel=True)
def project_all(
    workers, counter, means, scales, quaternions, opacities, cutoffs, sh, offsets, cam, out, seen
) -> None:
    """Fill `out` [N, NUM_COLUMNS] and `seen` [N] for one camera."""
    count = means.shape[0]
    for _ in prange(workers):
        room, basis = np.empty((10, 4), np.float32), np.empty(16, np.float32)
        while True:
            start = fetch_next(counter) * BLOCK
            if start >= count:
                break
            for i in range(start, min(start + BLOCK, count)):
                seen[i] = project_one(
                    i, means, scales, quaternions, opacities, cutoffs, offsets, cam, room, out
                )
                if seen[i]:
                    color_one(i, means, sh, cam, basis, out)


@inner(fastmath=True)
def unproject_color(i, g, screen, means, sh, cam, basis, factors, d_means, d_sh, d_cam) -> None:
    """Gradient of the colour: to the coefficients, the mean and the camera's centre."""
    x, y, z = means[i, 0] - cam[CENTER], means[i, 1] - cam[CENTER + 1], means[i, 2] - cam[CENTER + 2]
    inverse = ONE / max(np.sqrt(x * x + y * y + z * z), TINY)
    x, y, z = x * inverse, y * inverse, z * inverse
    red = g[6] if screen[i, RED] > ZERO else ZERO
    green = g[7] if screen[i, GREEN] > ZERO else ZERO
    blue = g[8] if screen[i, BLUE] > ZERO else ZERO
    num = sh.shape[1]
    fill_basis(x, y, z, num, basis)
    for k in range(num):
        d_sh[i, k, 0], d_sh[i, k, 1], d_sh[i, k, 2] = basis[k] * red, basis[k] * green, basis[k] * blue
        factors[k] = sh[i, k, 0] * red + sh[i, k, 1] * green + sh[i, k, 2] * blue
    if num > 1:
        gx, gy, gz = basis_gradient(x, y, z, num, factors)
        along = x * gx + y * gy + z * gz
        gx, gy, gz = (gx - x * along) * inverse, (gy - y * along) * inverse, (gz - z * along) * inverse
        d_means[i, 0] += gx
        d_means[i, 1] += gy
        d_means[i, 2] += gz
        d_cam[12] -= gx
        d_cam[13] -= gy
        d_cam[14] -= gz


@inner(fastmath=True)
def unproject_rotation(i, w, x, y, z, inverse, g, d_quaternions) -> None:
    """Gradient of a quaternion from that of its rotation, g [3, 3]."""
    dw = TWO * (x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1]))
    dx = y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2])
    dy = x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0])
    dz = x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[1, 0] - g[0, 1])
    dx = TWO * (dx - TWO * x * (g[1, 1] + g[2, 2]))
    dy = TWO * (dy - TWO * y * (g[0, 0] + g[2, 2]))
    dz = TWO * (dz - TWO * z * (g[0, 0] + g[1, 1]))
    along = w * dw + x * dx + y * dy + z * dz
    d_quaternions[i, 0], d_quaternions[i, 1] = (dw - w * along) * inverse, (dx - x * along) * inverse
    d_quaternions[i, 2], d_quaternions[i, 3] = (dy - y * along) * inverse, (dz - z * along) * inverse


@inner(fastmath=True)
def unproject_shape(
    i, g, screen, means, scales, quaternions, cam, room, d_means, d_logs, d_quaternions, d_cam
) -> None:
    """Gradient of centre, conic and depth: to the mean, the logarithms of the scales, the quaternion and the
    camera. `g` is (u, v, A, B, C, opacity, red, green, blue, depth)."""
    x, y, z = to_camera(means[i], cam)
    inverse_z = ONE / z
    jacobian, rotation, world, own, axes = room[0], room[1:4], room[4:6], room[6:8], room[8:10]
    d_world, d_rotation = room[10:12], room[12:15]
    fill_jacobian(x, y, inverse_z, cam, jacobian)
    qw, qx, qy, qz, inverse = fill_rotation(quaternions[i], rotation)
    fill_axes(jacobian, cam, rotation, scales[i], world, own, axes)
    # The inverse of a symmetric matrix: d cov = -conic d conic conic.
    a, b, c = screen[i, A], screen[i, B], screen[i, C]
    half = HALF * g[3]
    m00, m01, m10, m11 = a * g[2] + b * half, a * half + b * g[4], b * g[2] + c * half, b * half + c * g[4]
    d_xx, d_yy = -(m00 * a + m01 * b), -(m10 * b + m11 * c)
    d_xy = -(m00 * b + m01 * c)
    for k in range(3):
        first = TWO * (d_xx * axes[0, k] + d_xy * axes[1, k])
        second = TWO * (d_yy * axes[1, k] + d_xy * axes[0, k])
        d_logs[i, k] = first * axes[0, k] + second * axes[1, k]
        first, second = first * scales[i, k], second * scales[i, k]
        for j in range(3):
            d_rotation[j, k] = world[0, j] * first + world[1, j] * second
        # own[., k] is done with; it holds its gradient from here on.
        own[0, k], own[1, k] = first, second
    unproject_rotation(i, qw, qx, qy, qz, inverse, d_rotation, d_quaternions)
    d_jacobian = room[15]
    for r in range(2):
        direct, by_depth = ZERO, ZERO
        for j in range(3):
            d_world[r, j] = (
                own[r, 0] * rotation[j, 0] + own[r, 1] * rotation[j, 1] + own[r, 2] * rotation[j, 2]
            )
            direct += d_world[r, j] * cam[4 * r + j]
            by_depth += d_world[r, j] * cam[8 + j]
            d_cam[4 * r + j] += d_world[r, j] * jacobian[2 * r]
            d_cam[8 + j] += d_world[r, j] * jacobian[2 * r + 1]
        d_jacobian[2 * r], d_jacobian[2 * r + 1] = direct, by_depth
    d_inverse = ZERO
    d_point = room[16]
    for r in range(2):
        focal, slope = cam[FOCAL + r], (x if r == 0 else y) * inverse_z
        kept = min(max(slope, cam[SLOPES + 2 * r]), cam[SLOPES + 2 * r + 1])
        d_inverse += focal * (d_jacobian[2 * r] - kept * d_jacobian[2 * r + 1])
        d_slope = focal * g[r]
        if kept == slope:
            d_slope -= focal * inverse_z * d_jacobian[2 * r + 1]
        d_point[r] = d_slope * inverse_z
        d_inverse += d_slope * (x if r == 0 else y)
    d_point[2] = g[9] - d_inverse * inverse_z * inverse_z
    for j in range(3):
        d_means[i, j] = d_point[0] * cam[j] + d_point[1] * cam[4 + j] + d_point[2] * cam[8 + j]
        d_cam[j] += d_point[0] * means[i, j]
        d_cam[4 + j] += d_point[1] * means[i, j]
        d_cam[8 + j] += d_point[2] * means[i, j]
        d_cam[4 * j + 3] += d_point[j]


@kernel(parallel=True)
def unproject_all(
    workers,
    counter,
    tables,
    pair_gradients,
    screen,
    parameters,
    gradients,
    d_screen,
    d_cam,
) -> None:
    """The gradient of `project_all` from that of every (Gaussian, tile) pair.

    `tables` = (seen [N], starts [N + 1], places): the pairs of Gaussian i are places[starts[i] : starts[i +
    1]], so each sum has one order, whatever the number of threads. `d_cam` is [blocks, 15], one row a block.
    """
    seen, starts, places = tables
    means, scales, quaternions, sh, cam = parameters
    d_means, d_logs, d_quaternions, d_logits, d_sh = gradients
    count = means.shape[0]
    for _ in prange(workers):
        room, g = np.empty((17, 4), np.float32), np.empty(10, np.float32)
        basis, factors = np.empty(16, np.float32), np.empty(16, np.float32)
        while True:
            block = fetch_next(counter)
            if block * BLOCK >= count:
                break
            for i in range(block * BLOCK, min((block + 1) * BLOCK, count)):
                if not seen[i]:
                    continue
                g[:] = ZERO
                for p in range(starts[i], starts[i + 1]):
                    for k in range(10):
                        g[k] += pair_gradients[places[p], k]
                d_screen[i, 0], d_screen[i, 1] = g[0], g[1]
                # The sum is of d alpha x alpha, that is the gradient of log(opacity).
                d_logits[i] = g[5] * (ONE - screen[i, OPACITY])
                unproject_shape(
                    *(i, g, screen, means, scales, quaternions, cam, room),
                    *(d_means, d_logs, d_quaternions, d_cam[block]),
                )
                unproject_color(i, g, screen, means, sh, cam, basis, factors, d_means, d_sh, d_cam[block])
