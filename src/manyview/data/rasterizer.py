"""A z-buffer triangle rasteriser in plain torch: exact depth and coverage on CPU and CUDA.

Every front-facing triangle lists the pixel centres of its bounding box, keeps those inside its three
edges, and the nearest fragment of a pixel wins by one integer scatter-min over (depth, face).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.types import Cameras

_EMPTY = torch.iinfo(torch.int64).max
_NEAR = 1e-4
_SLACK = 1e-4
"""Pixels by which a face reaches over its edges: rounding must not open a gap between two faces."""


@dataclass(frozen=True)
class Fragments:
    """What each pixel centre sees. V views, H rows, W columns."""

    face: Tensor
    """[V, H, W] int64 face index, -1 where nothing is hit."""
    weights: Tensor
    """[V, H, W, 3] perspective-correct barycentric weights (zeros where nothing is hit)."""
    depth: Tensor
    """[V, H, W] distance along the camera's z axis in world units, 0 where nothing is hit."""


def rasterize(vertices: Tensor, faces: Tensor, cameras: Cameras, cull_back: bool = True) -> Fragments:
    """Visible face, weights and depth at every pixel centre of every camera.

    vertices: [N, 3] world; faces: [F, 3] int64, counter-clockwise seen from outside. Cameras must be
    pinholes of one image size. Triangles with a vertex nearer than 1e-4 in front of the camera are
    dropped. `cull_back` skips back faces, which is only right for closed meshes.
    """
    height, width = (int(value) for value in cameras.sizes[0])
    layers = [
        _rasterize_view(vertices, faces, world, K, height, width, cull_back)
        for world, K in zip(cameras.cam_from_world.to(vertices), cameras.K.to(vertices), strict=True)
    ]
    face, weights, depth = (torch.stack(parts) for parts in zip(*layers, strict=True))
    return Fragments(face=face, weights=weights, depth=depth)


def interpolate(values: Tensor, fragments: Fragments) -> Tensor:
    """[V, H, W, C] per-corner `values` [F, 3, C] at the visible points; zeros where nothing is hit."""
    face = fragments.face.reshape(-1)
    hit = (face >= 0).nonzero()[:, 0]
    corners = take(values, take(face, hit))
    weights = take(fragments.weights.reshape(-1, 3), hit)
    points = (corners * weights[..., None]).sum(dim=-2)
    out = values.new_zeros((len(face), values.shape[-1])).index_copy_(0, hit, points)
    return out.view(*fragments.face.shape, -1)


def _rasterize_view(
    vertices: Tensor,
    faces: Tensor,
    cam_from_world: Tensor,
    K: Tensor,
    height: int,
    width: int,
    cull_back: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    cam = vertices @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    depth = cam[:, 2]
    pixels = (cam @ K.T)[:, :2] / depth.clamp_min(_NEAR)[:, None]
    corners = pixels[faces]  # [F, 3, 2]
    area = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    keep = (depth[faces] > _NEAR).all(dim=1) & (area.abs() > 1e-12)
    if cull_back:  # y points down, so a face seen from outside turns clockwise on the image: area < 0
        keep &= area < 0
    # Pixel centres are at +0.5: the first centre at or after x is ceil(x - 0.5).
    low = torch.ceil(corners.amin(dim=1) - 0.5).long()
    high = torch.floor(corners.amax(dim=1) - 0.5).long()
    limit = torch.tensor([width - 1, height - 1], device=vertices.device)
    low = torch.maximum(low, torch.zeros_like(low))
    high = torch.minimum(high, limit)
    keep &= (high >= low).all(dim=1)

    kept = keep.nonzero()[:, 0]
    low, high, corners, area = low[kept], high[kept], corners[kept], area[kept]
    spans = high - low + 1
    counts = spans[:, 0] * spans[:, 1]
    owner = torch.repeat_interleave(torch.arange(len(kept), device=kept.device), counts)
    local = torch.arange(len(owner), device=kept.device) - take(counts.cumsum(0) - counts, owner)
    span_x = take(spans[:, 0], owner)
    dy = local // span_x
    dx = local - dy * span_x
    planes = _planes(corners, area, depth[faces[kept]], low)
    values = take(planes[:, 0], owner)
    values.addcmul_(take(planes[:, 1], owner), dx[:, None])
    values.addcmul_(take(planes[:, 2], owner), dy[:, None])
    inside = (values.amin(dim=1) >= 0).nonzero()[:, 0]
    owner, values = take(owner, inside), take(values, inside)
    x, y = take(low[:, 0], owner) + take(dx, inside), take(low[:, 1], owner) + take(dy, inside)

    fragment_depth = (1 / values[:, 3]).float()
    # Bits of a positive float sort like the float, so (depth bits, fragment) is one sortable integer.
    key = (fragment_depth.view(torch.int32).long() << 32) | torch.arange(len(owner), device=kept.device)
    nearest = torch.full((height * width,), _EMPTY, dtype=torch.int64, device=kept.device)
    nearest.scatter_reduce_(0, y * width + x, key, reduce="amin")

    hit = (nearest != _EMPTY).nonzero()[:, 0]
    winner = take(nearest, hit) & 0xFFFFFFFF
    visible = take(kept, take(owner, winner))
    face = torch.full_like(nearest, -1).index_copy_(0, hit, visible)
    out_depth = vertices.new_zeros(height * width)
    out_depth.index_copy_(0, hit, take(fragment_depth, winner).to(vertices.dtype))
    corrected = take(values, winner)[:, :3] / take(depth[faces], visible)
    corrected /= corrected.sum(dim=1, keepdim=True)
    out_weights = vertices.new_zeros(height * width, 3).index_copy_(0, hit, corrected)
    return (
        face.view(height, width),
        out_weights.view(height, width, 3),
        out_depth.view(height, width),
    )


def take(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` along the first axis: `index_select` is many times faster on a CPU."""
    return torch.index_select(values, 0, index)


def _planes(corners: Tensor, area: Tensor, depth: Tensor, low: Tensor) -> Tensor:
    """[F, 3, 4] value, x slope and y slope of the weights of the three corners and of 1 / depth.

    On the image plane all four are linear, so they are set up once a face, from its pixel `low`.
    """
    nxt, last = corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]
    edge = (last - nxt) / area[:, None, None]
    offset = (low + 0.5)[:, None] - nxt
    weights = torch.stack(
        [edge[..., 0] * offset[..., 1] - edge[..., 1] * offset[..., 0], -edge[..., 1], edge[..., 0]], dim=1
    )
    inverse_depth = (weights / depth[:, None]).sum(dim=-1, keepdim=True)
    # A weight is the distance to its edge over the height above it, so the slack is a distance in pixels;
    # slivers get less. The weights are brought back to a sum of 1 when they are used.
    slack = _SLACK * torch.linalg.vector_norm(edge, dim=-1)
    weights[:, 0] += slack.clamp_max(0.01)
    return torch.cat([weights, inverse_depth], dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
