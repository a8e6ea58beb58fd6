"""The network in whose features pictures are compared as sets and as identities."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.errors import InputError
from manyview.nets.image_encoder import embed
from manyview.weights import component_hash, open_bundle
from manyview.weights.packing import load_component

_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class FeatureNet:
    """A named map from pictures to features."""

    name: str
    sha256: str
    features: Callable[[Tensor], Tensor]
    """[N, 3, H, W] in [0, 1] to [N, F] on the CPU, float32."""

    def cosine(self, first: Tensor, second: Tensor) -> Tensor:
        """[N] cosine of features [N, F]."""
        return F.cosine_similarity(first, second, dim=1)


def load_feature_net(folder: Path | None, device: torch.device | str = "cpu") -> FeatureNet:
    """A CLIP vision model with projection in transformers' layout (a face network in that layout as well), or
    the package's own image encoder. Raises `InputError` for a folder that is none, and where none is given
    and the package holds none."""
    argument, name = "--feature-net", "image_encoder_compact"
    if folder is None:
        try:
            folder = open_bundle("compact", "dimvis").components["image_encoder"]
        except (InputError, KeyError):
            raise InputError(argument, "not given", "and the package holds no image encoder") from None
    else:
        name = folder.resolve().name
        if not (folder / "config.json").is_file():
            line = "expected the folder of a CLIP vision model with projection (transformers)"
            raise InputError(argument, str(folder), line)
    net = load_component(CLIPVisionModelWithProjection, folder, torch.float32, argument=argument)
    torch.nn.Module.to(net, device).eval()

    def features(images: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [embed(net, part.to(device).float()) for part in images.split(_AT_ONCE)]
        return torch.cat(parts).float().cpu().clone()

    return FeatureNet(name=name, sha256=component_hash(folder), features=features)


def pack_features(features: Tensor) -> str:
    """[F] numbers as text, in float16."""
    return base64.b64encode(features.half().numpy().tobytes()).decode()


def unpack_features(text: str) -> Tensor:
    """[F] float32."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.float16).astype(np.float32))
