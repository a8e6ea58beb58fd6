"""A training step of Gaussian splatting, forward and backward: the compiled renderer against plain torch.

    python benchmarks/splats.py --repeats 7

Random Gaussians in a ball, in shapes and opacities as a fit has them, colour to degree 3, one view of an
orbit; a random gradient comes in for colour, alpha and depth. The two are run in turns in one process after a
run of each that does not count; times are medians of wall time, the ratio the median over the turns of
(plain / compiled). Images may differ by 1e-4, every gradient by 1e-3 of its length; the exit code is 1 where
they do, or where the ratio is below `--at-least`. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.geometry.trajectories import orbit
from manyview.io.manifest import versions, write_json
from manyview.lift.splats.model import Splats
from manyview.lift.splats.render import Backend, render_splats
from manyview.types import Cameras

CASES = ((10_000, 128), (50_000, 128), (10_000, 256), (50_000, 256))
IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
DEGREE = 3


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="turns that count")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--fast", default="cpu", choices=("cpu", "gsplat"), help="the back end to measure")
    parser.add_argument("--at-least", type=float, default=10.0, help="ratio asked of every case")
    parser.add_argument("--small", action="store_true", help="one tiny case instead, as a check")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    cases = ((1000, 64),) if given.small else CASES
    rows = [measure(count, size, given.fast, given.repeats) for count, size in cases]
    report = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "repeats": given.repeats,
        "fast": given.fast,
        "rows": rows,
        "versions": versions(),
    }
    if given.out is not None:
        write_json(given.out, report)
    is_equal = all(row["equal"] for row in rows)
    is_fast = all(row["ratio"] >= given.at_least for row in rows)
    print(
        f"{torch.get_num_threads()} threads; equal: {is_equal}; at least {given.at_least:g} times: {is_fast}"
    )
    sys.exit(0 if is_equal and is_fast else 1)


def measure(count: int, size: int, fast: Backend, repeats: int) -> dict[str, Any]:
    """One row of the table: times of both back ends, and how far apart their answers are."""
    device = "cuda" if fast == "gsplat" else "cpu"
    splats, cameras = make_splats(count, size).to(device), orbit(1, size=size).to(device)
    plain, plain_gradients, _ = train_step(splats, cameras, "torch")
    quick, quick_gradients, _ = train_step(splats, cameras, fast)
    image_error = float((plain - quick).abs().max())
    errors = {
        name: float(torch.linalg.vector_norm(quick_gradients[name] - value) / torch.linalg.vector_norm(value))
        for name, value in plain_gradients.items()
    }
    seconds: dict[str, list[float]] = {"torch": [], fast: []}
    for _ in range(repeats):
        for backend in ("torch", fast):
            seconds[backend].append(train_step(splats, cameras, backend)[2])
    ratio = statistics.median(a / b for a, b in zip(seconds["torch"], seconds[fast], strict=True))
    row = {
        "gaussians": count,
        "size": size,
        "fast_ms": 1e3 * statistics.median(seconds[fast]),
        "torch_ms": 1e3 * statistics.median(seconds["torch"]),
        "ratio": ratio,
        "image_error": image_error,
        "gradient_errors": errors,
        "equal": image_error <= IMAGE_TOLERANCE and max(errors.values()) <= GRADIENT_TOLERANCE,
    }
    print(
        f"{count:6d} Gaussians, {size} px: {fast} {row['fast_ms']:7.1f} ms, torch {row['torch_ms']:8.1f} ms, "
        f"{ratio:5.1f} times; image {image_error:.1e}, gradients {max(errors.values()):.1e}"
    )
    return row


def train_step(splats: Splats, cameras: Cameras, backend: Backend) -> tuple[Tensor, dict[str, Tensor], float]:
    """The image [V, 3, H, W], the gradients of all inputs by name, and the seconds both took."""
    leaves = {name: value.clone().requires_grad_() for name, value in splats.tensors().items()}
    moved = replace(cameras, world_from_cam=cameras.world_from_cam.clone().requires_grad_())
    height, width = cameras.sizes[0].tolist()
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(len(cameras), 5, height, width, generator=generator).to(splats.means)
    synchronize(splats)
    started = time.perf_counter()
    drawn = render_splats(Splats(**leaves), moved, backend=backend)
    (torch.cat((drawn.images, drawn.alphas, drawn.depths), dim=1) * factors).sum().backward()
    synchronize(splats)
    seconds = time.perf_counter() - started
    gradients = {name: leaf.grad for name, leaf in {**leaves, "cameras": moved.world_from_cam}.items()}
    return drawn.images.detach(), {n: g for n, g in gradients.items() if g is not None}, seconds


def make_splats(count: int, size: int) -> Splats:
    """Gaussians in a ball of radius 0.4, about 1 to 2 pixels large at that image size."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    directions = torch.nn.functional.normalize(normal(count, 3), dim=-1)
    return Splats(
        means=0.4 * directions * torch.rand(count, 1, generator=generator) ** (1 / 3),
        # The lens of `orbit` has 35/32 of the image's width as focal length, and the ball is 1.5 away.
        log_scales=torch.tensor(1.5 * 1.5 * 32 / 35 / size).log() + 0.4 * normal(count, 3),
        quaternions=normal(count, 4),
        opacity_logits=2 * normal(count),
        sh=0.3 * normal(count, (DEGREE + 1) ** 2, 3),
    )


def synchronize(splats: Splats) -> None:
    """Wait for the device, so that times are those of the work."""
    if splats.means.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
