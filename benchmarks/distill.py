"""How long a distillation takes, stage by stage, and how good the field is after each round.

    python benchmarks/distill.py --data gso-dev --scenes 3 --inputs 2

For each scene of a data set (`manyview render`): the inputs and the scored frames of the protocol `fewview`,
one distillation with the default options (or those given), PSNR of the scored frames after the warm-up and
after each round, then a textured mesh and a turntable video, as `manyview synth --to mesh video` makes them.
Times are wall times of one run; scoring is not counted. For comparison the PSNR of the EFT's pictures of the
scored frames and of plain samples of the diffusion model. `--weights random` measures times without a
bundle: fresh weights of the compact size take as long, and their pictures mean nothing.

One view's PSNR is capped at 100 dB. On a machine that also does something else times mean little.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.fewview import answer_seed, deal_scene, read_frames
from manyview.bench.fewview_options import COUNTS
from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.io.manifest import versions, write_json
from manyview.io.scene import list_scenes
from manyview.io.video import write_mp4
from manyview.lift.field.render import render_field
from manyview.lift.volume_files import Volume
from manyview.methods import load
from manyview.methods.sparsefusion.distill import distill
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.eft import build_eft
from manyview.methods.sparsefusion.poses import up_axis
from manyview.methods.sparsefusion.products import look_around, make_mesh, turntable
from manyview.methods.sparsefusion.teacher import Teacher
from manyview.methods.sparsefusion.unet import build_vldm
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import build_autoencoder
from manyview.sampling.noise import item_noise
from manyview.types import Views

MAX_PSNR_DB = 100.0
FRAMES = 48


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    given = parse_arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    teacher = random_teacher() if given.weights == "random" else load("sparsefusion", given.weights).teacher
    folders = list_scenes(given.data)[: given.scenes]
    rows = []
    for folder in folders:
        counts = sorted({*COUNTS, given.inputs})
        deal, _ = deal_scene(folder, counts=counts, num_scored=given.scored, seed=given.seed)
        views = read_frames(folder, teacher.resolution)
        inputs, scored = views[list(deal.inputs(given.inputs))], views[list(deal.scored)]
        seed = answer_seed(folder.name, given.inputs, given.seed)
        row = {
            "scene": folder.name,
            **measure(teacher, inputs, scored, choose_options(given), seed, given.products),
        }
        rows.append(row)
        print_row(row)
    if given.out is not None:
        # Of the data set its name alone: others keep it elsewhere.
        shown = {key: str(value) for key, value in vars(given).items() if key != "out"}
        shown["data"] = given.data.resolve().name
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
        numbers = {"rows": rows, "mean": mean_row(rows)}
        write_json(given.out, {"options": shown, "machine": machine, **numbers, "versions": versions()})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a data set of rendered scenes")
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id, or random")
    parser.add_argument("--scenes", type=int, default=3, help="the first so many scenes")
    parser.add_argument("--inputs", type=int, default=2, help="given views")
    parser.add_argument("--scored", type=int, default=8, help="held-out frames of a scene")
    parser.add_argument("--seed", type=int, default=0, help="of the deal and the distillation")
    parser.add_argument("--targets", type=int, help="distillation cameras")
    parser.add_argument("--rounds", type=int, help="rounds of diffusion")
    parser.add_argument("--steps-per-round", type=int, help="steps of the field in a round")
    parser.add_argument("--warmup-steps", type=int, help="steps of the field on the EFT's pictures")
    parser.add_argument("--rows", type=int, help="rays along a side of the EFT's pictures")
    parser.add_argument("--encoding", help="what the field is kept in: voxels, surface, ...")
    parser.add_argument("--resolution", type=int, help="nodes along the field's longest side")
    parser.add_argument("--no-products", dest="products", action="store_false", help="no mesh, no video")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    return parser.parse_args(arguments)


def choose_options(given: argparse.Namespace) -> DistillOptions:
    """The default options with what the command line changes."""
    names = ("targets", "rounds", "steps_per_round", "warmup_steps", "rows")
    changed = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    field_names = ("encoding", "resolution")
    in_field = {name: getattr(given, name) for name in field_names if getattr(given, name) is not None}
    options = DistillOptions()
    return replace(options, **changed, field=replace(options.field, **in_field))


def measure(
    teacher: Teacher, inputs: Views, scored: Views, options: DistillOptions, seed: int, products: bool
) -> dict[str, Any]:
    """Seconds by stage, the curve of (seconds, PSNR), and the PSNR of the teacher's own pictures."""
    assert scored.cameras is not None, "frames have cameras"
    cameras, truth = scored.cameras, scored.over(1.0)
    curve: list[dict[str, float]] = []
    scoring = 0.0
    started = time.perf_counter()

    def score(done: int, field: Volume) -> None:
        nonlocal scoring
        begun = time.perf_counter()
        seen = render_field(field, cameras)
        curve.append(
            {"round": done, "seconds": begun - started - scoring, "psnr": mean_psnr(seen.images, truth)}
        )
        scoring += time.perf_counter() - begun

    made = distill(teacher, inputs, options, seed=seed, on_round=score)
    seconds = dict(made.record.seconds)
    if products:
        seconds |= make_products(made.field, teacher.frames(inputs), seed)
    told = teacher.look(inputs, cameras, rows=options.rows)
    noise = item_noise(seed, range(len(cameras)), teacher.latent_shape)
    drawn = teacher.draw(told.features, noise, num_steps=options.most_steps)
    return {
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "curve": curve,
        "psnr_eft": mean_psnr(told.images, truth),
        "psnr_vldm": mean_psnr(drawn, truth),
        "rounds": made.record.rounds,
        "pictures": made.record.pictures,
    }


def make_products(field: Volume, frames: Views, seed: int) -> dict[str, float]:
    """Seconds that mesh and video take; a field without a surface has no mesh."""
    assert frames.cameras is not None, "frames have cameras"
    cameras = frames.cameras
    found = {}

    def mesh() -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                make_mesh(look_around(field, frames, seed=seed), seed=seed).export(Path(folder) / "mesh.glb")
        except InputError as error:
            print(f"no mesh: {error}")

    def video() -> None:
        center = focus_point(cameras) if len(cameras) > 1 else torch.zeros(3)
        with tempfile.TemporaryDirectory() as folder:
            turn = turntable(field, cameras, center, up_axis(cameras), FRAMES)
            write_mp4(turn, Path(folder) / "turntable.mp4")

    found["mesh"] = timed(mesh)
    found["video"] = timed(video)
    return found


def mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the scenes: seconds by stage, and PSNR after the warm-up and at the end."""
    if not rows:
        return {}
    stages = list(dict.fromkeys(stage for row in rows for stage in row["seconds"]))
    return {
        "seconds": {s: sum(row["seconds"].get(s, 0.0) for row in rows) / len(rows) for s in stages},
        "total_seconds": sum(row["total_seconds"] for row in rows) / len(rows),
        "psnr_eft": sum(row["psnr_eft"] for row in rows) / len(rows),
        "psnr_vldm": sum(row["psnr_vldm"] for row in rows) / len(rows),
        "psnr_warm_up": sum(row["curve"][0]["psnr"] for row in rows) / len(rows),
        "psnr_field": sum(row["curve"][-1]["psnr"] for row in rows) / len(rows),
    }


def print_row(row: dict[str, Any]) -> None:
    """One scene on a few lines."""
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in row["seconds"].items())
    print(f"{row['scene']}: {row['total_seconds']:.1f} s ({stages})")
    points = "  ".join(f"{point['seconds']:.0f} s {point['psnr']:.2f}" for point in row["curve"])
    print(f"  PSNR: EFT {row['psnr_eft']:.2f}, VLDM {row['psnr_vldm']:.2f}; field after {points}")


def mean_psnr(images: Tensor, targets: Tensor) -> float:
    """The mean over views of the PSNR (dB), each at most 100."""
    return float(psnr(images.clamp(0, 1), targets).clamp(max=MAX_PSNR_DB).mean())


def random_teacher() -> Teacher:
    """Fresh weights of the compact size."""
    torch.manual_seed(0)
    return Teacher(build_autoencoder(), build_eft("compact"), build_vldm("compact"))


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
