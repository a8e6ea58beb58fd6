"""How exactly and how fast a base is inverted: our pair against diffusers' DDIMInverseScheduler, in one run.

    python benchmarks/inversion.py --data DATASET --out docs/results/inversion.json

Both go up and down the same timesteps with the same network and batch: diffusers' own loop (the inverse
scheduler up, `DDIMScheduler` down) on a grid that both of its schedulers know, and ours. PSNR is of the
decoded round trip against the decoded latent, so that the codec does not count, and of the latents
themselves, whose range is the peak. Seconds are the median over the turns, after one that does not count.
`refinements` are further calls at each level. `--weights random` needs no bundle; such a base is rougher than
a learned one.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from manyview.io.manifest import versions, write_json
from manyview.io.scene import list_scenes, read_scene
from manyview.methods.tunet.base import BaseNoise, build_base
from manyview.methods.tunet.networks import TunetNetworks
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import build_autoencoder, decode, encode
from manyview.sampling.inversion import Levels, NoiseModel, invert, sample
from manyview.sampling.solvers import build_scheduler

RoundTrip = Callable[[Tensor], Tensor]
MAX_PSNR_DB = 150.0


@dataclass(frozen=True)
class Subject:
    """What is inverted, by what."""

    vae: Any
    model: NoiseModel
    scheduler: DDIMScheduler
    latents: Tensor
    calls: list[int]
    """One entry for every call of the network: its batch."""


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--weights", default="compact", help="of tunet: compact, a folder, a hub id, or random"
    )
    parser.add_argument("--data", type=Path, help="data set whose views are inverted (default: smooth noise)")
    parser.add_argument("--views", type=int, default=16, help="so many views, of as many scenes as there are")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[50, 20, 10], help="steps of the whole schedule"
    )
    parser.add_argument("--until", type=int, default=600, help="invert up to about this timestep")
    parser.add_argument("--refinements", type=int, nargs="*", default=[1, 3], help="also with so many")
    parser.add_argument("--batch", type=int, default=16, help="views at once")
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    subject = make_subject(given)
    shown = {
        key: value.name if isinstance(value, Path) else value
        for key, value in vars(given).items()
        if key != "out"
    }
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(", ".join(f"{key} {value}" for key, value in (shown | machine).items()))
    tables = {}
    for count in given.steps:
        rows = measure(subject, round_trips(subject, count, given), given.repeats)
        tables[str(count)] = rows
        for name, row in rows.items():
            print(
                f"{count:4d} steps  {name:32s} {row['psnr_image']:6.2f} dB image {row['psnr_latent']:7.2f} dB"
                f" latent  {row['calls_per_view']:5.0f} calls {row['seconds']:7.3f} s ({row['ratio']:.2f}x)"
            )
    if given.out is not None:
        record = {"options": shown, "machine": machine, "steps": tables, "versions": versions()}
        write_json(given.out, record)


def make_subject(given: argparse.Namespace) -> Subject:
    """The network of the weights, counted, and latents to invert."""
    if given.weights == "random":
        torch.manual_seed(0)
        vae, base = build_autoencoder().eval(), build_base().eval()
        scheduler, told, size = build_scheduler("epsilon"), BaseNoise(base), 128
    else:
        from manyview.methods import load

        pipe: TunetNetworks = load("tunet", given.weights)
        context = pipe._words("") if pipe.takes_text else None
        vae, scheduler, size = pipe.vae, pipe.scheduler, pipe.resolution
        told = BaseNoise(pipe.base, context=context)
    images = read_views(given.data, given.views, size)
    with torch.inference_mode():
        latents = torch.cat([encode(vae, part) for part in images.split(given.batch)]).float()
    calls: list[int] = []

    def counted(x: Tensor, timestep: Tensor, /) -> Tensor:
        calls.append(len(x))
        return told(x, timestep)

    return Subject(vae, counted, scheduler, latents, calls)


def read_views(data: Path | None, count: int, size: int) -> Tensor:
    """[count, 3, size, size] the first view of every scene, then the second, over white."""
    if data is None:
        coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
        return smooth.clamp(0, 1)
    scenes = list_scenes(data)[:count]
    each = -(-count // len(scenes))
    views = [read_scene(scene, size=size).over(1.0)[:each] for scene in scenes]
    return torch.cat([view[turn : turn + 1] for turn in range(each) for view in views])[:count]


def round_trips(subject: Subject, count: int, given: argparse.Namespace) -> dict[str, RoundTrip]:
    """What is compared, diffusers first. All know the same timesteps."""
    shared = {"timestep_spacing": "trailing", "clip_sample": False}
    up: Any = DDIMInverseScheduler.from_config(subject.scheduler.config, **shared)
    down: Any = DDIMScheduler.from_config(subject.scheduler.config, **shared)
    up.set_timesteps(count)
    down.set_timesteps(count)
    chosen = [int(step) for step in up.timesteps if int(step) <= given.until]
    if [int(step) for step in reversed(down.timesteps)][: len(chosen)] != chosen:
        raise SystemExit(f"--steps {count}: the two schedulers of diffusers have other timesteps")
    levels = Levels.of(subject.scheduler, chosen)
    made: dict[str, RoundTrip] = {
        "diffusers": lambda x: plain_loop(subject.model, up, down, chosen, x),
        "ours": lambda x: both_ways(subject.model, levels, x, 0),
    }
    for number in given.refinements:
        made[f"ours, {number} refinements"] = lambda x, number=number: both_ways(
            subject.model, levels, x, number
        )
    return {name: in_batches(trip, given.batch) for name, trip in made.items()}


@torch.no_grad()
def plain_loop(model: NoiseModel, up: Any, down: Any, chosen: list[int], x: Tensor) -> Tensor:
    """Up and down as a user of diffusers writes it."""
    for timestep in chosen:
        x = up.step(model(x, torch.tensor(timestep)), timestep, x).prev_sample
    for timestep in reversed(chosen):
        x = down.step(model(x, torch.tensor(timestep)), timestep, x).prev_sample
    return x


def both_ways(model: NoiseModel, levels: Levels, x: Tensor, refinements: int) -> Tensor:
    """Ours."""
    return sample(invert(x, model, levels, refinements=refinements).latents[-1], model, levels)


def in_batches(trip: RoundTrip, size: int) -> RoundTrip:
    """The same, so many at a time."""
    return lambda latents: torch.cat([trip(part) for part in latents.split(size)])


@torch.no_grad()
def measure(subject: Subject, trips: dict[str, RoundTrip], repeats: int) -> dict[str, dict[str, float]]:
    """Per way: PSNR of the round trip, calls for a view, seconds, and how much faster than the first one."""
    latents, calls = subject.latents, subject.calls
    spread = float(latents.amax() - latents.amin())
    wanted = decode(subject.vae, latents)
    answers, counted = {}, {}
    for name, trip in trips.items():
        calls.clear()
        answers[name] = trip(latents)
        counted[name] = sum(calls) / len(latents)
    seconds: dict[str, list[float]] = {name: [] for name in trips}
    for _ in range(repeats):
        for name, trip in trips.items():
            started = time.perf_counter()
            trip(latents)
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    first = next(iter(trips))
    rows = {}
    for name, back in answers.items():
        error = (back - latents).square().mean(dim=(1, 2, 3)).clamp_min(1e-20)
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        rows[name] = {
            "psnr_image": float(psnr(decode(subject.vae, back), wanted).clamp(max=MAX_PSNR_DB).mean()),
            "psnr_latent": float((10 * torch.log10(spread**2 / error)).mean()),
            "calls_per_view": counted[name],
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios),
        }
    return rows


if __name__ == "__main__":
    main()
