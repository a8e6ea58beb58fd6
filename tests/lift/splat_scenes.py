"""Random Gaussians for the tests, and their renders with every gradient."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manyview.lift.splats.model import NUM_COEFFICIENTS, Splats
from manyview.lift.splats.render import Backend, SplatRender, render_splats
from manyview.types import Cameras


def make_splats(count: int, degree: int, scale: float = 0.05, seed: int = 0) -> Splats:
    """Gaussians of all shapes in a ball of radius 0.5."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    directions = torch.nn.functional.normalize(normal(count, 3), dim=-1)
    return Splats(
        means=0.5 * directions * torch.rand(count, 1, generator=generator) ** (1 / 3),
        log_scales=torch.tensor(scale).log() + 0.5 * normal(count, 3),
        quaternions=normal(count, 4),
        opacity_logits=2 * normal(count),
        sh=0.3 * normal(count, NUM_COEFFICIENTS[degree], 3),
    )


def render_with_gradients(
    splats: Splats, cameras: Cameras, backend: Backend
) -> tuple[SplatRender, dict[str, Tensor]]:
    """The render, and the gradient of a random sum over it in all that it is differentiable in."""
    leaves = {name: value.clone().requires_grad_() for name, value in splats.tensors().items()}
    leaves["world_from_cam"] = cameras.world_from_cam.clone().requires_grad_()
    leaves["screen_offsets"] = torch.zeros(len(cameras), len(splats), 2, requires_grad=True)
    own = {name: leaves[name] for name in splats.tensors()}
    drawn = render_splats(
        Splats(**own),
        replace(cameras, world_from_cam=leaves["world_from_cam"]),
        background=0.7,
        backend=backend,
        screen_offsets=leaves["screen_offsets"],
    )
    outputs = torch.cat((drawn.images, drawn.alphas, drawn.depths), dim=1)
    factors = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    (outputs * factors).sum().backward()
    gradients = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        gradients[name] = leaf.grad
    return drawn, gradients
