"""Training of the generator by pictures it has to draw again (autoencoder.py), before the game or instead of
it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.methods.refiner.autoencoder import AutoencoderOptions, CodeAutoencoder
from manyview.methods.refiner.code_distribution import CodeDistribution, fit_mapping
from manyview.methods.refiner.train_generator import GeneratorTask
from manyview.metrics.image import psnr
from manyview.nets.stylegan2.discriminator import build_encoder
from manyview.sampling.noise import item_noise, item_uniform

_NOISE, _MIRROR = 0x616561, 0x616565
_NUM_DRAWN_AGAIN = 128


class AutoencoderTask(GeneratorTask):
    """Data and validation as `GeneratorTask`; the export is a generator alone, which that task can go on
    with (`initial`)."""

    name = "refiner_autoencoder"
    mapping_lr = 1.0
    """It learns alone, at the end."""

    def __init__(
        self,
        folders: Sequence[Path],
        shares: Sequence[float] = (),
        validation: Path | None = None,
        *,
        autoencoder: AutoencoderOptions | None = None,
        **shared: Any,
    ) -> None:
        """`shared`: as of `GeneratorTask`, but for `options`."""
        super().__init__(folders, shares, validation, **shared)
        self.autoencoder = autoencoder or AutoencoderOptions()

    @property
    def own_settings(self) -> dict[str, Any]:
        """See `GeneratorTask`."""
        return {f"autoencoder_{name}": value for name, value in vars(self.autoencoder).items()}

    def build(self) -> nn.Module:
        """An encoder, and the generator, fresh or from `initial`."""
        generator = self.first_generator()
        encoder = build_encoder(self.preset, self.size, generator.w_dim)
        return CodeAutoencoder(generator, encoder, self.autoencoder)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """real [B, 3, R, R] in [-1, 1], mirrored or not."""
        mirrored = item_uniform(self.seed, items, stream=_MIRROR) < 0.5 * self.options.mirror
        views = [self._view(int(item)) for item in items]
        views = [view.flip(-1) if turned else view for view, turned in zip(views, mirrored, strict=True)]
        return {"real": torch.stack(views) * 2 - 1}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["real"]
        noise = item_noise(seed, items, (_inner(model).generator.w_dim,), stream=_NOISE)
        parts = model(real, noise.to(real.device))
        return parts.pop("loss"), parts

    def made(self, model: nn.Module, z: Tensor) -> Tensor:
        """From codes drawn as those seen last lie: the mapping network knows nothing of them yet."""
        networks = _inner(model)
        known = networks.seen[: int(min(networks.count, len(networks.seen)))]
        codes = CodeDistribution(known).draw(z)
        return torch.cat([networks.draw(part) for part in codes.split(32)])

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """As `GeneratorTask`, and `psnr_val` of held-out pictures drawn from their codes."""
        found = super().validate(model, device)
        if self.sources.validation is None:
            return found
        networks = _inner(model)
        real = self.held_out(_NUM_DRAWN_AGAIN).to(device)
        scores = []
        for part in real.split(32):
            made = networks.draw(networks.encode(part * 2 - 1))
            scores.append(psnr((made.float() / 2 + 0.5).clamp(0, 1), part))
        return {**found, "psnr_val": float(torch.cat(scores).mean())}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The generator in float16, its mapping network fitted to the finished encoder's codes."""
        networks, options = _inner(model), self.autoencoder
        device = networks.seen.device
        with torch.no_grad():
            batches = torch.arange(options.remembered).split(32)
            codes = [networks.encode(self.batch(items)["real"].to(device)) for items in batches]
        fit_mapping(networks.generator, CodeDistribution(torch.cat(codes)), options.settling, self.seed)
        super().export(model, folder)


def _inner(model: nn.Module) -> CodeAutoencoder:
    networks = getattr(model, "module", model)
    assert isinstance(networks, CodeAutoencoder), "the task trains an encoder and a generator"
    return networks
