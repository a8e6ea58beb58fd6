"""SparseFusion's sampler and distillation, found on validation objects.

    python papers/sparsefusion/choose.py --data SCENES --work runs/choose

SCENES: objects that are neither trained on nor in any table, rendered by `manyview render MESH... --protocol
orbit32`; where it has a splits.json only its `val` scenes are used. First the diffusion model alone: every
number of steps with every guidance. Then the distillation, one option after the other in the order of their
flags: each value of an option is tried with what was chosen before it, and the best stays. What is tried
first is what the weights have recorded. Best is the highest PSNR as a mean over the numbers of inputs, or
with `--by stlpips_vgg` the lowest of that. Answers are kept in <work>: a stopped run goes on.

Writes <results>/sparsefusion_choice.json, whose `settings` are what `papers/compact/bundle.py
--sparsefusion-settings` records in the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.bench.fewview_options import HEADLINE, FewviewOptions
from manyview.bench.fewview_run import evaluate_fewview
from manyview.bench.script_flags import add_run_flags, add_work_flag
from manyview.cli.flags import check_output, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.data.datasets import read_splits
from manyview.errors import InputError
from manyview.io.manifest import to_plain, versions, write_json
from manyview.methods import load
from manyview.methods.sparsefusion.distill_options import DistillOptions

ROOT = Path(__file__).resolve().parents[2]
# Flags of the distillation by the option they try values of.
TRIED = {
    "schedule": {"choices": ("annealed", "uniform")},
    "t_first": {"type": float},
    "t_last": {"type": float},
    "rounds": {"type": int},
    "steps_per_round": {"type": int},
    "warmup_steps": {"type": int},
    "most_steps": {"type": int},
    "distill_guidance": {"type": float},
    "targets": {"type": int},
    "target_weight": {"type": float},
}
_OPTION_OF = {"distill_guidance": "guidance"}


class Trial:
    """Scores candidates, each once."""

    def __init__(self, given: argparse.Namespace) -> None:
        splits = read_splits(given.data)
        self.scenes = splits.val if splits is not None else None
        self.given, self.device = given, torch_device(given.device)
        self.dtype = torch_dtype(given.dtype)
        self.pipeline = load(HEADLINE, given.weights, self.device, self.dtype)
        self.tried: list[dict[str, Any]] = []

    def score(self, row: str, **asked: Any) -> float:
        """How good a row is with some options: greater is better."""
        given = self.given
        options = FewviewOptions(
            counts=given.inputs, num_scored=given.scored, only=[row], seed=given.seed, **asked
        )
        report = evaluate_fewview(
            self.pipeline,
            given.data,
            given.work / "choose.json",
            options,
            scenes=self.scenes,
            limit=given.limit,
            device=self.device,
            dtype=self.dtype,
            perceptual=given.by != "psnr",
            keep=True,
            force=True,
            progress=TerminalProgress(),
        )
        parts = report["by_references"].values()
        if any("mean" not in part[given.by] for part in parts):
            raise InputError("--by", given.by, "cannot be computed here: " + str(report["metrics"][given.by]))
        numbers = {count: part[given.by]["mean"] for count, part in report["by_references"].items()}
        seconds = sum(part["seconds"]["mean"] for part in parts)
        self.tried.append({"row": row, "asked": to_plain(asked), given.by: numbers, "seconds": seconds})
        mean = sum(numbers.values()) / len(numbers)
        return mean if given.by == "psnr" else -mean


def main(words: Sequence[str] | None = None) -> int:
    """Score all candidates and write the choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "data set of validation objects")
    add_work_flag(parser)
    parser.add_argument("--by", default="psnr", choices=("psnr", "stlpips_vgg"))
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[10, 25, 50], help="of the diffusion model alone"
    )
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0], help="of it")
    parser.add_argument("--solver", default="ddim", choices=("ddim", "plms"))
    for name, kind in TRIED.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, nargs="+", default=[], help="values to try in the distillation", **kind)
    parser.add_argument("--inputs", type=int, nargs="+", default=[2, 3, 6], help="numbers of inputs")
    parser.add_argument("--scored", type=int, default=4, help="frames scored an object")
    given = parser.parse_args(words)
    out = given.results / "sparsefusion_choice.json"
    silence_loading()
    try:
        check_output(out, allowed=given.force)
        trial = Trial(given)
        settings = {**choose_sampler(trial), **choose_distillation(trial)}
        record = {"settings": settings, "by": given.by, "inputs": given.inputs, "tried": trial.tried}
        write_json(out, {**record, "data": given.data.resolve().name, "versions": versions()})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in trial.tried:
        numbers = ", ".join(f"{count}: {value:.3f}" for count, value in one[given.by].items())
        print(f"{one['row']} {one['asked']}: {given.by} {numbers} ({one['seconds']:.0f} s an object)")
    print(f"--sparsefusion-settings {out.name}")
    return 0


def choose_sampler(trial: Trial) -> dict[str, Any]:
    """`solver`, `steps` and `guidance` of the diffusion model alone."""
    given = trial.given
    pairs = [(steps, guidance) for steps in given.steps for guidance in given.guidance]
    if not pairs:
        return {}
    scores = {
        pair: trial.score("vldm", num_steps=pair[0], guidance=pair[1], solver=given.solver) for pair in pairs
    }
    steps, guidance = max(pairs, key=lambda pair: scores[pair])
    return {"solver": given.solver, "steps": steps, "guidance": guidance}


def choose_distillation(trial: Trial) -> dict[str, Any]:
    """`distill`: the options that differ from the defaults, found one after the other."""
    best = trial.pipeline.default_distillation
    first: float | None = None
    for name in TRIED:
        option = _OPTION_OF.get(name, name)
        for value in getattr(trial.given, name):
            candidate = dataclasses.replace(best, **{option: value})
            if candidate == best:
                continue
            first = trial.score(HEADLINE, distill=best) if first is None else first
            score = trial.score(HEADLINE, distill=candidate)
            if score > first:
                best, first = candidate, score
    return {"distill": differing(best)}


def differing(options: DistillOptions) -> Mapping[str, Any]:
    """What of the options, and of the field's within them, is not as by default."""
    default = DistillOptions()
    own = _differing(options, default)
    return {**own, "field": _differing(options.field, default.field)} if "field" in own else own


def _differing(options: Any, default: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(options)]
    return {
        name: getattr(options, name) for name in names if getattr(options, name) != getattr(default, name)
    }


if __name__ == "__main__":
    sys.exit(main())
