"""The numbers a latent method trains on: latents and image embeddings of all views, encoded once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from manyview.data.latents import LatentKey, cache_latents, weights_identity
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.nets.autoencoder import encode
from manyview.nets.image_encoder import embed
from manyview.progress import Progress, silent

_OBJECTS_AT_ONCE = 16
"""Objects in one shard of a cache; of their views, this many go through a network at once:"""
_IMAGES_AT_ONCE, _ON_A_CPU = 64, 8
"""A CPU takes twice as long for 64, whose features do not fit into its caches."""


def encode_views(
    sources: Sequence[ObjectViews],
    roots: Sequence[Path],
    vae: AutoencoderKL,
    image_encoder: CLIPVisionModelWithProjection,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """Latents [N, V, C, h, w] and embeddings [N, V, D], float16 on the CPU, of all objects in order.

    `roots`: for each source the folder of its caches. A cache is found by the views' identity, the encoding
    half of the weights and the networks' configs: a codec whose decoder alone was trained further finds the
    latents made before. A stopped encoding goes on; a finished one loads without opening the views. Raises
    `InputError` where the sources differ in the number or size of views.
    """
    assert len(sources) == len(roots) > 0, "each source has a folder for its caches"
    # float32 whatever the training runs in: latents are made once and used often.
    for network in cast(list[Any], [vae, image_encoder]):
        network.to(device).float().eval()
    encoders = [
        (lambda images: encode(vae, images), codec_identity(vae)),
        (lambda images: embed(image_encoder, images), _identity(image_encoder, image_encoder.config)),
    ]
    latents, embeddings = (
        _encode_all(sources, roots, function, identity, device, progress) for function, identity in encoders
    )
    return latents, embeddings


def encode_latents(
    source: ObjectViews,
    root: Path,
    vae: AutoencoderKL,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> Tensor:
    """Latents [N, V, C, h, w], float16 on the CPU, of one data set: `encode_views` without embeddings.

    The caches are those of `encode_views`, so what one method encoded another finds.
    """
    cast(Any, vae).to(device).float().eval()
    identity = codec_identity(vae)
    return _encode_all([source], [root], lambda images: encode(vae, images), identity, device, progress)


def _encode_all(
    sources: Sequence[ObjectViews],
    roots: Sequence[Path],
    function: Callable[[Tensor], Tensor],
    encoder: str,
    device: torch.device,
    progress: Progress,
) -> Tensor:
    """[N, V, ...] float16: what `function` makes of [B, 3, H, W] in [0, 1], for all views."""

    def encode_bytes(images: Tensor) -> Tensor:
        parts = images.split(_ON_A_CPU if device.type == "cpu" else _IMAGES_AT_ONCE)
        return torch.cat([function(part.to(device).permute(0, 3, 1, 2).float() / 255) for part in parts])

    caches = []
    for source, root in zip(sources, roots, strict=True):
        key = LatentKey(data=source.identity, encoder=encoder)
        total = -(-len(source) // _OBJECTS_AT_ONCE)
        caches.append(
            cache_latents(_images(source), encode_bytes, root, key, progress=progress, num_batches=total)
        )
    counts = [len(source) for source in sources]
    shapes = {(len(cache) // count, *cache.item_shape) for cache, count in zip(caches, counts, strict=True)}
    if len(shapes) != 1:
        line = "expected the same number and size of views in all"
        raise InputError("--data", f"{len(sources)} data sets", line)
    together = torch.empty(sum(counts), *shapes.pop(), dtype=torch.float16)
    for cache, part in zip(caches, together.split(counts), strict=True):
        cache.load(part.flatten(0, 1))  # a view: nothing is held twice
    return together


def _images(source: ObjectViews) -> Iterator[Tensor]:
    """[B * V, H, W, 3] uint8: all views of all objects, in order."""
    for batch in source.batches(_OBJECTS_AT_ONCE):
        yield torch.from_numpy(batch).flatten(0, 1)


def codec_identity(vae: AutoencoderKL) -> str:
    """What decides the latents a codec gives: the weights of its encoding half, and its config."""
    halves: dict[str, nn.Module] = {"encoder": vae.encoder}
    if vae.quant_conv is not None:
        halves["quant_conv"] = vae.quant_conv
    return _identity(nn.ModuleDict(halves), vae.config)


def _identity(weights: nn.Module, config: Any) -> str:
    """What identifies an encoder: its weights, and its config, which holds a codec's latent statistics."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # Of files, not of numbers: where they came from, who wrote them, in which format.
    idle = ("transformers_version", "architectures", "dtype", "torch_dtype")
    kept = {key: value for key, value in values.items() if not key.startswith("_") and key not in idle}
    return f"{weights_identity(weights)} {json.dumps(kept, sort_keys=True, default=str)}"
