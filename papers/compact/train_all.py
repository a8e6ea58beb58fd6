"""All compact weights from nothing: data, codec and image encoder, all methods, baselines, a bundle.

    python papers/compact/train_all.py --work runs/compact --meshes YCB

YCB: a folder with the YCB scans as mesh files, of which every tenth by name, from the first on, is held out
for validation. Stages: data, vae, image_encoder, dimvis, one2one, sparsefusion_eft, sparsefusion_vldm,
regressor, hi3d_depth, hi3d_elevation, hi3d_orbit, hi3d_refine, tunet_base, tunet, refiner_generator,
refiner_yaw, refiner_depth, refiner, hi3d_upscaler, tunet_ablations, refiner_ablations, bundle. hi3d_upscaler
and both ablations train what only tables need, so they run only where they are named. The refiner's stages
make their data themselves and need no scans. A finished stage is skipped and a begun one gone on with, so
that after Ctrl-C, a kill or the end of `--minutes` the same words continue. Exit codes: 0 done, 2 bad input,
130 stopped. docs/training/README.md says more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from clock import Clock
from diffusers import AutoencoderKL
from hi3d_stages import Hi3dStages, Sizes
from parts import PARTS, SIZE, Part
from refiner_stages import RefinerSizes, RefinerStages
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from tunet_stages import Limits, TunetStages

from manyview.cli.flags import check_range, check_readable, torch_device
from manyview.cli.progress import silence_loading
from manyview.data.packed import SHARD_OBJECTS, PackedViews, pack_meshes, pack_procedural
from manyview.data.render.meshes import MESH_SUFFIXES
from manyview.data.render.protocols import protocol_cameras
from manyview.errors import InputError, Stopped
from manyview.io.atomic import write_text_atomic
from manyview.methods.dimvis.model import DimvisOptions
from manyview.methods.dimvis.train import DimvisTask
from manyview.methods.one2one.train import One2OneTask
from manyview.methods.refiner.sweep_frames import SearchOptions
from manyview.methods.sparsefusion.examples import PosedObjects, open_posed
from manyview.methods.sparsefusion.train import SparseFusionTask, Stage
from manyview.training.autoencoder import AutoencoderTask
from manyview.training.config import TrainConfig
from manyview.training.encoding import encode_latents, encode_views
from manyview.training.image_encoder import ImageEncoderTask
from manyview.training.loop import fit
from manyview.training.task import Task
from manyview.weights.packing import load_component

POSED = ("sparsefusion_eft", "sparsefusion_vldm", "regressor")
"""Stages that learn from views with their cameras."""
HI3D = ("hi3d_depth", "hi3d_elevation", "hi3d_orbit", "hi3d_refine")
TUNET = ("tunet_base", "tunet")
REFINER = ("refiner_generator", "refiner_yaw", "refiner_depth", "refiner")
OPTIONAL = ("hi3d_upscaler", "tunet_ablations", "refiner_ablations")
"""Stages that no weights of the package come from."""
_OF_METHODS = ("dimvis", "one2one", *POSED, *HI3D, *TUNET, *REFINER)
STAGES = ("data", "vae", "image_encoder", *_OF_METHODS, *OPTIONAL, "bundle")


# ---- The data of the recipe; its training runs are in parts.py. `--scale` multiplies NUM_OBJECTS and every
# `steps`. ----

NUM_OBJECTS = 3000
"""Procedural objects, of the seeds 0, 1, 2, ..."""
MESH_TURNS = 6
"""Random placements of every training mesh, each an example of its own."""
MESH_REPEATS = 3
"""How often the denoisers see the placed meshes where they see a procedural object once."""
NUM_RIGS = 16
"""For the posed stages: rigs of 16 cameras anywhere (the protocol random), each with objects of its own:"""
RIG_OBJECTS = 50
ELEVATIONS = (-10.0, 0.0, 10.0, 20.0, 40.0)
"""For Hi3D: more orbits, in degrees, with depths; of each elevation so many procedural objects of its own,"""
ORBIT_OBJECTS = 120
ORBIT_TURNS = 2
"""and every training mesh in so many placements. At twice the size, for its second stage, orbits from"""
FINE_ELEVATIONS = (0.0, 30.0)
FINE_OBJECTS = 60
"""with so many procedural objects each, and from the last of them every training mesh in"""
FINE_TURNS = 1
"""placements. The first stage draws in this many steps what the second learns to refine:"""
OWN_STEPS = 6
"""For TUNet: of how many procedural objects at 30 degrees views are inverted (of the meshes there all), of
how many at each other elevation, of how many placed meshes there, and in how many steps."""
MEAN_OBJECTS = 800
MORE_MEAN_OBJECTS = 60
MORE_MEAN_MESHES = 50
MEAN_STEPS = 10
ANIMALS, HELD_OUT_ANIMALS, ANIMAL_SIZE = 6000, 1500, 64
"""For the refiner: procedural animals of its own, one view each, and pixels a side."""
SEARCH = SearchOptions(symmetric=True, amount=1.0)
"""How the direction that turns them is looked for."""


# ---- The end of the recipe. ----


class Making:
    """The stages, each with what it needs and leaves in the work folder."""

    def __init__(self, given: argparse.Namespace, clock: Clock) -> None:
        self.given, self.clock = given, clock
        self.work: Path = given.work
        self.data, self.runs = self.work / "data", self.work / "runs"
        self.device = torch_device(given.device)
        objects = scaled(NUM_OBJECTS, given.scale) + NUM_RIGS * scaled(RIG_OBJECTS, given.scale)
        sizes = Sizes(
            pixels=SIZE,
            elevations=ELEVATIONS,
            objects=scaled(ORBIT_OBJECTS, given.scale),
            turns=ORBIT_TURNS,
            fine_elevations=FINE_ELEVATIONS,
            fine_objects=scaled(FINE_OBJECTS, given.scale),
            fine_turns=FINE_TURNS,
            first_seed=objects,
            own_steps=OWN_STEPS,
        )
        self.hi3d = Hi3dStages(self.work, sizes, clock, self.device, self._export)
        limits = Limits(
            objects=scaled(MEAN_OBJECTS, given.scale),
            more_objects=scaled(MORE_MEAN_OBJECTS, given.scale),
            more_meshes=MORE_MEAN_MESHES,
            mean_steps=MEAN_STEPS,
        )
        self.tunet = TunetStages(
            self.work,
            self.hi3d.at_30,
            self.hi3d.orbits,
            self.hi3d.validation,
            limits,
            clock,
            self.device,
            self._export,
        )
        animals = RefinerSizes(
            pixels=ANIMAL_SIZE,
            views=scaled(ANIMALS, given.scale),
            held_out=scaled(HELD_OUT_ANIMALS, given.scale),
            searched=SEARCH,
        )
        self.refiner = RefinerStages(self.work, animals, clock, self.device, self._export)

    def run(self, stage: str) -> None:
        """Do one stage, or what is left of it."""
        self.clock.check()
        if stage == "data":
            self._make_data()
        elif stage == "bundle":
            self._make_bundle()
        else:
            for name, part in PARTS.items():
                if part.stage == stage:
                    self._train(name, part)

    def _make_data(self) -> None:
        if (self.data / "done.json").is_file() and self.hi3d.has_data():
            return
        meshes = find_scans(self.given.meshes)
        held_out, trained = meshes[::10], [path for number, path in enumerate(meshes) if number % 10]
        self._make_orbits(held_out, trained)
        self.hi3d.make_data(held_out, trained)

    def _make_orbits(self, held_out: list[Path], trained: list[Path]) -> None:
        done = self.data / "done.json"
        if done.is_file():
            return
        cameras = protocol_cameras("orbit16", SIZE)
        self.clock.start(len(held_out) + MESH_TURNS * len(trained), "views of meshes: objects")
        pack_meshes(self.data / "validation", held_out, cameras, progress=self.clock.advance)
        pack_meshes(
            self.data / "meshes", trained, cameras, turns=MESH_TURNS, seed=1, progress=self.clock.advance
        )
        count = scaled(NUM_OBJECTS, self.given.scale)
        workers = 1 if self.device.type == "cuda" else self.given.workers
        self.clock.start(count, "procedural objects")
        # In stretches, since workers that have begun on one are waited for when the minutes are over.
        stretch = SHARD_OBJECTS * workers
        for last in range(stretch, count + stretch, stretch):
            pack_procedural(
                self.data / "procedural",
                0,
                min(last, count),
                cameras,
                workers=min(workers, -(-count // SHARD_OBJECTS)),
                device=self.device.type,
                progress=self.clock.advance,
            )
        self.clock.finish()
        held = {"objects": count, "turns": MESH_TURNS, "held_out": [path.name for path in held_out]}
        write_text_atomic(done, json.dumps(held, indent=1) + "\n")

    def _make_rigs(self) -> list[Path]:
        """Packed data sets of procedural objects that no other stage sees, each with cameras of its own."""
        count, first = scaled(RIG_OBJECTS, self.given.scale), scaled(NUM_OBJECTS, self.given.scale)
        folders = [self.data / "random" / f"rig{number:02d}" for number in range(NUM_RIGS)]
        self.clock.start(NUM_RIGS * count, "procedural objects from anywhere")
        for number, folder in enumerate(folders):
            self.clock.check()
            pack_procedural(
                folder,
                first + number * count,
                count,
                protocol_cameras("random", SIZE, name=folder.name),
                device=self.device.type,
                progress=self.clock.advance,
            )
        self.clock.finish()
        return folders

    def _train(self, name: str, part: Part) -> None:
        out, given = self.runs / name, self.given
        if (out / "train.json").is_file():
            print(f"{name}: done before")
            return
        steps = scaled(part.steps, given.scale)
        if part.stage in (*REFINER, "refiner_ablations"):
            task = self.refiner.task(
                part.stage,
                part.options,
                part.seed,
                steps=steps,
                batch_size=part.batch_size,
                encoder=self._encoder_if_there(),
            )
        else:
            self._require(self.data / "done.json", "data")
            task = self._task(part)
        config = TrainConfig(
            steps=steps,
            batch_size=part.batch_size,
            lr=part.lr,
            optimizer=part.optimizer,
            betas=part.betas,
            clip_norm=part.clip_norm,
            min_lr_fraction=part.min_lr_fraction,
            warmup_steps=min(part.warmup_steps, steps // 10),
            ema_decay=part.ema_decay,
            weight_decay=part.weight_decay,
            seed=part.seed,
            validate_every=min(part.validate_every, steps),
            log_every=min(50, steps),
            checkpoint_minutes=given.checkpoint_minutes,
            num_threads=given.threads,
            device=given.device,
            dtype=given.dtype,
        )
        self.clock.training = True
        try:
            report = fit(task, config, out, resume=True, progress=self.clock)
        finally:
            self.clock.training = False
        print(f"{name}: {report.steps} steps, loss {report.final['loss']:.4f} {report.validation or ''}")

    def _task(self, part: Part) -> Task:
        options = dict(part.options)
        folders = [self.data / "procedural", self.data / "meshes"]
        validation = self.data / "validation"
        if part.stage == "vae":
            if options.get("initial"):
                options["initial"] = self._export(options["initial"])
            return AutoencoderTask(folders, options.pop("shares"), validation, seed=part.seed, **options)
        if part.stage == "image_encoder":
            return ImageEncoderTask(folders, options["shares"], validation, seed=part.seed)
        if part.stage in POSED:
            return self._posed_task(part)
        if part.stage in (*HI3D, "hi3d_upscaler"):
            anywhere = self._make_rigs() if part.stage == "hi3d_elevation" else []
            return self.hi3d.task(part.stage, part.options, part.seed, anywhere)
        if part.stage in (*TUNET, "tunet_ablations"):
            return self.tunet.task(part.stage, part.options, part.seed)
        latents, embeddings = self._encode([folders[0], *folders[1:] * MESH_REPEATS])
        shared = {
            "prediction": options.pop("prediction"),
            "time_exponent": options.pop("time_exponent"),
            "seed": part.seed,
            "data_name": f"{scaled(NUM_OBJECTS, self.given.scale)} procedural objects, "
            f"{MESH_REPEATS} x meshes in {MESH_TURNS} placements",
        }
        if part.stage == "one2one":
            return One2OneTask(latents, embeddings, **shared)
        sizes = DimvisOptions(latent_channels=latents.shape[2], context_dim=embeddings.shape[2], **options)
        return DimvisTask(latents, embeddings, sizes, validation=self._encode([validation]), **shared)

    def _posed_task(self, part: Part) -> SparseFusionTask:
        options = dict(part.options)
        if options.get("initial"):
            options["initial"] = self._export(options["initial"])
        main = [self.data / "procedural", self.data / "meshes"]
        rigs = self._make_rigs()
        procedural, meshes, anywhere = options.pop("shares")
        stage = cast(Stage, part.stage.removeprefix("sparsefusion_"))
        *sets, validation = (self._open(folder, stage) for folder in (*main, *rigs, self.data / "validation"))
        objects = scaled(NUM_OBJECTS, self.given.scale), scaled(RIG_OBJECTS, self.given.scale)
        return SparseFusionTask(
            sets,
            stage,
            shares=(procedural, meshes, *[anywhere / len(rigs)] * len(rigs)),
            validation=validation,
            seed=part.seed,
            data_name=f"{objects[0]} procedural objects, meshes in {MESH_TURNS} placements, {len(rigs)} rigs"
            f" of random cameras with {objects[1]} procedural objects each",
            **options,
        )

    def _open(self, folder: Path, stage: Stage) -> PosedObjects:
        """A packed data set with its cameras, and where the stage needs them its latents."""
        views = PackedViews(folder)
        posed = open_posed(views)
        if stage != "vldm":
            return posed
        vae: Any = load_component(AutoencoderKL, self._export("vae"))
        root = self.work / "latents"
        latents = encode_latents(views, root, vae, device=self.device, progress=self.clock)
        return replace(posed, latents=latents)

    def _encode(self, folders: Sequence[Path]) -> tuple[Tensor, Tensor]:
        """Latents [N, A, C, h, w] and embeddings [N, A, D], float16, of all objects; kept on disk."""
        vae: Any = load_component(AutoencoderKL, self._export("vae"))
        encoder: Any = load_component(CLIPVisionModelWithProjection, self._export("image_encoder"))
        return encode_views(
            [PackedViews(folder) for folder in folders],
            [self.work / "latents"] * len(folders),
            vae,
            encoder,
            device=self.device,
            progress=self.clock,
        )

    def _make_bundle(self) -> None:
        words = [sys.executable, str(Path(__file__).with_name("bundle.py"))]
        runs = {name: name for name in ("vae", "image_encoder", "dimvis", "one2one")}
        for name, run in {**runs, "sparsefusion": "sparsefusion_vldm", "pixelnerf": "regressor"}.items():
            words += ["--" + name.replace("_", "-"), str(self._export(run))]
        for name in HI3D:
            words += [f"--{name.replace('_', '-').removesuffix('-orbit')}", str(self._export(name))]
        for name in (*TUNET, *REFINER):
            words += ["--" + name.replace("_", "-"), str(self._export(name))]
        words += ["--float16", "refiner/directions"]
        out = self.given.bundle or self.work / "bundle"
        done = subprocess.run([*words, "--out", str(out)])
        if done.returncode:
            raise InputError("--bundle", str(out), "could not be written; see the line before")

    def _encoder_if_there(self) -> Path | None:
        """The image encoder, by which a generator's pictures are compared with renders."""
        done = (self.runs / "image_encoder" / "train.json").is_file()
        return self.runs / "image_encoder" / "export" if done else None

    def _export(self, name: str) -> Path:
        self._require(self.runs / name / "train.json", PARTS[name].stage)
        return self.runs / name / "export"

    def _require(self, path: Path, stage: str) -> None:
        if not path.is_file():
            raise InputError("--stage", self.given.stage, f"needs the stage {stage}, which is not finished")


def scaled(number: int, scale: float) -> int:
    """A number of steps or objects at a scale; never fewer than two."""
    return max(2, round(number * scale))


def find_scans(folder: Path | None) -> list[Path]:
    """The mesh files of a folder by name. Raises `InputError` for fewer than two."""
    if folder is None:
        raise InputError("--meshes", "not given", "the stage data needs the folder of the YCB scans")
    check_readable("--meshes", folder)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in MESH_SUFFIXES)
    if len(files) < 2:
        raise InputError(
            "--meshes", str(folder), "expected at least two mesh files: " + ", ".join(MESH_SUFFIXES)
        )
    return files


def check_scale(work: Path, scale: float) -> None:
    """Note the scale of a work folder. Raises `InputError` if it was begun at another one."""
    path = work / "scale.json"
    if path.is_file():
        before = json.loads(path.read_text())["scale"]
        if before != scale:
            raise InputError(
                "--scale", scale, f"{work} was begun with {before}; give that, or another --work"
            )
    else:
        write_text_atomic(path, json.dumps({"scale": scale}) + "\n", argument="--work")


def main(words: Sequence[str] | None = None) -> int:
    """Do the asked stages in their order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and cached latents")
    parser.add_argument("--meshes", type=Path, help="folder of the YCB scans (for the stage data)")
    usual = [stage for stage in STAGES if stage not in OPTIONAL]
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=usual, help="only these")
    parser.add_argument("--scale", type=float, default=1.0, help="of steps and procedural objects")
    parser.add_argument("--minutes", type=float, help="stop after this long; the next start goes on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--bundle", type=Path, help="folder of the finished weights; WORK/bundle by default")
    parser.add_argument("--threads", type=int, help="threads on the CPU; torch's choice by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    given = parser.parse_args(words)
    silence_loading()
    clock = Clock(given.minutes)
    try:
        check_range("--scale", given.scale, 1e-6, 1e3)
        check_range("--minutes", given.minutes, 0, 1e6)
        check_range("--workers", given.workers, 1, 1024)
        making = Making(given, clock)
        if "data" in given.stage and not ((making.data / "done.json").is_file() and making.hi3d.has_data()):
            find_scans(given.meshes)
        check_scale(given.work, given.scale)
        for stage in (stage for stage in STAGES if stage in given.stage):
            making.run(stage)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt) as stop:
        reason = str(stop).partition(";")[0] or "interrupted"
        print(f"stopped: {reason}; the same command goes on", file=sys.stderr)
        return 130
    finally:
        clock.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
