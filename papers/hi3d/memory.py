"""What the published pipeline needs of memory, step by step, planned without any weights.

    python papers/hi3d/memory.py

Sixteen views of 512 and then of 1024 pixels in float16, with 1, 2, 4, 8 and 16 frames in the codec at once,
all networks on the device or only the one at work. Tensors are counted on torch's meta device, attention as
fused kernels do it (manyview.methods.hi3d.memory). Writes <results>/hi3d_memory.json and .md. Half a minute
on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.flags import check_output
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.manifest import versions, write_json
from manyview.methods.hi3d.memory import MemoryPlan, profile_paper

ROOT = Path(__file__).resolve().parents[2]
CHUNKS = (1, 2, 4, 8, 16)
REPORTED = 28e9
"""Bytes that users of the published code report for its second stage (its issue 9)."""


def main(words: Sequence[str] | None = None) -> int:
    """Plan, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="folder written to")
    parser.add_argument("--force", action="store_true", help="replace earlier results")
    given = parser.parse_args(words)
    out = given.results / "hi3d_memory.json"
    try:
        check_output(out, allowed=given.force)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    profile = profile_paper()
    plans = {count: profile.plan(at_once=count) for count in CHUNKS}
    record = {"dtype": "float16", "views": profile.num_frames, "reported": REPORTED, "versions": versions()}
    write_json(out, {**record, "frames_at_once": {str(count): plan for count, plan in plans.items()}})
    text = write_tables(plans)
    write_text_atomic(out.with_suffix(".md"), text)
    print(text)
    return 0


def write_tables(plans: dict[int, MemoryPlan]) -> str:
    """Peaks by frames in the codec, and by step at 1 and at 16."""
    lines = [
        "# Memory of the published pipeline, planned\n",
        "`python papers/hi3d/memory.py`: 16 views of 512, then of 1024 pixels, float16, GB (10^9 bytes)."
        f" Users of the published code report {REPORTED / 1e9:.0f} GB.\n",
        "| frames in the codec at once | all networks on the device | decided by | only the one at work |"
        " decided by |",
        "|---:|---:|---|---:|---|",
    ]
    for count, plan in plans.items():
        lines.append(
            f"| {count} | {plan.peak / 1e9:.1f} | {plan.worst().name} | {plan.offloaded_peak / 1e9:.1f} |"
            f" {plan.worst(offload=True).name} |"
        )
    first, last = plans[CHUNKS[0]], plans[CHUNKS[-1]]
    lines += [
        f"\nAll weights: {first.weights / 1e9:.1f} GB.\n",
        "| step | its weights | beside the weights, 1 frame at once | 16 frames at once |",
        "|---|---:|---:|---:|",
    ]
    for one, other in zip(first.steps, last.steps, strict=True):
        cells = (one.weights, one.activations, other.activations)
        lines.append(f"| {one.name} | {' | '.join(f'{value / 1e9:.2f}' for value in cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
