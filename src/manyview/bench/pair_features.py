"""Features of pictures by which two sets of them are compared, of networks that are at hand.

Kept in a run's lines as text, since they are many numbers of which none is read on its own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.bench.pair_options import FEATURES
from manyview.metrics.perceptual import STLPIPS_SHA256, load_stlpips
from manyview.metrics.report import Skipped
from manyview.nets.image_encoder import embed
from manyview.weights import open_bundle
from manyview.weights.packing import load_component

_AT_ONCE = 16
_SMALLEST = {"compact_encoder": 8, "stvgg16": 32}


@dataclass(frozen=True)
class FeatureNet:
    """A network that tells features, and what it is."""

    name: str
    sha256: str
    function: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """[N, D] float32 of images [N, 3, H, W] in [0, 1]."""
        return torch.cat([self.function(part).float().cpu() for part in images.split(_AT_ONCE)])


def find_features(
    names: Sequence[str], size: int, device: torch.device | str
) -> tuple[list[FeatureNet], dict[str, Skipped]]:
    """Those of `FEATURES` that are here and take pictures of `size` pixels a side; why the others are not."""
    found: list[FeatureNet] = []
    skipped: dict[str, Skipped] = {}
    for name in names:
        if size < _SMALLEST[name]:
            skipped[name] = Skipped(f"needs at least {_SMALLEST[name]} pixels a side")
            continue
        net = _compact(device) if name == FEATURES[0] else _stvgg(device)
        if isinstance(net, Skipped):
            skipped[name] = net
        else:
            found.append(net)
    return found, skipped


def pack(features: Tensor) -> str:
    """Features [N, D] as text: float16, base64."""
    return base64.b64encode(features.half().numpy().tobytes()).decode()


def unpack(text: str, count: int) -> Tensor:
    """[count, D] float32 of what `pack` made."""
    values = np.frombuffer(base64.b64decode(text), dtype=np.float16)
    return torch.from_numpy(values.reshape(count, -1).astype(np.float32))


def _compact(device: torch.device | str) -> FeatureNet:
    bundle = open_bundle("compact", "dimvis")
    folder = bundle.folders("image_encoder")["image_encoder"]
    network = load_component(CLIPVisionModelWithProjection, folder, torch.float32)
    moved: CLIPVisionModelWithProjection = network.to(device).eval()  # pyright: ignore[reportArgumentType]
    return FeatureNet(
        FEATURES[0], bundle.hashes["image_encoder"], lambda images: embed(moved, images.to(device))
    )


def _stvgg(device: torch.device | str) -> FeatureNet | Skipped:
    distance = load_stlpips("vgg")
    if isinstance(distance, Skipped):
        return distance
    moved = distance.to(device)

    def last_stage(images: Tensor) -> Tensor:
        scaled = (2 * images.to(device) - 1 - moved.shift) / moved.scale
        return moved.backbone(scaled)[-1].mean(dim=(2, 3))

    return FeatureNet(FEATURES[1], STLPIPS_SHA256["vgg"], last_stage)
