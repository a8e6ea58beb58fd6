"""How fast a radiance field trains on a CPU: our voxels against a plain torch hash grid; and marching cubes.

    python benchmarks/field.py --rays 4096 --repeats 9

Both fields live in the same box and are asked the same rays of 16 views of one procedural object, forward and
backward, in turns in one process, after a run of each that does not count; the ratio is the median over the
turns of (plain seconds / our seconds). The plain field is what a user writes by hand: 16 levels x 2, 2^16
rows, a network of width 64, 64 samples evenly on each ray, no empty-space skipping. Our voxels are those
that `fit_field` starts with (every ray goes through fog) and those it ends with (`--steps` of a fit); the
surface is what it fits where there are masks. The
other encodings are shown too: the same hash grid with the compiled look-up, a dense grid, three planes.
Marching cubes: the distances of a ball with waves on 256 cubed nodes, scikit-image, and PyMCubes where it is
installed.

On a machine that also does something else a parallel region waits for its slowest thread; `--threads 1` is
then the fairer comparison.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from manyview.data.procedural.source import render_seed
from manyview.geometry.trajectories import orbit
from manyview.io.manifest import versions, write_json
from manyview.lift.field.answers import Field
from manyview.lift.field.encodings import MultiresGrid
from manyview.lift.field.fit import FieldOptions, fit_field
from manyview.lift.field.hull import find_hull
from manyview.lift.field.marching import Backend
from manyview.lift.field.neural import NeuralField, NeuralOptions, build_field
from manyview.lift.field.pixels import PixelBatch, PixelSource

SAMPLES = 64


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rays", type=int, default=4096, help="rays a step")
    parser.add_argument("--repeats", type=int, default=9, help="turns that count")
    parser.add_argument("--size", type=int, default=256, help="pixels a side of the views")
    parser.add_argument("--resolution", type=int, default=128, help="nodes along the longest side")
    parser.add_argument(
        "--steps", type=int, default=200, help="steps of the fit before the second measurement"
    )
    parser.add_argument("--seed", type=int, default=3, help="which procedural object")
    parser.add_argument("--threads", type=int, help="threads for everything")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    rates, ratios = measure_fields(given)
    cubes = measure_marching_cubes(given.repeats)
    for name, rate in rates.items():
        print(
            f"{name:24s} {rate / 1000:8.1f} thousand rays/s, {ratios[name]:6.1f} x the plain torch hash grid"
        )
    for name, seconds in cubes.items():
        print(f"marching cubes 256^3, {name:12s} {seconds:.2f} s")
    if given.out is not None:
        settings = {k: v for k, v in vars(given).items() if k != "out"} | {"threads": torch.get_num_threads()}
        machine = {"processor": platform.processor() or platform.machine(), "versions": versions()}
        numbers = {"rays_per_second": rates, "ratio": ratios, "marching_cubes_seconds": cubes}
        write_json(given.out, {**settings, **machine, **numbers})


def measure_fields(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Rays a second of each field, and the ratio to the plain one."""
    views = render_seed(given.seed, orbit(16, size=given.size))
    source = PixelSource(views, weights=None, background=1.0, max_size=given.size)
    assert source.masks is not None, "procedural views have masks"
    _, box = find_hull(source.masks, source.cameras)
    batch = source.draw(given.rays, torch.Generator().manual_seed(0))
    start = FieldOptions(encoding="voxels", steps=1, resolution=given.resolution)
    fitted = FieldOptions(encoding="voxels", steps=given.steps, resolution=given.resolution)
    surface = FieldOptions(encoding="surface", steps=given.steps, resolution=given.resolution)
    fields: dict[str, Field] = {
        "plain torch hash grid": plain_hash_grid(box.low, box.high, "torch"),
        "voxels, at the start": fit_field(views, start),
        "voxels, fitted": fit_field(views, fitted),
        "surface, fitted": fit_field(views, surface),
        "hash grid, compiled": plain_hash_grid(box.low, box.high, "cpu"),
        "dense grid, torch": build_field("dense", box.low, box.high, given.resolution),
        "triplane, torch": build_field("triplane", box.low, box.high, given.resolution),
    }
    for field in fields.values():
        assert isinstance(field, nn.Module), "every field of the package is a module"
        field.requires_grad_(True)
    seconds: dict[str, list[float]] = {name: [] for name in fields}
    for turn in range(given.repeats + 1):
        for name, field in fields.items():
            spent = timed(lambda field=field: train_once(field, batch))
            if turn > 0:
                seconds[name].append(spent)
    plain = seconds["plain torch hash grid"]
    rates = {name: len(batch.origins) / statistics.median(times) for name, times in seconds.items()}
    ratios = {
        name: statistics.median(p / t for p, t in zip(plain, times, strict=True))
        for name, times in seconds.items()
    }
    return rates, ratios


def plain_hash_grid(low: tuple[float, ...], high: tuple[float, ...], backend: Backend) -> NeuralField:
    """A hash grid of usual size; with the backend `torch` in nothing else."""
    grid = MultiresGrid("hash", finest=2048, log2_size=16, backend=backend)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    half = max(b - a for a, b in zip(low, high, strict=True)) / 2
    options = NeuralOptions(
        center=(middle[0], middle[1], middle[2]), scale=half, num_coarse=SAMPLES, num_fine=0, num_layers=2
    )
    return NeuralField(grid, options)


def train_once(field: Field, batch: PixelBatch) -> None:
    """Forward and backward of one batch, gradients of the last one dropped."""
    assert isinstance(field, nn.Module), "every field of the package is a module"
    field.zero_grad(set_to_none=True)
    jitter = torch.full_like(batch.origins[:, 0], 0.3)
    seen = field.render_rays(batch.origins, batch.directions, jitter=jitter)
    ((seen.colors - batch.colors) ** 2).mean().backward()


def measure_marching_cubes(repeats: int) -> dict[str, float]:
    """Median seconds of each program that is installed."""
    volume = wavy_ball(256).numpy()
    programs: dict[str, Callable[[], object]] = {}
    from skimage.measure import marching_cubes

    programs["scikit-image"] = lambda: marching_cubes(volume, 0.0)
    try:
        import mcubes  # pyright: ignore[reportMissingImports]

        programs["PyMCubes"] = lambda: mcubes.marching_cubes(volume, 0.0)
    except ImportError:
        pass
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            spent = timed(program)
            if turn > 0:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def wavy_ball(nodes: int) -> Tensor:
    """[nodes, nodes, nodes] float32 about the distance to a ball with waves, radius 0.35 of the box."""
    axis = torch.from_numpy(np.linspace(-0.5, 0.5, nodes, dtype=np.float32))
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (
        (x * x + y * y + z * z).sqrt()
        - 0.35
        - 0.02 * torch.sin(20 * x) * torch.sin(20 * y) * torch.sin(20 * z)
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
