"""The renderer for CUDA: gsplat's kernels, where that package is installed.

gsplat's rules differ in two small ways: it leaves out the Gaussian that would bring a pixel's transmittance
below 1e-4 (here it still counts), and some versions stop at 3 standard deviations.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from manyview.errors import MissingDependency
from manyview.lift.splats.model import Splats
from manyview.lift.splats.projection import DILATION, Camera


def has_gsplat() -> bool:
    """Whether the package gsplat is installed and torch sees a CUDA device."""
    return importlib.util.find_spec("gsplat") is not None and torch.cuda.is_available()


def render_view(
    splats: Splats, camera: Camera, screen_offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One view: [5, H, W] and bool [N] which Gaussians the camera sees. As in reference.py.

    gsplat takes no offsets of the screen positions; after the backward pass `screen_offsets.grad` holds their
    gradient nevertheless. Raises `MissingDependency` without gsplat.
    """
    try:
        from gsplat import rasterization  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingDependency(
            "backend", "gsplat", "needs the package gsplat and a CUDA device: pip install gsplat"
        ) from None
    height, width = camera.size
    last = torch.tensor([[0.0, 0.0, 0.0, 1.0]]).to(camera.rows)
    viewmat = torch.cat((camera.rows, last))
    (fx, fy), (cx, cy) = camera.focal, camera.principal
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]).to(camera.rows)
    colors, alphas, meta = rasterization(
        means=splats.means,
        quats=splats.quaternions,
        scales=splats.scales,
        opacities=splats.opacities,
        colors=splats.sh,
        viewmats=viewmat[None],
        Ks=K[None],
        width=width,
        height=height,
        near_plane=camera.near,
        eps2d=DILATION,
        sh_degree=splats.sh_degree,
        packed=False,
        render_mode="RGB+D",
    )
    if screen_offsets is not None and meta["means2d"].requires_grad:
        meta["means2d"].register_hook(_copy_gradient_to(screen_offsets))
    visible = (meta["radii"][0].reshape(len(splats), -1) > 0).all(dim=-1)
    return torch.cat((colors[0], alphas[0]), dim=-1).permute(2, 0, 1), visible


def _copy_gradient_to(probe: Tensor):
    def copy(gradient: Tensor) -> None:
        value = gradient.detach().reshape(probe.shape)
        probe.grad = value if probe.grad is None else probe.grad + value

    return copy
