"""Where the rays of query cameras pass in context images, in the frame of each query camera.

Shapes: B scenes, Q query cameras of each, N context views of each, R rays of a query, D depths on a ray.
Cameras of all scenes come as one batch, scene by scene: B Q queries, B N contexts.

The frame of a query camera has its centre as the origin, x to the left, y up and z forward: PyTorch3D's
axes, half a turn about z away from ours. SparseFusion embeds coordinates in it, so moving the world moves
nothing. Transforms between cameras are computed in float64, where large world coordinates cancel.

Cameras may stay on the CPU while a network runs elsewhere: only relative transforms and intrinsics are moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.distortion import distort
from manyview.geometry.normalization import focus_point
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import camera_directions, from_homogeneous
from manyview.geometry.rays import plucker
from manyview.methods.sparsefusion.features import Sampling
from manyview.types import Cameras

# Coordinates in our camera axes times this are coordinates in the query frame, and back.
_HALF_TURN = (-1.0, -1.0, 1.0)
_SAME_PLACE = 1e-4


@dataclass(frozen=True)
class RaySamples:
    """Points along query rays and where the context views see them."""

    depths: Tensor
    """[B, D] along the query cameras' z axes."""
    pixels: Tensor
    """[B, Q, N, R, D, 2] in pixels of the context images."""
    visible: Tensor
    """bool [B, Q, N, R, D]: in front of the context camera and inside its image."""
    positions: Tensor
    """[B, Q, N, R, D, 3] the points in the context cameras' (OpenCV) axes."""
    query_rays: Tensor
    """[B, Q, R, 6] unit direction and moment (zero: the origin is the camera) in the query frame."""
    context_rays: Tensor
    """[B, Q, N, R, D, 6] unit direction from context camera to point, and moment, in the query frame."""

    @property
    def query_directions(self) -> Tensor:
        """[B, Q, R, 3] unit directions of the rays in the query cameras' (OpenCV) axes."""
        return self.query_rays[..., :3] * self.query_rays.new_tensor(_HALF_TURN)


def depth_range(
    cameras: Cameras, half_range: float, *, center: Tensor | None = None, min_near: float = 0.1
) -> Tensor:
    """[2] nearest and farthest depth: the mean distance of the cameras from `center`, less and plus
    `half_range`, the near end at least `min_near`.

    `center` [3] is the middle of the object; by default the point that all cameras look at.
    Raises `InputError` where nothing is left in front of the cameras.
    """
    middle = focus_point(cameras) if center is None else center.to(cameras.centers)
    distance = float(torch.linalg.vector_norm(cameras.centers - middle, dim=1).mean())
    near, far = max(distance - half_range, min_near), distance + half_range
    if not near < far:
        raise InputError("min_near", min_near, f"expected less than the farthest depth {far:.3g}")
    return torch.tensor([near, far], dtype=cameras.K.dtype, device=cameras.K.device)


def spread_depths(ranges: Tensor, num_depths: int) -> Tensor:
    """[B, num_depths] evenly spaced depths from ranges [B, 2], both ends included."""
    steps = torch.linspace(0, 1, num_depths, dtype=ranges.dtype, device=ranges.device)
    return ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * steps


def ray_pixels(
    rows: int,
    columns: int,
    height: int,
    width: int,
    sampling: Sampling = "exact",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[rows * columns, 2] the pixels of a height x width image that a grid of rays goes through, row by row.

    `exact`: the centres of the grid's cells. `published`: from the first to the last pixel's centre, whatever
    the grid (SparseFusion keeps the full image's half-pixel margin on its coarse grid).
    """
    if sampling == "exact":
        scale = torch.tensor([width / columns, height / rows], dtype=dtype, device=device)
        return (pixel_centers(rows, columns, dtype=dtype, device=device) * scale).reshape(-1, 2)
    v = torch.linspace(0.5, height - 0.5, rows, dtype=dtype, device=device)
    u = torch.linspace(0.5, width - 0.5, columns, dtype=dtype, device=device)
    v, u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack((u, v), dim=-1).reshape(-1, 2)


def relative_transforms(query: Cameras, context: Cameras, num_scenes: int) -> Tensor:
    """[B, Q, N, 4, 4] float64 context_from_query (OpenCV camera axes on both sides) of every pair."""
    query_to_world = query.world_from_cam.double().unflatten(0, (num_scenes, 1, -1)).transpose(1, 2)
    world_to_context = _inverse(context.world_from_cam.double()).unflatten(0, (num_scenes, 1, -1))
    return world_to_context @ query_to_world


def same_cameras(context_from_query: Tensor, ranges: Tensor) -> Tensor:
    """bool [B, Q, N]: the context stands where the query stands and looks the same way.

    To one part in ten thousand of the scene's farthest depth, and of a radian.
    """
    reach = ranges[:, 1].to(context_from_query).reshape(-1, 1, 1)
    apart = torch.linalg.vector_norm(context_from_query[..., :3, 3], dim=-1) / reach
    identity = torch.eye(3, dtype=torch.float64, device=context_from_query.device)
    turned = (context_from_query[..., :3, :3] - identity).abs().amax(dim=(-1, -2))
    return (apart < _SAME_PLACE) & (turned < _SAME_PLACE)


def sample_rays(
    pixels: Tensor, query: Cameras, context: Cameras, depths: Tensor, context_from_query: Tensor
) -> RaySamples:
    """Points at `depths` [B, D] on the rays through query `pixels` [R, 2], seen from the context views.

    Lens distortion of either side is honoured. Pixels of points behind a context camera mean nothing.
    The answer is on the device and of the type of `depths`.
    """
    with torch.autocast(depths.device.type, enabled=False):  # pixel positions need all their digits
        scenes, queries, views = context_from_query.shape[:3]
        turn = depths.new_tensor(_HALF_TURN)
        rays = camera_directions(pixels.to(query.K)[None].expand(len(query), -1, -1), query).to(depths)
        rays = rays.unflatten(0, (scenes, queries))  # [B, Q, R, 3], z = 1
        points = rays.unsqueeze(-2) * depths[:, None, None, :, None]  # [B, Q, R, D, 3]
        moved = context_from_query.to(depths)
        rotation, translation = moved[..., :3, :3], moved[..., :3, 3]
        flat = points.flatten(2, 3).unsqueeze(2)  # [B, Q, 1, R D, 3]
        seen = (flat @ rotation.mT + translation.unsqueeze(-2)).unflatten(-2, points.shape[2:4])
        ideal = from_homogeneous(seen)
        if context.distortion is not None:
            bend = context.distortion.to(depths).reshape(scenes, 1, views, 1, 1, 6)
            ideal = distort(ideal, bend)
        K = context.K.to(depths).reshape(scenes, 1, views, 1, 1, 3, 3)
        # Not as a matrix product: there would be one tiny product a ray.
        where = (ideal.unsqueeze(-2) * K[..., :2, :2]).sum(dim=-1) + K[..., :2, 2]
        limits = context.sizes.flip(-1).to(depths).reshape(scenes, 1, views, 1, 1, 2)
        visible = ((where >= 0) & (where <= limits)).all(dim=-1) & (seen[..., 2] > 0)
        centers = (-rotation.mT @ translation.unsqueeze(-1)).squeeze(-1) * turn  # [B, Q, N, 3]
        centers = centers[:, :, :, None, None]
        towards = torch.nn.functional.normalize(points[:, :, None] * turn - centers, dim=-1)
        unit = torch.nn.functional.normalize(rays * turn, dim=-1)
        return RaySamples(
            depths=depths,
            pixels=where,
            visible=visible,
            positions=seen,
            query_rays=plucker(torch.zeros_like(unit), unit),
            context_rays=plucker(centers, towards),
        )


def read_maps(maps: Tensor, pixels: Tensor, height: int, width: int, sampling: Sampling = "exact") -> Tensor:
    """[B, Q, N, R, D, C] bilinear values of maps [B, N, C, h, w] at image pixels [B, Q, N, R, D, 2].

    The maps cover images of `height` x `width`; beyond the border they go on with its values. `published`
    puts the image's edges on the middles of the map's outermost cells, as the released weights learned it.
    """
    scenes, queries, views, rays, depths, _ = pixels.shape
    extent = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    grid = (pixels / extent * 2 - 1).transpose(1, 2).reshape(scenes * views, queries * rays, depths, 2)
    pictures = at_least_single(maps.flatten(0, 1))
    with torch.autocast(pixels.device.type, enabled=False):
        values = torch.nn.functional.grid_sample(
            pictures,
            grid.to(pictures.dtype),
            padding_mode="border",
            align_corners=sampling == "published",
        )
    values = values.reshape(scenes, views, maps.shape[2], queries, rays, depths)
    return values.permute(0, 3, 1, 4, 5, 2)


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32; anything wider as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _inverse(transforms: Tensor) -> Tensor:
    rotation = transforms[:, :3, :3].mT
    inverse = torch.zeros_like(transforms)
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3:] = -rotation @ transforms[:, :3, 3:]
    inverse[:, 3, 3] = 1
    return inverse
