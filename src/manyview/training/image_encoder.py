"""Training of the small image encoder: two views of one object agree, views of others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyview.data.packed import PackedViews
from manyview.nets.image_encoder import build_image_encoder, embed
from manyview.sampling.noise import generator_seed
from manyview.training.sources import ViewSources
from manyview.training.task import Task

_STREAM = 0x656D62
_TEMPERATURE = 0.1
_SIZE = 64


class _Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_image_encoder("compact")

    def forward(self, images: Tensor) -> Tensor:
        return embed(self.encoder, images)


class ImageEncoderTask(Task):
    """Normalised temperature-scaled cross-entropy over pairs of views (SimCLR, Chen et al. 2020, Eq. 1)."""

    name = "image_encoder"

    def __init__(
        self, folders: Sequence[Path], shares: Sequence[float], validation: Path | None, seed: int = 0
    ) -> None:
        self.sources = ViewSources(folders, shares)
        self.validation = validation
        self.seed = seed

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"shares": self.sources.shares.tolist()}

    def build(self) -> nn.Module:
        """The compact encoder with first weights."""
        return _Pairs()

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        pairs = [self._pair(int(item)) for item in items]
        return {"first": torch.stack([a for a, _ in pairs]), "second": torch.stack([b for _, b in pairs])}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        embeds = functional.normalize(model(torch.cat([batch["first"], batch["second"]])).float(), dim=-1)
        count = len(batch["first"])
        logits = embeds @ embeds.T / _TEMPERATURE
        logits.fill_diagonal_(-torch.inf)
        target = torch.arange(2 * count, device=embeds.device).roll(count)
        loss = functional.cross_entropy(logits, target)
        return loss, {"top1": (logits.argmax(dim=1) == target).float().mean()}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """How often the view behind finds its own object among the held-out ones."""
        if self.validation is None:
            return {}
        views = PackedViews(self.validation)
        embeds = []
        for objects in views.batches(8):
            opposite = objects[:, [0, views.num_views // 2]].astype(np.float32) / 255
            images = torch.from_numpy(opposite).permute(0, 1, 4, 2, 3)
            shrunk = functional.avg_pool2d(images.flatten(0, 1), images.shape[-1] // _SIZE)
            embeds.append(functional.normalize(model(shrunk.to(device)), dim=-1).view(-1, 2, 128))
        both = torch.cat(embeds)
        nearest = (both[:, 0] @ both[:, 1].T).argmax(dim=1)
        right = nearest == torch.arange(len(both), device=device)
        return {"retrieval_top1_val": float(right.float().mean())}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The encoder in transformers' layout, float16 safetensors."""
        assert isinstance(model, _Pairs), "the image encoder task trains its own pair module"
        model.encoder.half().save_pretrained(folder)

    def _pair(self, item: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        source, index = self.sources.draw_object(rng)
        views = source[index]
        order, gamma = rng.permutation(3), np.exp(rng.normal(scale=0.2))
        pair = []
        for view in rng.choice(len(views), 2, replace=False):
            image = views[int(view)].astype(np.float32) / 255
            # The same recolouring for both: it makes new objects; a little jitter makes it robust.
            image = np.clip(image[..., order] ** np.float32(gamma * np.exp(rng.normal(scale=0.05))), 0, 1)
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            pair.append(functional.avg_pool2d(pixels[None], pixels.shape[-1] // _SIZE)[0])
        return pair[0], pair[1]
