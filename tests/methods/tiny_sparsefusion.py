"""SparseFusion at toy size: the real classes, a few thousand weights, 16 px views of small scenes."""

from __future__ import annotations

from typing import Any

import torch

from manyview.geometry.trajectories import look_at
from manyview.methods.sparsefusion.eft import EpipolarTransformer
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.types import Cameras

SIZE = 16


def tiny_eft(**changes: Any) -> EpipolarTransformer:
    """In eval mode and float64, so that agreement can be asked for to many digits."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "stem": 2,
        "width": 8,
        "feedforward": 12,
        "num_layers": 2,
        "num_heads": 2,
        "num_depths": 5,
        "num_octaves": 3,
        "half_range": 0.9,
        "normalization": "group",
        "sampling": "exact",
        "mark_visible": True,
    }
    net = EpipolarTransformer(**{**options, **changes})
    for name, value in net.named_buffers():  # batch norm that does something
        if name.endswith("running_mean"):
            value.normal_(std=0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return net.double().eval()


def tiny_unet(**changes: Any) -> VldmUnet:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "latent_channels": 2,
        "condition_channels": 8,
        "width": 8,
        "multipliers": (1, 2),
        "num_blocks": (1, 1),
        "num_heads": 2,
        "head_dim": 4,
        "stem_kernels": (3, 5),
    }
    net = VldmUnet(**{**options, **changes}).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return net


def scene_cameras(count: int, seed: int = 0, distorted: bool = True) -> Cameras:
    """Cameras about 1.5 from the origin that look near it, no two alike, float64."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    distance = 1.5 + 0.2 * torch.rand(count, 1, generator=draw, dtype=torch.float64)
    position = torch.nn.functional.normalize(direction, dim=1) * distance
    target = 0.1 * torch.randn(count, 3, generator=draw, dtype=torch.float64)
    K = torch.zeros(count, 3, 3, dtype=torch.float64)
    K[:, 0, 0] = 17 + torch.rand(count, generator=draw, dtype=torch.float64)
    K[:, 1, 1] = 18 + torch.rand(count, generator=draw, dtype=torch.float64)
    K[:, :2, 2] = 8 + 0.5 * torch.randn(count, 2, generator=draw, dtype=torch.float64)
    K[:, 2, 2] = 1
    bend = 0.02 * torch.randn(count, 6, generator=draw, dtype=torch.float64)
    return Cameras(
        world_from_cam=look_at(position, target),
        K=K,
        sizes=torch.tensor([[SIZE, SIZE]] * count),
        distortion=bend if distorted else None,
    )


def scene_images(count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(100 + seed)
    return torch.rand(count, 3, SIZE, SIZE, generator=draw, dtype=torch.float64)
