"""Training of the shared image codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from manyview.data.packed import PackedViews
from manyview.nets.autoencoder import (
    build_autoencoder,
    decode,
    encode,
    raw_images,
    raw_latents,
    set_statistics,
)
from manyview.sampling.noise import item_noise
from manyview.training.pictures import RandomPictures
from manyview.training.task import Task
from manyview.weights.packing import load_component


class _Codec(nn.Module):
    """Encode, disturb, decode in one forward call (mixed precision and gradient averaging sit there)."""

    def __init__(self, codec: AutoencoderKL, freeze_encoder: bool, latent_noise: float) -> None:
        super().__init__()
        self.codec = codec
        self.freeze_encoder = freeze_encoder
        self.latent_noise = latent_noise

    def forward(self, images: Tensor, items: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            latents = raw_latents(self.codec, images)
        noise = item_noise(seed, items, latents.shape[1:]).to(latents) * self.latent_noise
        return raw_images(self.codec, latents + noise), latents


class AutoencoderTask(Task):
    """L1 + L2 reconstruction, and L2 of the means over latent cells. A small penalty holds the latents near
    unit size, and a little latent noise makes the decoder forgive a diffusion model's errors.

    With `initial` the weights of an exported codec are trained further; with `freeze_encoder` only its
    decoder, so that latents made before stay valid. `negatives` is high for the first steps of a fresh
    codec (see `RandomPictures`) and low afterwards, when true colours should get the capacity.
    """

    name = "vae"

    def __init__(
        self,
        folders: Sequence[Path],
        shares: Sequence[float],
        validation: Path | None,
        crop: int = 64,
        seed: int = 0,
        initial: Path | None = None,
        freeze_encoder: bool = False,
        latent_noise: float = 0.05,
        negatives: float = 0.5,
    ) -> None:
        self.pictures = RandomPictures(folders, shares, crop, seed, negatives)
        self.validation = validation
        self.initial = initial
        self.freeze_encoder = freeze_encoder
        self.latent_noise = latent_noise

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "crop": self.pictures.size,
            "initial": str(self.initial) if self.initial else "",
            "freeze_encoder": self.freeze_encoder,
            "latent_noise": self.latent_noise,
            "negatives": self.pictures.negatives,
        }

    def build(self) -> nn.Module:
        """The compact codec, fresh or from `initial`."""
        if self.initial is None:
            codec = build_autoencoder("compact")
        else:
            codec = load_component(AutoencoderKL, self.initial, argument="--initial")
        codec.encoder.requires_grad_(not self.freeze_encoder)
        if codec.quant_conv is not None:
            codec.quant_conv.requires_grad_(not self.freeze_encoder)
        return _Codec(codec, self.freeze_encoder, self.latent_noise)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        return {"images": self.pictures.batch(items)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["images"]
        output, latents = model(images, items, seed)
        error = output.float() - images
        squared = error.square().mean()
        # Means over latent cells: without them a young codec stays grey for thousands of steps, because
        # the colour of an object costs an L1 loss less than its edges do.
        cells = functional.avg_pool2d(error, images.shape[-1] // latents.shape[-1]).square().mean()
        small = 1e-4 * latents.float().square().mean()
        loss = error.abs().mean() + 4 * squared + 8 * cells + small
        return loss, {"psnr": -10 * torch.log10(squared.detach())}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean PSNR of whole held-out views, without latent noise."""
        if self.validation is None:
            return {}
        codec = _codec_of(model)
        scores = []
        for objects in PackedViews(self.validation).batches(1):
            images = torch.from_numpy(objects[0, ::5].astype(np.float32) / 255).permute(0, 3, 1, 2).to(device)
            mse = (decode(codec, encode(codec, images)) - images).square().mean(dim=(1, 2, 3))
            scores.append(-10 * torch.log10(mse).mean().item())
        return {"psnr_val": float(np.mean(scores))}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The codec with its latent statistics, measured on whole training views, in float16."""
        codec = _codec_of(model)
        if not self.freeze_encoder or codec.config.get("latents_mean") is None:
            set_statistics(codec, self._raw_latents(codec))
        codec.half().save_pretrained(folder)

    @torch.no_grad()
    def _raw_latents(self, codec: AutoencoderKL) -> Tensor:
        latents = []
        for source in self.pictures.sources.training:
            for index in np.unique(np.linspace(0, len(source) - 1, 60).astype(int)):
                images = torch.from_numpy(source[int(index)][::4].astype(np.float32) / 255)
                images = images.permute(0, 3, 1, 2).to(next(codec.parameters()).device)
                latents.append(raw_latents(codec, images).float())
        return torch.cat(latents)


def _codec_of(model: nn.Module) -> AutoencoderKL:
    codec = getattr(model, "codec", None)
    assert isinstance(codec, AutoencoderKL), "the autoencoder task trains an AutoencoderKL"
    return codec
