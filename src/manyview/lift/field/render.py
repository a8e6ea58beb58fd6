"""Images of a field."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.geometry.pixels import common_size
from manyview.geometry.rays import camera_rays
from manyview.lift.field.answers import FieldRender, Renderable
from manyview.types import Cameras

_CHUNK = 1 << 14


def render_field(
    field: Renderable, cameras: Cameras, *, background: float = 1.0, chunk: int = _CHUNK
) -> FieldRender:
    """What V cameras of one size see. No gradient; for that use `field.render_rays`.

    `chunk`: rays at a time. Raises `InputError` where camera sizes differ.
    """
    height, width = common_size(cameras)
    images, alphas, depths = [], [], []
    with torch.no_grad():
        for index in range(len(cameras)):
            color, alpha, depth = _render_camera(field, cameras[index], background, chunk)
            images.append(color.mT.reshape(3, height, width).clamp(0, 1))
            alphas.append(alpha.reshape(1, height, width))
            depths.append(depth.reshape(1, height, width))
    return FieldRender(images=torch.stack(images), alphas=torch.stack(alphas), depths=torch.stack(depths))


def _render_camera(
    field: Renderable, camera: Cameras, background: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    origins, directions = (rays.reshape(-1, 3).float() for rays in camera_rays(camera))
    forward = camera.world_from_cam[0, :3, 2].to(directions)
    colors, alphas, depths = [], [], []
    for start in range(0, len(origins), chunk):
        part = slice(start, start + chunk)
        seen = field.render_rays(origins[part], directions[part], background=background)
        colors.append(seen.colors)
        alphas.append(seen.alphas)
        along = seen.depths * (directions[part] @ forward)
        depths.append(torch.where(seen.alphas >= 0.5, along, 0))
    return torch.cat(colors), torch.cat(alphas), torch.cat(depths)
