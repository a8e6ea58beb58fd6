"""TUNet's part of train_all.py: its data, and a task for each of its stages. The numbers stand there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clock import Clock
from diffusers import AutoencoderKL

from manyview.data.packed import PackedViews
from manyview.methods.tunet.base_files import open_base
from manyview.methods.tunet.examples import PosedLatents, encode_orbits
from manyview.methods.tunet.means import MeanOptions, cache_estimates
from manyview.methods.tunet.train import TunetTask, TunetTraining
from manyview.methods.tunet.train_base import BaseTraining, TunetBaseTask
from manyview.training.task import Task
from manyview.weights.packing import load_component


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of how many objects the means are made; the base sees all."""

    objects: int
    """Procedural ones at 30 degrees; of the placed meshes there all."""
    more_objects: int
    """Procedural ones of each other elevation,"""
    more_meshes: int
    """and placed meshes."""
    mean_steps: int


class TunetStages:
    """`at_30`: data sets of procedural objects and of meshes; `others`: the same of every other elevation, in
    the same order. `export`: a finished run's networks, by its name."""

    def __init__(
        self,
        work: Path,
        at_30: tuple[list[Path], list[Path]],
        others: Sequence[Sequence[Path]],
        validation: Path,
        limits: Limits,
        clock: Clock,
        device: torch.device,
        export: Callable[[str], Path],
    ) -> None:
        self.work, self.validation, self.limits = work, validation, limits
        self.groups = [*at_30, *others]
        self.clock, self.device, self.export = clock, device, export

    def task(self, stage: str, options: Mapping[str, Any], seed: int) -> Task:
        """What a stage trains."""
        given = dict(options)
        shares = self._spread(given.pop("shares"))
        shared: dict[str, Any] = {"shares": shares, "seed": seed, "data_name": _NAME}
        if stage == "tunet_base":
            sets = [self._encode(folder) for group in self.groups for folder in group]
            held_out = self._encode(self.validation)
            return TunetBaseTask(sets, options=BaseTraining(**given), validation=held_out, **shared)
        base = open_base(self.export(given.pop("base")), self.device)
        means = MeanOptions(steps=self.limits.mean_steps)
        levels = means.levels(base.scheduler)

        def estimated(posed: PosedLatents) -> PosedLatents:
            return cache_estimates(
                posed,
                self.work / "latents",
                base.network,
                base.model,
                levels,
                means,
                device=self.device,
                progress=self.clock,
            )

        limits = self.limits
        counts = (limits.objects, None, limits.more_objects, limits.more_meshes)
        sets = [
            estimated(self._encode(folder).first(count))
            for group, count in zip(self.groups, counts, strict=True)
            for folder in group
        ]
        return TunetTask(
            sets,
            means,
            levels.alpha(means.t_star),
            options=TunetTraining(**given),
            validation=estimated(self._encode(self.validation)),
            **shared,
        )

    def _encode(self, folder: Path) -> PosedLatents:
        vae: Any = load_component(AutoencoderKL, self.export("vae"), torch.float32)
        root = self.work / "latents"
        return encode_orbits(PackedViews(folder), root, vae, device=self.device, progress=self.clock)

    def _spread(self, shares: Sequence[float]) -> tuple[float, ...]:
        """The share of a group goes to its data sets alike."""
        pairs = zip(self.groups, shares, strict=True)
        return tuple(share / len(group) for group, share in pairs for _ in group)


_NAME = "the orbits of train_all.py"
