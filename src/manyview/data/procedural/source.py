"""Rendered views of procedural objects: images, masks, depth and cameras, on CPU or CUDA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from manyview.data.procedural.objects import TexturedMesh, make_object
from manyview.data.rasterizer import Fragments, interpolate, rasterize, take
from manyview.types import Cameras, Views


def render_object(mesh: TexturedMesh, cameras: Cameras, supersample: int = 2) -> Views:
    """The mesh seen by V cameras: straight-alpha colour, coverage mask and depth, box-filtered.

    Everything is computed on the mesh's device. Depth is the mean over the covered samples of a pixel.
    """
    height, width = (int(value) for value in cameras.sizes[0])
    fine = cameras.resized(height * supersample, width * supersample)
    # A mesh with a back-facing hole never shows it: all families are closed, so culling is exact.
    fragments = rasterize(mesh.vertices, mesh.faces, fine)
    hit = (fragments.face >= 0).float()
    colour = shade(mesh, fragments)
    alpha = functional.avg_pool2d(hit[:, None], supersample)
    weight = alpha.clamp_min(1e-6)
    image = functional.avg_pool2d((colour * hit[..., None]).permute(0, 3, 1, 2), supersample) / weight
    depth = functional.avg_pool2d((fragments.depth * hit)[:, None], supersample) / weight
    return Views(images=image.clamp(0, 1), masks=alpha, cameras=cameras, depths=depth)


def render_seed(seed: int, cameras: Cameras, supersample: int = 2) -> Views:
    """Views of the object of a seed (see `make_object`)."""
    device = cameras.K.device
    return render_object(make_object(seed).to(device), cameras, supersample)


def shade(mesh: TexturedMesh, fragments: Fragments) -> Tensor:
    """[V, H, W, 3] colour at the visible points: bilinear texture times baked gain."""
    face = fragments.face.reshape(-1)
    hit = (face >= 0).nonzero()[:, 0]
    visible = take(face, hit)
    values = interpolate(torch.cat([mesh.corner_uv, mesh.corner_gain], dim=-1), fragments)
    values = take(values.reshape(-1, 3), hit)
    size = mesh.textures.shape[-1]
    start = take(mesh.material, visible) * (size * size)
    x = (values[:, 0] - values[:, 0].floor()) * size - 0.5
    y = (values[:, 1].ceil() - values[:, 1]) * size - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    left, right = x0.long() % size, (x0.long() + 1) % size
    upper, lower = start + y0.long() % size * size, start + (y0.long() + 1) % size * size
    texels = mesh.textures.permute(0, 2, 3, 1).reshape(-1, 3)
    top = torch.lerp(take(texels, upper + left), take(texels, upper + right), fx)
    bottom = torch.lerp(take(texels, lower + left), take(texels, lower + right), fx)
    shaded = torch.lerp(top, bottom, fy) * values[:, 2:]
    colour = values.new_zeros(len(face), 3).index_copy_(0, hit, shaded)
    return colour.view(*fragments.face.shape, 3)
