"""The refiner's part of train_all.py: its data, and a task for each of its stages. The numbers stand
there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clock import Clock
from transformers import CLIPVisionModelWithProjection

from manyview.methods.refiner.autoencoder import AutoencoderOptions
from manyview.methods.refiner.gan import GanOptions
from manyview.methods.refiner.losses import SMALL
from manyview.methods.refiner.single_views import pack_single_views
from manyview.methods.refiner.sweep_frames import SearchOptions
from manyview.methods.refiner.train import RefinerTask
from manyview.methods.refiner.train_autoencoder import AutoencoderTask
from manyview.methods.refiner.train_depth import DepthOptions, SelfTaughtTask
from manyview.methods.refiner.train_generator import GeneratorTask
from manyview.methods.refiner.train_yaw import YawTask
from manyview.nets.image_encoder import EncoderFeatures
from manyview.training.task import Task
from manyview.weights.packing import load_component

FIRST_HELD_OUT = 10_000_000
"""Seed of the first animal that no training sees; those of training begin at 0."""


@dataclass(frozen=True, kw_only=True)
class RefinerSizes:
    """How much of which data."""

    pixels: int
    views: int
    held_out: int
    searched: SearchOptions


class RefinerStages:
    """What they need and leave in the work folder. `export`: a finished run's networks, by its name."""

    def __init__(
        self,
        work: Path,
        sizes: RefinerSizes,
        clock: Clock,
        device: torch.device,
        export: Callable[[str], Path],
    ) -> None:
        self.sizes, self.clock, self.device, self.export = sizes, clock, device, export
        self.views, self.held_out = (work / "data" / name for name in ("animals", "animals_held_out"))

    def make_data(self) -> None:
        """Render all single views; what is there stays."""
        sizes = self.sizes
        sets = ((self.views, 0, sizes.views), (self.held_out, FIRST_HELD_OUT, sizes.held_out))
        self.clock.start(sizes.views + sizes.held_out, "animals")
        for folder, first, count in sets:
            self.clock.check()
            pack_single_views(
                folder,
                first,
                count,
                size=sizes.pixels,
                device=self.device.type,
                progress=self.clock.advance,
            )
        self.clock.finish()

    def task(
        self,
        stage: str,
        options: Mapping[str, Any],
        seed: int,
        *,
        steps: int,
        batch_size: int,
        encoder: Path | None,
    ) -> Task:
        """What a stage trains. `encoder`: an image encoder for the generator's validation."""
        self.make_data()
        shared: dict[str, Any] = {
            "seed": seed,
            "data_name": f"{self.sizes.views} procedural animals, one view each",
        }
        if stage == "refiner_generator":
            given = dict(options)
            redraws = given.pop("autoencoder", None)
            shared |= {
                "validation": self.held_out,
                "size": self.sizes.pixels,
                "feature_net": None
                if encoder is None
                else EncoderFeatures(load_component(CLIPVisionModelWithProjection, encoder, torch.float32)),
            }
            if redraws is not None:
                how = AutoencoderOptions(**redraws).within(steps)
                return AutoencoderTask([self.views], autoencoder=how, **shared)
            return GeneratorTask([self.views], options=GanOptions(**given), **shared)
        if stage == "refiner_yaw":
            return YawTask(self.views, self.held_out, **shared)
        if stage == "refiner_depth":
            return SelfTaughtTask(
                self.export("refiner_generator"),
                self.held_out,
                steps=steps,
                batch_size=batch_size,
                options=DepthOptions(search=self.sizes.searched, **options),
                yaw_net=self.export("refiner_yaw"),
                **shared,
            )
        given = dict(options)
        losses = SMALL
        for name in given.pop("without", ()):
            losses = losses.without(name)
        return RefinerTask(
            self.export("refiner_generator"), self.export("refiner_depth"), losses=losses, **given, **shared
        )
