"""The guidance of DiMViS for 1, 2 and 3 references, and its number of steps, found on validation objects.

    python papers/dimvis/choose_guidance.py --data DATASET

DATASET: objects that are neither trained on nor in any table, rendered by `manyview render MESH...
--protocol orbit16`; where it has a splits.json only its `val` scenes are used. With several `--steps` each is
scored with every guidance; the one with the highest PSNR, as a mean over 1, 2 and 3 references at their best
guidance, counts. Writes <results>/dimvis_guidance.json and prints the options of papers/compact/bundle.py
that record the choice in the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.bench.script_flags import add_run_flags
from manyview.bench.select import choose_guidance
from manyview.cli.flags import check_output, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.data.datasets import read_splits
from manyview.errors import InputError
from manyview.io.manifest import write_json
from manyview.methods import load
from manyview.sampling.solvers import SOLVERS

ROOT = Path(__file__).resolve().parents[2]


def main(words: Sequence[str] | None = None) -> int:
    """Score all candidates and write the choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "data set of validation objects")
    parser.add_argument("--method", default="dimvis", choices=("dimvis", "one2one"))
    parser.add_argument("--candidates", type=float, nargs="+", default=[1.0, 3.0], help="strengths to try")
    parser.add_argument("--steps", type=int, nargs="+", default=[50], help="numbers of steps to try")
    parser.add_argument("--solver", default="ddim", choices=SOLVERS)
    parser.add_argument("--batch", type=int, default=8, help="view sets at once")
    given = parser.parse_args(words)
    out = given.results / f"{given.method}_guidance.json"
    silence_loading()
    try:
        check_output(out, allowed=given.force)
        splits = read_splits(given.data)
        device = torch_device(given.device)
        pipeline = load(given.method, given.weights, device, torch_dtype(given.dtype))
        found = {}
        for steps in given.steps:
            found[steps] = choose_guidance(
                pipeline,
                given.data,
                given.candidates,
                scenes=splits.val if splits is not None else None,
                num_steps=steps,
                solver=given.solver,
                limit=given.limit,
                seed=given.seed,
                batch_size=given.batch,
                device=device,
                progress=TerminalProgress(),
            )
        best = max(given.steps, key=lambda steps: mean_psnr(*found[steps]))
        by_steps = {str(steps): {"chosen": chosen, **report} for steps, (chosen, report) in found.items()}
        write_json(out, {"steps": best, "solver": given.solver, "by_steps": by_steps})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for steps, (_, report) in found.items():
        for count, part in report["by_references"].items():
            scores = [f"{g:g}: {part[f'guidance_{g:g}']['psnr']['mean']:.2f}" for g in given.candidates]
            print(f"{steps} steps, {count} references, PSNR at guidance {', '.join(scores)}")
    chosen = " ".join(f"{value:g}" for value in found[best][0])
    print(f"--guidance {chosen} --sampler {given.solver} {best}")
    return 0


def mean_psnr(chosen: Sequence[float], report: Mapping[str, Any]) -> float:
    """Over 1, 2 and 3 references, each at its chosen guidance."""
    parts = report["by_references"].values()
    scores = [
        part[f"guidance_{guidance:g}"]["psnr"]["mean"] for part, guidance in zip(parts, chosen, strict=True)
    ]
    return sum(scores) / len(scores)


if __name__ == "__main__":
    sys.exit(main())
