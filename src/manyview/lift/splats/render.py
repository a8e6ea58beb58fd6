"""Drawing Gaussians: one function, three ways of doing it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from manyview.errors import InputError, MissingDependency
from manyview.geometry.pixels import common_size
from manyview.geometry.projection import require_pinhole
from manyview.lift.splats.model import Splats
from manyview.lift.splats.options import Backend
from manyview.lift.splats.projection import Camera, split_cameras
from manyview.types import Cameras

RenderView = Callable[[Splats, Camera, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SplatRender:
    """V rendered views."""

    images: Tensor
    """[V, 3, H, W] composited over the background; above 1 where the colours are."""
    alphas: Tensor
    """[V, 1, H, W] in [0, 1]."""
    depths: Tensor
    """[V, 1, H, W] mean depth along the camera's z of what the pixel shows, 0 where it shows nothing."""
    visible: Tensor
    """bool [V, N] which Gaussians each camera sees."""


def render_splats(
    splats: Splats,
    cameras: Cameras,
    *,
    background: float | Tensor = 1.0,
    backend: Backend = "auto",
    near: float | None = None,
    screen_offsets: Tensor | None = None,
) -> SplatRender:
    """Views of `splats` from `cameras` (all of one size, without distortion).

    Differentiable in all tensors of the splats and in `cameras.world_from_cam`. `background` is a grey level
    or a colour [3]. `near`: Gaussians closer to a camera (along z, world units) are left out; by default a
    hundredth of the way to the middle of the splats. `screen_offsets` [V, N, 2], pixels, moves the Gaussians
    on the screen; its gradient is that of their screen positions, which densification looks at.

    Back ends: `torch` is plain and slow, `cpu` compiled and multi-threaded (float32; needs numba), `gsplat`
    needs CUDA and the package of that name. `auto` takes gsplat for splats on CUDA where it is installed, cpu
    for splats on the CPU, else torch. The answers of `torch` and `cpu` agree to 1e-4.

    Raises `InputError` for cameras that differ in size or have distortion, and for an unknown back end;
    `MissingDependency` for one that is not installed.
    """
    common_size(cameras)
    require_pinhole(cameras)
    render_view = _choose(backend, splats)
    expected = (len(cameras), len(splats), 2)
    if screen_offsets is not None and tuple(screen_offsets.shape) != expected:
        raise InputError("screen_offsets", tuple(screen_offsets.shape), f"expected {list(expected)}")
    placed = cameras
    if cameras.K.device != splats.means.device or cameras.K.dtype != splats.means.dtype:
        placed = cameras.to(splats.means.device).to(splats.means.dtype)
    sums, visible = [], []
    for index, camera in enumerate(split_cameras(placed, splats.means, near)):
        offsets = None if screen_offsets is None else screen_offsets[index]
        values, seen = render_view(splats, camera, offsets)
        sums.append(values)
        visible.append(seen)
    color, depth, alpha = torch.stack(sums).split((3, 1, 1), dim=1)
    behind = torch.as_tensor(background, dtype=color.dtype, device=color.device).reshape(1, -1, 1, 1)
    images = color + (1 - alpha) * behind
    return SplatRender(images, alpha, depth / alpha.clamp_min(1e-10), torch.stack(visible))


def _choose(backend: Backend, splats: Splats) -> RenderView:
    """The back end's function. Imports are here because each brings a compiler along."""
    if backend not in get_args(Backend):
        raise InputError("backend", backend, "expected " + " or ".join(get_args(Backend)))
    is_cpu = splats.means.device.type == "cpu"
    has_numba = importlib.util.find_spec("numba") is not None
    if backend == "auto":
        from manyview.lift.splats.cuda import has_gsplat

        single = splats.means.dtype == torch.float32
        on_cuda = splats.means.device.type == "cuda" and has_gsplat()
        backend = "gsplat" if on_cuda else "cpu" if is_cpu and has_numba and single else "torch"
    if backend == "gsplat":
        from manyview.lift.splats import cuda

        return cuda.render_view
    if backend == "torch":
        from manyview.lift.splats import reference

        return reference.render_view
    if not has_numba:
        raise MissingDependency("backend", "cpu", "needs the package numba: pip install numba")
    if not is_cpu:
        raise InputError("backend", "cpu", f"expected splats on the CPU, they are on {splats.means.device}")
    from manyview.lift.splats import cpu

    return cpu.render_view
