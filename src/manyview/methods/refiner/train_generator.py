"""Training of the generator whose codes are refined: a StyleGAN2 of single views, of which nothing is known
but the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.methods.refiner.augmentation import Draws, draw_augmentation
from manyview.methods.refiner.gan import GanNetworks, GanOptions
from manyview.metrics.distribution import kernel_distance
from manyview.nets.stylegan2.discriminator import build_discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator, build_generator
from manyview.sampling.noise import generator_seed, item_integers, item_noise, item_uniform
from manyview.training.sources import ViewSources, read_view
from manyview.training.task import Task
from manyview.weights.packing import load_component

_REAL, _FIRST, _SECOND, _CROSSOVER, _MIXED = 0x67616E, 0x67616F, 0x676170, 0x676171, 0x676172
_REAL_CHANGES, _MADE_CHANGES, _VALIDATION = 0x676180, 0x676190, 0x6761A0
_NUM_VALIDATED = 256


class GeneratorTask(Task):
    """One optimiser steps both networks at once, each along its own loss (`gan.GanNetworks`), so that the
    loop's checkpoints, averages and resumed runs are exact for the discriminator too.

    Adam without momentum (`betas` of 0 and 0.99) and a gradient that is not clipped are what the game needs.
    Raises `InputError` for views smaller than the network's pictures or no multiple of them.
    """

    name = "refiner_generator"
    mapping_lr = 0.01
    """How fast the mapping network learns beside the rest; slowly, as published."""

    def __init__(
        self,
        folders: Sequence[Path],
        shares: Sequence[float] = (),
        validation: Path | None = None,
        *,
        preset: Literal["compact", "paper"] = "compact",
        size: int | None = None,
        options: GanOptions | None = None,
        feature_net: nn.Module | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        """`feature_net`: pictures [B, 3, H, W] in [0, 1] to features [B, F], for validation alone."""
        self.sources = ViewSources(folders, shares, validation)
        self.preset: Literal["compact", "paper"] = preset
        self.options, self.feature_net = options or GanOptions(), feature_net
        self.seed, self.initial, self.data_name = seed, initial, data_name
        with torch.device("meta"):
            self.size = build_generator(preset, size).resolution
        for source in self.sources.all:
            height, width = source[0].shape[1:3]
            if height != width or height % self.size:
                accepted = f"expected square views of a multiple of {self.size} pixels"
                raise InputError("--data", f"{source.folder} ({height} x {width})", accepted)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "preset": self.preset,
            "size": self.size,
            "shares": self.sources.shares.tolist(),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            **self.own_settings,
        }

    @property
    def own_settings(self) -> dict[str, Any]:
        """Of `settings` what this way of training has alone, its name before each."""
        return {f"gan_{name}": value for name, value in vars(self.options).items()}

    def build(self) -> nn.Module:
        """Both networks, the generator fresh or from `initial`."""
        discriminator = build_discriminator(self.preset, self.size)
        return GanNetworks(self.first_generator(), discriminator, self.options)

    def first_generator(self) -> StyleGAN2Generator:
        """What training begins with. Raises `InputError` for an `initial` of other pictures."""
        if self.initial is None:
            return build_generator(self.preset, self.size, mapping_lr=self.mapping_lr)
        generator = load_component(StyleGAN2Generator, self.initial, torch.float32, argument="--initial")
        if generator.resolution != self.size:
            accepted = f"makes {generator.resolution} pixels, expected {self.size}"
            raise InputError("--initial", str(self.initial), accepted)
        return generator

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """real [B, 3, R, R] in [-1, 1], and the uniform and normal numbers of the changes before the
        discriminator."""
        real = torch.stack([self._view(int(item)) for item in items]) * 2 - 1
        found = {"real": real}
        for name, stream in (("real", _REAL_CHANGES), ("made", _MADE_CHANGES)):
            draws = draw_augmentation(self.seed, items, stream)
            found |= {f"{name}_chance": draws.chance, f"{name}_amount": draws.amount}
        return found

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both networks' losses; each has a gradient from its own alone."""
        device, options = batch["real"].device, self.options
        networks = _inner(model)
        z_dim, num_ws = networks.generator.z_dim, networks.generator.num_ws
        first, second = (item_noise(seed, items, (z_dim,), stream=s).to(device) for s in (_FIRST, _SECOND))
        mixed = item_uniform(seed, items, stream=_MIXED) < options.style_mixing
        crossover = torch.where(mixed, 1 + item_integers(seed, items, num_ws - 1, stream=_CROSSOVER), num_ws)
        number = int(items[0]) // len(items)
        parts = model(
            batch["real"],
            first,
            second,
            crossover.to(device),
            Draws(batch["real_chance"], batch["real_amount"]),
            Draws(batch["made_chance"], batch["made_amount"]),
            penalise=number % options.r1_every == 0,
            measure_paths=options.path_length > 0 and number % options.path_every == 0,
        )
        return parts.pop("loss"), parts

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Kernel distance of features between made and held-out pictures, and how much made ones differ."""
        if self.sources.validation is None:
            return {}
        generator = _generator(model)
        seeds = torch.arange(_NUM_VALIDATED)
        z = item_noise(self.seed, seeds, (generator.z_dim,), stream=_VALIDATION)
        made = (self.made(model, z.to(device)).float() / 2 + 0.5).clamp(0, 1)
        found = {"spread_val": float(made.std(dim=0).mean())}
        if self.feature_net is not None:
            net = self.feature_net.to(device)
            both = (made, self.held_out(_NUM_VALIDATED))
            features = [torch.cat([net(p) for p in x.to(device).split(32)]) for x in both]
            found["kernel_val"] = kernel_distance(*features)
        return found

    def made(self, model: nn.Module, z: Tensor) -> Tensor:
        """[N, 3, R, R] about [-1, 1] of latents z [N, Z]."""
        generator = _generator(model)
        return torch.cat([generator(part, noise="none") for part in z.split(32)])

    def export(self, model: nn.Module, folder: Path) -> None:
        """The generator in float16."""
        _generator(model).half().save_pretrained(folder)

    def held_out(self, count: int) -> Tensor:
        """[at most count, 3, R, R] in [0, 1], spread evenly over the validation data."""
        views = self.sources.validation
        assert views is not None, "asked for where there are some"
        chosen = np.unique(np.linspace(0, len(views) - 1, count).astype(int))
        return torch.stack([self._shrunk(read_view(views, int(i), int(i) % views.num_views)) for i in chosen])

    def _view(self, item: int) -> Tensor:
        rng = np.random.default_rng(generator_seed(self.seed, item, _REAL))
        return self._shrunk(read_view(*self.sources.draw(rng)))

    def _shrunk(self, view: Tensor) -> Tensor:
        return view if view.shape[-1] == self.size else resize_area(view, self.size, self.size)[0]


def _generator(model: nn.Module) -> StyleGAN2Generator:
    generator = getattr(model, "module", model).generator
    assert isinstance(generator, StyleGAN2Generator), "what is trained has a generator"
    return generator


def _inner(model: nn.Module) -> GanNetworks:
    networks = getattr(model, "module", model)
    assert isinstance(networks, GanNetworks), "the generator task trains a generator and a discriminator"
    return networks
