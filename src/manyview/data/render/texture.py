"""Colour transfer and texture look-up for the ray caster. Colours are linear RGB unless a name says sRGB.

Texture coordinates follow trimesh: (0, 0) is the lower left corner of the image, so v runs against the rows.
"""

from __future__ import annotations

import numpy as np

from manyview.errors import InputError


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1], float32, from sRGB values in [0, 1] (IEC 61966-2-1)."""
    values = np.asarray(srgb, dtype=np.float32)
    return np.where(
        values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4
    ).astype(np.float32)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1], float32, from linear light; above 1 is clipped (IEC 61966-2-1)."""
    values = np.clip(np.asarray(linear, dtype=np.float32), 0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


_LINEAR_FROM_BYTE = linear_from_srgb(np.arange(256) / 255)
_LINEAR_FROM_4096 = linear_from_srgb(np.arange(4096) / 4095)


def linear_from_byte(image: np.ndarray) -> np.ndarray:
    """Linear float32 of the same shape from sRGB bytes, by table."""
    return _LINEAR_FROM_BYTE[image]


def linear_from_table(srgb: np.ndarray) -> np.ndarray:
    """Linear light from sRGB in [0, 1], float32, to 1e-4 of white: by table, for many values."""
    return _LINEAR_FROM_4096[(np.clip(srgb, 0, 1) * 4095 + 0.5).astype(np.int32)]


def shrink(texture: np.ndarray, factor: int) -> np.ndarray:
    """[H // factor, W // factor, C] mean of factor x factor blocks; a remainder is cut at the far edges.

    Raises `InputError` for a factor below 1.
    """
    if factor < 1:
        raise InputError("factor", factor, "expected a whole number of at least 1")
    factor = min(factor, *texture.shape[:2])
    if factor == 1:
        return texture
    height, width = texture.shape[0] // factor, texture.shape[1] // factor
    blocks = texture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def look_up(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """[N, C] bilinear colours of a [H, W, C] texture at [N, 2] coordinates, repeated outside [0, 1].

    Texel centres lie at (i + 0.5) / size, as in OpenGL and Blender.
    """
    height, width, channels = texture.shape
    column = uv[:, 0] * width - 0.5
    row = (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(column), np.floor(row)
    across = (column - left).astype(np.float32)[:, None]
    down = (row - top).astype(np.float32)[:, None]
    left, top = left.astype(np.int64) % width, top.astype(np.int64) % height
    right, bottom = left + 1, top + 1
    right[right == width] = 0
    bottom[bottom == height] = 0
    flat = texture.reshape(-1, channels)
    top, bottom = top * width, bottom * width
    upper = flat[top + left] * (1 - across) + flat[top + right] * across
    lower = flat[bottom + left] * (1 - across) + flat[bottom + right] * across
    return upper * (1 - down) + lower * down
