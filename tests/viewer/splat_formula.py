"""The picture of Gaussians by the formula, pixel by pixel in float64, apart from the package."""

from __future__ import annotations

from typing import Any

import numpy as np
from box_world import C0, C1


def draw_splats(
    splats: list[dict[str, Any]], world_from_cam: np.ndarray, K: np.ndarray, size: int
) -> np.ndarray:
    """[size, size, 3] over white. Colours of degree 0 and 1, keys as in `box_world.splat_bytes`."""
    rotation, eye = world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    v, u = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="ij")
    picture = np.ones((size, size, 3))
    for splat in sorted(splats, key=lambda s: -float(rotation[2] @ (np.array(s["xyz"]) - eye))):
        x, y, z = rotation @ (np.array(splat["xyz"]) - eye)
        fx, fy = K[0, 0], K[1, 1]
        jacobian = np.array([[fx / z, 0, -fx * x / z**2], [0, fy / z, -fy * y / z**2]])
        axes = jacobian @ rotation @ turn(splat["rot"]) * np.exp(splat["scale"])
        inverse = np.linalg.inv(axes @ axes.T + 0.3 * np.eye(2))
        offset = np.stack([u - (fx * x / z + K[0, 2]), v - (fy * y / z + K[1, 2])], axis=-1)
        exponent = 0.5 * np.einsum("hwi,ij,hwj->hw", offset, inverse, offset)
        alpha = np.exp(-exponent) / (1 + np.exp(-splat["opacity"]))
        alpha[alpha < 1 / 255] = 0
        direction = np.array(splat["xyz"]) - eye
        direction /= np.linalg.norm(direction)
        rest = np.array(splat.get("f_rest", np.zeros(9))).reshape(3, 3)
        basis = C1 * np.array([-direction[1], direction[2], -direction[0]])
        color = np.maximum(0.5 + C0 * np.array(splat["f_dc"]) + rest @ basis, 0)
        picture = picture * (1 - alpha[..., None]) + color * alpha[..., None]
    return picture


def turn(quaternion: list[float]) -> np.ndarray:
    """Rotation by Rodrigues' formula: R = I + 2 w [v] + 2 [v]^2 for a unit quaternion (w, v)."""
    w, *v = np.array(quaternion) / np.linalg.norm(quaternion)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
