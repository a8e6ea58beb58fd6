"""How fast DiMViS draws views: our sampler against a plain diffusers loop, same weights, steps and noise.

    python benchmarks/sampling.py --steps 50 --sets 8 --batch 8

The plain loop is what a user of diffusers writes by hand: float32, one set of views at a time,
`torch.no_grad`, conditional and unconditional answer in one call where guidance is on, every view encoded
and decoded. All are run in turns in one process, after a run of each that does not count; the ratio is the
median over the turns of (plain seconds / our seconds). Images are the drawn (missing) views. `--weights
random` needs no bundle: fresh weights of the compact size take the same time.

On a machine that also does something else a parallel region waits for its slowest thread, so the ratio
means little there; `--threads 1` is then the fairer comparison.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from manyview.bench.orbit4 import all_questions, observed_slots
from manyview.io.manifest import versions, write_json
from manyview.methods import load
from manyview.methods.dimvis.model import DimvisOptions, SlotConditioner, TileDenoiser, build_denoiser
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.dimvis.rig import rig_rays
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import build_autoencoder
from manyview.nets.image_encoder import build_image_encoder, preprocess
from manyview.sampling.noise import item_noise
from manyview.sampling.solvers import build_scheduler

Sampler = Callable[[Tensor, Tensor], Tensor]
MAX_PSNR_DB = 150.0


@dataclass(frozen=True)
class Parts:
    """What the plain loop uses: modules whose own annotations do not say what they return."""

    vae: Any
    unet: Any
    image_encoder: Any
    conditioner: SlotConditioner
    scheduler: DDIMScheduler


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id, or random")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument("--sets", type=int, default=8, help="sets of four views")
    parser.add_argument("--batch", type=int, default=8, help="sets our sampler takes at once")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance strength")
    parser.add_argument("--references", type=int, default=2, choices=(1, 2, 3), help="given views of a set")
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--variants", action="store_true", help="also our sampler with single changes to it")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    pipeline = random_pipeline() if given.weights == "random" else load("dimvis", given.weights)
    images, observed = make_sets(given.sets, given.references, pipeline.resolution)
    samplers = choose_samplers(pipeline, given)
    report = measure(samplers, images, observed, given.repeats)
    shown = {key: str(value) for key, value in vars(given).items() if key != "out"}
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(", ".join(f"{key} {value}" for key, value in (shown | machine).items()))
    for name, row in report.items():
        print(
            f"{name:42s} {row['images_per_second']:8.2f} images/s   {row['ratio']:5.2f}x"
            f" ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})   PSNR at least {row['psnr_min']:.1f} dB"
        )
    if given.out is not None:
        write_json(given.out, {"options": shown, "machine": machine, "rows": report, "versions": versions()})


def choose_samplers(pipeline: DimvisPipeline, given: argparse.Namespace) -> dict[str, Sampler]:
    """What is compared, the plain loop first."""
    # The loop gets the parts as diffusers loads them: the pipeline lays convolutions out for its own use.
    plain = Parts(
        vae=as_loaded(pipeline.vae),
        unet=as_loaded(pipeline.unet),
        image_encoder=pipeline.image_encoder,
        conditioner=pipeline.conditioner,
        scheduler=pipeline.scheduler,
    )
    options: dict[str, Any] = {"num_steps": given.steps, "guidance": given.guidance}

    def ours(images: Tensor, observed: Tensor) -> Tensor:
        return pipeline.complete(
            images, observed, items=range(len(images)), batch_size=given.batch, **options
        )

    samplers: dict[str, Sampler] = {
        "plain diffusers loop": lambda images, observed: plain_loop(plain, images, observed, **options),
        "ours": ours,
    }
    if given.variants:
        samplers["ours, one set at a time"] = lambda images, observed: pipeline.complete(
            images, observed, items=range(len(images)), batch_size=1, **options
        )
        samplers["ours, convolutions not channels last"] = lambda images, observed: with_layout(
            pipeline, torch.contiguous_format, ours, images, observed
        )
        samplers["ours, one thread"] = lambda images, observed: in_one_thread(ours, images, observed)
    return samplers


def as_loaded(module: Any) -> Any:
    """A copy with contiguous weights."""
    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)


@torch.no_grad()
def plain_loop(parts: Parts, images: Tensor, observed: Tensor, num_steps: int, guidance: float) -> Tensor:
    """[N, V, 3, H, W] by a loop over the parts that knows nothing of our sampler."""
    vae, conditioner = parts.vae, parts.conditioner
    network = TileDenoiser(parts.unet, conditioner)
    scheduler: Any = DDIMScheduler.from_config(parts.scheduler.config)
    scheduler.set_timesteps(num_steps)
    scaling = float(vae.config["scaling_factor"])
    mean = torch.tensor(vae.config.get("latents_mean") or [0.0])[None, :, None, None]
    std = torch.tensor(vae.config.get("latents_std") or [1 / scaling])[None, :, None, None]
    num_views = observed.shape[1]
    finished = []
    for index in range(len(images)):
        known = observed[index]
        described = torch.zeros(1, num_views, conditioner.options.context_dim)
        pixels = preprocess(images[index][known], parts.image_encoder.config.image_size)
        described[0, known] = parts.image_encoder(pixel_values=pixels).image_embeds
        latents = (vae.encode(images[index] * 2 - 1).latent_dist.mode() - mean) / std
        noise = item_noise(0, [index], latents.shape)[0]
        keep = known[:, None, None, None]
        x = torch.where(keep, latents, noise)
        none = torch.zeros_like(known)
        cells = latents.shape[-1]
        rays = rig_rays(num_views, cells)[None] if conditioner.options.rays else None
        rows = torch.stack([known] if guidance == 1.0 else [known, none])
        both = described.expand(len(rows), -1, -1)
        seen = None if rays is None else rays.expand(len(rows), -1, -1, -1, -1)
        for timestep in scheduler.timesteps:
            shown = x[None]
            if guidance != 1.0:
                free = torch.where(keep, scheduler.add_noise(latents, noise, timestep[None]), x)
                shown = torch.stack([x, free])
            output = network(shown, timestep, rows, both, rows, seen)
            answer = output[0] if guidance == 1.0 else output[1] + guidance * (output[0] - output[1])
            x = torch.where(keep, latents, scheduler.step(answer, timestep, x).prev_sample)
        drawn = (vae.decode(x * std + mean).sample / 2 + 0.5).clamp(0, 1)
        finished.append(torch.where(keep, images[index], drawn))
    return torch.stack(finished)


def with_layout(
    pipeline: DimvisPipeline, layout: torch.memory_format, sampler: Sampler, images: Tensor, observed: Tensor
) -> Tensor:
    """With the weights of the convolutions in this layout."""
    parts = (pipeline.unet, pipeline.vae)
    for part in parts:
        part.to(memory_format=layout)
    try:
        return sampler(images, observed)
    finally:
        for part in parts:
            part.to(memory_format=torch.channels_last)


def in_one_thread(sampler: Sampler, images: Tensor, observed: Tensor) -> Tensor:
    """On one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return sampler(images, observed)
    finally:
        torch.set_num_threads(threads)


def measure(
    samplers: dict[str, Sampler], images: Tensor, observed: Tensor, repeats: int
) -> dict[str, dict[str, float]]:
    """Per sampler: images a second (median), ratio to the first one, PSNR to its output."""
    missing = ~observed
    answers = {name: sampler(images, observed) for name, sampler in samplers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(repeats):
        for name, sampler in samplers.items():
            started = time.perf_counter()
            sampler(images, observed)
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    first = next(iter(samplers))
    report = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], times, strict=True)]
        equality = psnr(answers[name][missing], answers[first][missing]).clamp(max=MAX_PSNR_DB)
        report[name] = {
            "images_per_second": int(missing.sum()) / statistics.median(times),
            "seconds": statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "psnr_min": float(equality.min()),
            "psnr_mean": float(equality.mean()),
        }
    return report


def make_sets(count: int, num_references: int, size: int) -> tuple[Tensor, Tensor]:
    """Smooth random pictures [N, 4, 3, size, size] and which of them are given [N, 4]."""
    coarse = torch.rand(count * 4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    kinds = [question for question in all_questions() if question.num_references == num_references]
    chosen = tuple(kinds[index % len(kinds)] for index in range(count))
    return pictures.clamp(0, 1).reshape(count, 4, 3, size, size), observed_slots(chosen)


def random_pipeline() -> DimvisPipeline:
    """Fresh weights of the compact size."""
    torch.manual_seed(0)
    options = DimvisOptions(slot_embedding=True, slot_time=True, aligned=True, sweep_depths=12, blend=True)
    denoiser = build_denoiser("compact", options).eval()
    return DimvisPipeline(
        vae=build_autoencoder().eval(),
        image_encoder=build_image_encoder().eval(),
        unet=denoiser.unet,
        conditioner=denoiser.conditioner,
        scheduler=build_scheduler("v_prediction"),
    )


if __name__ == "__main__":
    main()
