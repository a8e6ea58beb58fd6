"""The whole method on a generator of which everything is known (toy_scene.py), and how near it gets.

    python papers/refiner/toy.py --work runs/toy

Finds the turning direction, teaches depth and pose on its sweeps, trains the refiner, and compares with the
truth on codes that nothing was trained on: the yaw between pictures, the order of depths (beside that of an
untrained guess, round within the outline), and how much of what turning should not have changed the refiner
takes back. Writes docs/results/refiner_toy.json. A finished part is kept, and a stopped one goes on. About 15
minutes of one core; `--scale 0.1` for a look. Exit codes: 0 done, 2 bad input, 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toy_scene import NUISANCES, ToyGenerator

from manyview.cli.flags import check_range
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError, Stopped
from manyview.io.manifest import versions, write_json
from manyview.methods.refiner.depth_scores import score_depths
from manyview.methods.refiner.losses import SMALL
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.sweep_frames import SearchOptions
from manyview.methods.refiner.train import RefinerTask
from manyview.methods.refiner.train_depth import DepthOptions, SelfTaught, SelfTaughtTask, load_self_taught
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.weights.packing import load_component

ROOT = Path(__file__).resolve().parents[2]
RESOLUTION, REACH = 64, 2.0
DEPTH = {"steps": 800, "batch_size": 8, "lr": 1e-3, "weight_decay": 1e-4, "ema_decay": 0.98}
REFINER = {"steps": 900, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.0, "ema_decay": 0.98}
NUM_TESTED = 96
_FIRST_TESTED = 10_000_000


def main(words: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "results" / "refiner_toy.json", help="file of the figures"
    )
    given = parser.parse_args(words)
    silence_loading()
    try:
        check_range("--scale", given.scale, 1e-3, 100)
        report = run(given.work, given.scale, given.seed, given.threads)
        write_json(given.out, report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    for name, value in report["measured"].items():
        print(f"{name}: {value:.3f}")
    return 0


def run(work: Path, scale: float, seed: int, threads: int) -> dict[str, Any]:
    """All of it; the figures."""
    generator = ToyGenerator(RESOLUTION)
    depth_config = train_config(DEPTH, scale, seed, threads)
    task = SelfTaughtTask(
        generator,
        steps=depth_config.steps,
        batch_size=depth_config.batch_size,
        options=depth_options(),
        seed=seed,
        data_name="toy_scene.py",
    )
    calibration = load_self_taught(finished(task, depth_config, work / "depth"), "--work").eval()
    refining = RefinerTask(
        generator, calibration, losses=SMALL, reach=REACH, seed=seed, data_name="toy_scene.py"
    )
    refiner_config = train_config(REFINER, scale, seed, threads)
    export = finished(refining, refiner_config, work / "refiner")
    refiner = load_component(CodeRefiner, export / "refiner", torch.float32).eval()
    return {
        "scene": {"resolution": RESOLUTION, "rows": generator.num_ws, "numbers": generator.w_dim},
        "steps": {"depth": depth_config.steps, "refiner": refiner_config.steps},
        "seed": seed,
        "measured": measure(generator, calibration, refiner),
        "wanted": {"yaw_error_deg": 3.0, "depth_rank": 0.8, "nuisance_removed": 0.7},
        "versions": versions(),
    }


def depth_options() -> DepthOptions:
    """Few samples of a small code space, and sweeps as far as pictures stay apart from blank."""
    search = SearchOptions(
        num_samples=5000, num_components=8, searched=4, num_codes=8, truncation=1.0, layer_ranges=((0, 4),)
    )
    return DepthOptions(search=search, reach=REACH)


def train_config(numbers: dict[str, Any], scale: float, seed: int, threads: int) -> TrainConfig:
    """The run's options at a scale."""
    steps = max(2, round(numbers["steps"] * scale))
    return TrainConfig(
        **{**numbers, "steps": steps},
        warmup_steps=min(20, steps // 10),
        log_every=min(20, steps),
        seed=seed,
        num_threads=threads,
        device="cpu",
        dtype="fp32",
        checkpoint_minutes=1,
    )


def finished(task: Any, config: TrainConfig, out: Path) -> Path:
    """The export of a run, trained now if it is not there."""
    if not (out / "train.json").is_file():
        fit(task, config, out, resume=True, progress=TerminalProgress())
    return out / "export"


@torch.no_grad()
def measure(
    generator: ToyGenerator, calibration: SelfTaught, refiner: CodeRefiner, count: int = NUM_TESTED
) -> dict[str, float]:
    """Against the truth, on codes of their own turned by amounts spread evenly over +-`REACH`."""
    basis, pose = calibration.basis, calibration.pose
    codes = generator.sample(range(_FIRST_TESTED, _FIRST_TESTED + count))
    amounts = torch.linspace(-REACH, REACH, count)[
        torch.randperm(count, generator=torch.Generator().manual_seed(0))
    ]
    edited = basis.edit(codes, amounts)
    source = generator.render(codes)
    vectors = pose(source.images.clamp(0, 1), generator(edited).clamp(0, 1))
    refined = refiner(codes, edited, vectors, torch.zeros(count, dtype=torch.int64)).float()
    true = generator.yaw_deg(edited) - generator.yaw_deg(codes)
    left = generator.yaw_deg(refined) - generator.yaw_deg(codes)
    wrong, right = (change(generator, codes, turned) for turned in (edited, refined))
    depths = score_depths(calibration.depth, pose, source.images, source.depths)
    parts = {
        f"{name}_removed": 1 - float(right[:, place].mean() / wrong[:, place].mean())
        for place, name in enumerate(("tint", "horn"))
    }
    return {
        "yaw_error_deg": float((pose.yaw_deg(vectors) - true).abs().mean()),
        "yaw_slope": float((pose.yaw_deg(vectors) * true).sum() / true.square().sum()),
        "turned_deg": float(true.abs().mean()),
        "kept_yaw_off_deg": float((left - true).abs().mean()),
        **depths,
        "nuisance_removed": 1 - float(right.sum() / wrong.sum()),
        **parts,
    }


def change(generator: ToyGenerator, codes: Tensor, turned: Tensor) -> Tensor:
    """[N, 2] by how much each nuisance differs."""
    assert len(NUISANCES) == 2, "the report names two"
    return (generator.nuisances(turned) - generator.nuisances(codes)).abs()


if __name__ == "__main__":
    sys.exit(main())
