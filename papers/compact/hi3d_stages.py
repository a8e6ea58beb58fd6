"""Hi3D's part of train_all.py: its data, and a task for each of its stages. The numbers stand there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from clock import Clock
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from transformers import CLIPVisionModelWithProjection

from manyview.data.packed import PackedViews, pack_meshes, pack_procedural
from manyview.data.render.protocols import protocol_cameras
from manyview.data.rigs import read_rigs
from manyview.io.atomic import write_text_atomic
from manyview.methods.hi3d.depth import load_depth
from manyview.methods.hi3d.orbits import Orbits, StoredCoarse, orbit_elevations
from manyview.methods.hi3d.own_clips import draw_own_clips
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.refine_data import CoarseOptions, encode_coarse
from manyview.methods.hi3d.train import Hi3dOptions, Hi3dTask
from manyview.methods.hi3d.train_depth import DepthTask
from manyview.methods.hi3d.train_elevation import ElevationTask
from manyview.methods.hi3d.train_upscaler import UpscalerTask
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.training.encoding import encode_views
from manyview.training.task import Task
from manyview.weights.packing import load_component


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of which data."""

    pixels: int
    elevations: tuple[float, ...]
    objects: int
    turns: int
    fine_elevations: tuple[float, ...]
    fine_objects: int
    fine_turns: int
    first_seed: int
    own_steps: int


class Hi3dStages:
    """What they need and leave in the work folder. `export`: a finished run's networks, by its name."""

    def __init__(
        self, work: Path, sizes: Sizes, clock: Clock, device: torch.device, export: Callable[[str], Path]
    ) -> None:
        self.work, self.sizes, self.clock, self.device, self.export = work, sizes, clock, device, export
        data = work / "data"
        self.at_30 = [data / "procedural"], [data / "meshes"]
        self.validation = data / "validation"
        self.done = data / "orbits" / "done.json"
        names = [f"{degrees:+03.0f}" for degrees in sizes.elevations]
        self.orbits = [[data / "orbits" / f"{kind}{name}" for name in names] for kind in ("made", "meshes")]
        fine = [f"made{degrees:+03.0f}" for degrees in sizes.fine_elevations]
        self.fine = [data / "fine" / name for name in fine], [data / "fine" / "meshes"]
        self.fine_validation = data / "fine" / "validation"
        self.random_validation = data / "random_validation"

    def has_data(self) -> bool:
        """Whether `make_data` is finished."""
        return self.done.is_file()

    def make_data(self, held_out: list[Path], trained: list[Path]) -> None:
        """Render all orbits with their depths; what is there stays."""
        if self.has_data():
            return
        sizes, seed = self.sizes, self.sizes.first_seed
        double = 2 * sizes.pixels
        made = [
            *((*pair, sizes.objects, sizes.pixels) for pair in _pairs(self.orbits[0], sizes.elevations)),
            *((*pair, sizes.fine_objects, double) for pair in _pairs(self.fine[0], sizes.fine_elevations)),
        ]
        meshes = [
            *(
                (f, trained, e, sizes.turns, sizes.pixels)
                for f, e in _pairs(self.orbits[1], sizes.elevations)
            ),
            (self.fine[1][0], trained, sizes.fine_elevations[-1], sizes.fine_turns, double),
            (self.fine_validation, held_out, sizes.fine_elevations[-1], 0, double),
        ]
        count = sum(row[2] for row in made) + sum(len(row[1]) * max(row[3], 1) for row in meshes)
        self.clock.start(count + len(held_out), "orbits for Hi3D: objects")
        shared: dict[str, Any] = {"progress": self.clock.advance, "depths": True}
        for folder, elevation, objects, pixels in made:
            self.clock.check()
            cameras = protocol_cameras("orbit16", pixels, elevation_deg=elevation)
            pack_procedural(folder, seed, objects, cameras, device=self.device.type, **shared)
            seed += objects
        for number, (folder, paths, elevation, turns, pixels) in enumerate(meshes):
            self.clock.check()
            cameras = protocol_cameras("orbit16", pixels, elevation_deg=elevation)
            pack_meshes(folder, paths, cameras, turns, seed=100 + number if turns else 0, **shared)
        anywhere = protocol_cameras("random", sizes.pixels, name="validation")
        pack_meshes(self.random_validation, held_out, anywhere, **shared)
        self.clock.finish()
        write_text_atomic(self.done, json.dumps({"objects": count}) + "\n")

    def task(self, stage: str, options: Mapping[str, Any], seed: int, anywhere: Sequence[Path]) -> Task:
        """What a stage trains. `anywhere`: data sets of random cameras, for the elevation."""
        given = dict(options)
        shares: tuple[float, ...] = given.pop("shares")
        if stage == "hi3d_depth":
            groups = [[*made, *fine] for made, fine in zip(self.orbits, self.fine, strict=True)]
            folders, spread = _spread(groups, shares)
            held_out = self.fine_validation
            return DepthTask(folders, spread, held_out, size=self.sizes.pixels, seed=seed, data_name=_NAME)
        if stage == "hi3d_upscaler":
            folders, spread = _spread(self.fine, shares)
            return UpscalerTask(folders, spread, self.fine_validation, seed=seed, data_name=_NAME, **given)
        if stage == "hi3d_elevation":
            folders, spread = _spread([*self.orbits, list(anywhere)], shares)
            views = [PackedViews(folder) for folder in folders]
            return ElevationTask(
                views, spread, PackedViews(self.random_validation), seed=seed, data_name=_NAME
            )
        if stage == "hi3d_orbit":
            folders, spread = _spread([*self.at_30, *self.orbits], shares)
            orbits, validation = self._encode(folders), self._encode([self.validation])
            before = given.pop("initial", None)
            return Hi3dTask(
                orbits,
                options=Hi3dOptions(**given),
                validation=validation,
                seed=seed,
                initial=None if before is None else self.export(before),
                data_name=_NAME,
                shares=spread,
            )
        folders, spread = _spread(self.fine, shares)
        before, own_share = given.pop("initial", "hi3d_orbit"), given.pop("own_share")
        how = Hi3dOptions(**given)
        orbits, validation = self._encode(folders, own_share), self._encode([self.fine_validation], own_share)
        return Hi3dTask(
            orbits,
            "refine",
            options=how,
            validation=validation,
            seed=seed,
            initial=self.export(before),
            data_name=_NAME,
            shares=spread,
        )

    def _encode(self, folders: Sequence[Path], own_share: float | None = None) -> Orbits:
        """Orbits with latents and embeddings, and with an `own_share` what the refiner is shown of them: the
        same in each of its runs, since making it takes as long as one."""
        views = [PackedViews(folder) for folder in folders]
        vae, encoder = self._codec(), self._encoder()
        roots = [self.work / "latents"] * len(views)
        latents, embeddings = encode_views(
            views, roots, vae, encoder, device=self.device, progress=self.clock
        )
        coarse, counts = None, tuple(len(one) for one in views)
        if own_share is not None:
            shown = [self._coarse(one, vae) for one in views]
            sizes = int(latents.shape[1]), int(latents.shape[2])
            coarse = StoredCoarse(shown, counts, *sizes, _COARSE_SEED, own_share)
        elevations = [orbit_elevations(read_rigs(one), len(one)) for one in views]
        return Orbits(
            latents=latents,
            embeddings=embeddings,
            elevation_deg=torch.cat(elevations),
            coarse=coarse,
            counts=counts,
        )

    def _coarse(self, views: PackedViews, vae: AutoencoderKL) -> Path:
        own = self.work / "data" / "own" / views.folder.name
        draw_own_clips(
            own,
            views,
            self._first_stage(),
            num_steps=self.sizes.own_steps,
            guidance=_OWN_GUIDANCE,
            guidance_shape="triangular",
            seed=_COARSE_SEED,
            progress=self.clock,
        )
        return encode_coarse(
            views,
            self.work / "latents",
            vae,
            load_depth(self.export("hi3d_depth")),
            CoarseOptions(seed=_COARSE_SEED),
            own=[PackedViews(own)],
            device=self.device,
            progress=self.clock,
        )

    def _first_stage(self) -> Hi3dPipeline:
        folder = self.export("hi3d_orbit")
        pipeline = Hi3dPipeline(
            vae=self._codec(),
            image_encoder=self._encoder(),
            unet=load_component(OrbitUNet, folder / "unet", torch.float32),
            scheduler=cast(
                EulerDiscreteScheduler, EulerDiscreteScheduler.from_pretrained(str(folder / "scheduler"))
            ),
            resolution=self.sizes.pixels,
            sigma_max=_OWN_SIGMA_MAX,
        )
        return pipeline.to(self.device)

    def _codec(self) -> AutoencoderKL:
        return load_component(AutoencoderKL, self.export("vae"), torch.float32)

    def _encoder(self) -> CLIPVisionModelWithProjection:
        return load_component(CLIPVisionModelWithProjection, self.export("image_encoder"), torch.float32)


_NAME = "the orbits of train_all.py"
# The second stage learns from orbits drawn as papers/hi3d/choose.py found best for the first.
_OWN_GUIDANCE, _OWN_SIGMA_MAX = (1.0, 1.5), 157.0
_COARSE_SEED = 0


def _pairs(folders: Sequence[Path], elevations: Sequence[float]) -> list[tuple[Path, float]]:
    return list(zip(folders, elevations, strict=True))


def _spread(
    groups: Sequence[Sequence[Path]], shares: Sequence[float]
) -> tuple[list[Path], tuple[float, ...]]:
    """All data sets of all groups; the share of a group goes to its sets alike."""
    folders = [folder for group in groups for folder in group]
    spread = [share / len(group) for group, share in zip(groups, shares, strict=True) for _ in group]
    return folders, tuple(spread)
