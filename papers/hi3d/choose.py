"""Hi3D's steps and guidance, found on validation objects.

    python papers/hi3d/choose.py --data SCENES --work runs/choose

SCENES: objects that are neither trained on nor in any table, rendered by `manyview render MESH... --protocol
orbit16`; where it has a splits.json only its `val` scenes are used. For the first stage, at its own
resolution, every shape of the guidance over the frames with every highest guidance, at the first of the
given numbers of steps and of noise to begin with; then every pair of these with the best guidance. If
`--refine-guidance`, `--refine-steps` or `--refine-sigma-max` are given, the second stage is tried in the same
way with what was chosen for the first. Of equal ones the first is taken. Best is the highest PSNR, or with
`--by stlpips_vgg` the lowest of that. Answers are kept in <work>: a stopped run goes on.

Writes <results>/hi3d_choice.json, whose `settings` are what the weights record.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyview.bench.orbit16_options import COARSE, HEADLINE, Orbit16Options
from manyview.bench.orbit16_run import evaluate_orbit16
from manyview.bench.script_flags import add_run_flags, add_work_flag
from manyview.cli.flags import check_output, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.data.datasets import read_splits
from manyview.errors import InputError
from manyview.io.manifest import to_plain, versions, write_json
from manyview.methods import load

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ("linear", "triangular", "constant")


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
        given, asked = self.given, dict(sorted(asked.items()))
        for one in self.tried:
            if (one["row"], one["asked"]) == (row, to_plain(asked)):
                return one[given.by] if given.by == "psnr" else -one[given.by]
        noise = {name: asked[name] for name in asked if name.endswith("sigma_max")}
        self.pipeline.register_to_config(**noise)
        more = {name: asked[name] for name in asked if name not in noise}
        options = Orbit16Options(num_inputs=given.inputs, only=[row], seed=given.seed, **more)
        report = evaluate_orbit16(
            self.pipeline,
            given.data,
            given.work / "choose.json",
            options,
            scenes=self.scenes,
            limit=given.limit,
            device=self.device,
            dtype=self.dtype,
            # The first stage at its own resolution: enlarging says nothing about it.
            size=self.pipeline.resolution if row == COARSE else None,
            perceptual=given.by != "psnr",
            keep=True,
            force=True,
            progress=TerminalProgress(),
        )
        found = report["metrics"][given.by]
        if "mean" not in found:
            raise InputError("--by", given.by, f"cannot be computed here: {found}")
        more = {name: report["metrics"][name].get("mean") for name in ("neighbour_mae", "seam_ratio")}
        seconds = report["seconds"] / sum(map(len, report["inputs"].values()))
        record = {"row": row, "asked": to_plain(asked), given.by: found["mean"], **more}
        self.tried.append({**record, "seconds": round(seconds, 2)})
        return found["mean"] if given.by == "psnr" else -found["mean"]

    def best(self, row: str, candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The first of the best candidates; one alone is not tried."""
        if len(candidates) == 1:
            return candidates[0]
        scores = [self.score(row, **one) for one in candidates]
        return candidates[scores.index(max(scores))]


def main(words: Sequence[str] | None = None) -> int:
    """Score all candidates and write the choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "data set of validation objects")
    add_work_flag(parser)
    parser.add_argument("--by", default="psnr", choices=("psnr", "stlpips_vgg"))
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 10, 50])
    parser.add_argument("--low", type=float, default=1.0, help="guidance of frame 0")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5], help="the highest")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--sigma-max", type=float, nargs="*", default=[], help="noise to begin with")
    parser.add_argument("--refine-sigma-max", type=float, nargs="*", default=[])
    parser.add_argument("--refine-steps", type=int, nargs="*", default=[])
    parser.add_argument("--refine-guidance", type=float, nargs="*", default=[])
    parser.add_argument("--inputs", type=int, default=1, help="different inputs an object")
    given = parser.parse_args(words)
    out = given.results / "hi3d_choice.json"
    silence_loading()
    try:
        check_output(out, allowed=given.force)
        trial = Trial(given)
        first = choose_first(trial)
        settings = {
            "steps": first["num_steps"],
            "guidance": list(first["guidance"]),
            "guidance_shape": first["guidance_shape"],
            **({"sigma_max": first["sigma_max"]} if "sigma_max" in first else {}),
            **choose_second(trial, first),
        }
        record = {"settings": settings, "by": given.by, "tried": trial.tried}
        write_json(out, {**record, "data": given.data.resolve().name, "versions": versions()})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in trial.tried:
        print(
            f"{one['row']} {one['asked']}: {given.by} {one[given.by]:.4f} ({one['seconds']:.0f} s an orbit)"
        )
    print(f"settings in {out.name}: {settings}")
    return 0


def choose_first(trial: Trial) -> dict[str, Any]:
    """`num_steps`, `guidance`, `guidance_shape`, and if asked for `sigma_max` of the first stage."""
    given = trial.given
    pairs = []
    for high in given.guidance:
        # With the same guidance everywhere all shapes are one.
        shapes = given.shapes[:1] if high == given.low else given.shapes
        pairs += [{"guidance": (given.low, high), "guidance_shape": shape} for shape in shapes]
    noises = [{"sigma_max": high} for high in given.sigma_max] or [{}]
    best = trial.best(COARSE, [{"num_steps": given.steps[0], **noises[0], **pair} for pair in pairs])
    begun = [{"num_steps": steps, **noise} for noise in noises for steps in given.steps]
    return trial.best(COARSE, [{**best, **one} for one in begun])


def choose_second(trial: Trial, first: dict[str, Any]) -> dict[str, Any]:
    """`refine_guidance`, `refine_steps` and `refine_sigma_max`, those that candidates were given for."""
    given = trial.given
    settings: dict[str, Any] = {}
    # Where the weights say nothing else the second stage has the first one's shape, which is to be recorded.
    trial.pipeline.register_to_config(default_shape=first["guidance_shape"])
    scales = [(given.low, high) for high in given.refine_guidance]
    for name, values in (
        ("refine_guidance", scales),
        ("refine_steps", given.refine_steps),
        ("refine_sigma_max", given.refine_sigma_max),
    ):
        if values:
            settings[name] = trial.best(HEADLINE, [{**first, **settings, name: one} for one in values])[name]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


if __name__ == "__main__":
    sys.exit(main())
