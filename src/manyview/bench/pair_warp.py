"""The baseline that moves pixels: a view's depth estimated, its points carried into another camera.

The depth network is Hi3D's (`methods.hi3d.depth_net`), which tells distances in the frame that our objects
are rendered in (longest side 1, seen from about 1.5); cameras further away or nearer are met by scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry.normalization import focus_point
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import project, unproject
from manyview.geometry.warp import warp_by_depth
from manyview.io.framing import resize_area
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.types import Cameras, Views, join_cameras

_TRAINED_DISTANCE = 1.5
_COVERED = 0.5
_FAR = 1e9


@dataclass(frozen=True, kw_only=True)
class WarpAnswerer:
    """Each target from the given view's points; where none of them falls, white."""

    network: DepthNet

    @torch.inference_mode()
    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S], S the network's size."""
        assert given.cameras is not None, "the protocol gives posed views"
        size = self.network.size
        image, _ = resize_area(given.over(1.0)[:1], size, size)
        device = next(self.network.parameters()).device
        depth, cover = (part.cpu() for part in self.network.world_depths(image.to(device)))
        source, others = (one.to(torch.float32).resized(size, size) for one in (given.cameras[0], targets))
        middle = focus_point(join_cameras([source, others]))
        away = float(torch.linalg.vector_norm(source.centers[0] - middle))
        depth = depth * (away / _TRAINED_DISTANCE)
        solid = cover > _COVERED
        return torch.cat(
            [warp_object(image, depth, solid, source, others[number]) for number in range(len(others))]
        )


def warp_object(image: Tensor, depth: Tensor, solid: Tensor, source: Cameras, target: Cameras) -> Tensor:
    """[1, 3, S, S] the object of a picture [1, 3, S, S] as another camera would see its visible side.

    depth [1, S, S] along z, solid bool [1, S, S]: where the object is; both of the source's picture. The
    target's depth is the nearest of the points that fall into a pixel; pixels between such points take the
    nearest of their neighbours', so that a surface seen closer has no holes. Colours are looked up by that
    depth, the background is white.
    """
    seen = splat_depth(depth, solid, source, target)
    warped, valid = warp_by_depth(
        torch.where(solid[:, None], image, torch.ones_like(image)), seen, source, target
    )
    return torch.where(valid, warped, torch.ones_like(warped)).clamp(0, 1)


def splat_depth(depth: Tensor, solid: Tensor, source: Cameras, target: Cameras) -> Tensor:
    """[1, 1, S, S] the nearest depth along the target's z of the source's points, 0 where there is none."""
    height, width = depth.shape[-2:]
    grid = pixel_centers(height, width, dtype=depth.dtype)
    points = unproject(grid[None], depth, source)
    pixels, away = project(points, target)
    chosen = solid[0] & (away[0] > 0)
    column, row = pixels[0][chosen].floor().long().unbind(dim=-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nearest = torch.full((height * width,), _FAR, dtype=depth.dtype)
    place = (row * width + column)[inside]
    nearest.scatter_reduce_(0, place, away[0][chosen][inside], reduce="amin")
    nearest = nearest.reshape(1, 1, height, width)
    around = -F.max_pool2d(-nearest, 3, stride=1, padding=1)
    # A hole is closed where most of its surroundings are known, so that outlines do not grow.
    known = F.avg_pool2d((nearest < _FAR).float(), 3, stride=1, padding=1) > 0.45
    filled = torch.where((nearest >= _FAR) & known, around, nearest)
    return torch.where(filled < _FAR, filled, torch.zeros_like(filled))
