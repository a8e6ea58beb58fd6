"""Viewing rays in the world frame and their embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.geometry.pixels import common_size, pixel_centers
from manyview.geometry.projection import camera_directions
from manyview.types import Cameras


def pixel_rays(pixels: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Ray origins and unit directions, both [V, *, 3] in the world, of `pixels` [V or 1, *, 2]."""
    directions_cam = camera_directions(pixels, cameras)
    flat = directions_cam.reshape(directions_cam.shape[0], -1, 3)
    directions = (flat @ cameras.world_from_cam[:, :3, :3].mT).reshape(directions_cam.shape)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    centers = cameras.centers.reshape(-1, *[1] * (directions.ndim - 2), 3)
    return centers.expand_as(directions), directions


def camera_rays(
    cameras: Cameras, height: int | None = None, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Origins and unit directions, both [V, H, W, 3], through the centres of all pixels.

    `height` and `width` choose a coarser or finer grid over the same image (a latent's cells, say); the
    default is the cameras' own size, which then has to be one for all.
    """
    if height is None or width is None:
        own_height, own_width = common_size(cameras)
        height = own_height if height is None else height
        width = own_width if width is None else width
    grid = pixel_centers(height, width, dtype=cameras.K.dtype, device=cameras.K.device)
    return pixel_rays(grid[None], cameras.resized(height, width))


def plucker(origins: Tensor, directions: Tensor) -> Tensor:
    """[..., 6] Plücker coordinates (direction, moment), moment = origin x direction.

    The moment is the same for every origin on the ray. Directions are used as given; pass unit ones.
    """
    origins, directions = torch.broadcast_tensors(origins, directions)
    return torch.cat((directions, torch.linalg.cross(origins, directions, dim=-1)), dim=-1)


def harmonic_embedding(values: Tensor, num_octaves: int, *, append_input: bool = True) -> Tensor:
    """[..., D (2 num_octaves + 1)] sines and cosines of `values` [..., D] at frequencies 2^k.

    Layout, k from 0 to num_octaves - 1: sin(2^k x_d) with k fastest within d, then
    the cosines in the same order, then the values themselves unless `append_input` is off (NeRF,
    Mildenhall et al. 2020, eq. 4, without the factor pi; the order is PyTorch3D's, so SparseFusion's weights
    fit: 6 numbers with 6 octaves give 78).
    """
    octaves = torch.arange(num_octaves, dtype=values.dtype, device=values.device)
    phases = (values.unsqueeze(-1) * 2**octaves).flatten(-2)
    parts = [phases.sin(), phases.cos()]
    if append_input:
        parts.append(values)
    return torch.cat(parts, dim=-1)
