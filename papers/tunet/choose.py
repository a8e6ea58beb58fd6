"""TUNet's steps, t*, fusion, source of noise and candidates, found on validation objects.

    python papers/tunet/choose.py --data SCENES --work runs/choose

SCENES: objects that are neither trained on nor in any table, rendered by `manyview render MESH... --protocol
orbit16`; where it has a splits.json only its `val` scenes are used. First every number of steps with every t*
is tried with the first fusion (another t* than the network was trained for is off its path, which the figures
show); then every fusion with its sources of noise alone; then the best of each, and all of them together, as
candidates under every rule of selection. Of equal ones the first is taken. Best is the highest PSNR, or with
`--by stlpips_vgg` the lowest of that among those that lose at most `--within` dB of PSNR to the best. Answers
are kept in <work>: a stopped run goes on.

Writes <results>/tunet_choice.json, whose `settings` are what the weights record.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyview.bench.pair_options import HEADLINE, PairOptions
from manyview.bench.pair_run import evaluate_pair
from manyview.bench.script_flags import add_run_flags, add_work_flag
from manyview.cli.flags import check_output, check_range, torch_device, torch_dtype
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.data.datasets import read_splits
from manyview.errors import InputError
from manyview.io.manifest import versions, write_json
from manyview.methods import load
from manyview.methods.tunet.fusion import parse_candidate

ROOT = Path(__file__).resolve().parents[2]
ALONE = ("A:eps_t", "A:latent_T", "A:gaussian", "B:latent_T", "B:eps_t", "B:gaussian", "B:latent_t")


class Trial:
    """Scores settings, each once."""

    def __init__(self, given: argparse.Namespace) -> None:
        splits = read_splits(given.data)
        self.scenes = splits.val if splits is not None else None
        self.given, self.device = given, torch_device(given.device)
        self.dtype = torch_dtype(given.dtype)
        self.pipeline = load(HEADLINE, given.weights, self.device, self.dtype)
        self.tried: list[dict[str, Any]] = []

    def score(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The figures of the pipeline with these settings recorded."""
        for one in self.tried:
            if one["settings"] == settings:
                return one
        given = self.given
        kept = {name: self.pipeline.config[name] for name in settings}
        # As the pipeline's configuration holds them: one string.
        self.pipeline.register_to_config(**{**settings, "candidates": ",".join(settings["candidates"])})
        try:
            report = evaluate_pair(
                self.pipeline,
                given.data,
                given.work / "choose.json",
                PairOptions(num_inputs=given.inputs, only=[HEADLINE], features=(), seed=given.seed),
                scenes=self.scenes,
                limit=given.limit,
                device=self.device,
                dtype=self.dtype,
                perceptual=given.by != "psnr",
                keep=True,
                force=True,
                progress=TerminalProgress(),
            )
        finally:
            self.pipeline.register_to_config(**kept)
        metrics = report["metrics"]
        if "mean" not in metrics[given.by]:
            raise InputError("--by", given.by, f"cannot be computed here: {metrics[given.by]}")
        names = ("psnr", given.by, "hf_power_025")
        seconds = report["seconds_an_answer"]["mean"]
        record = {"settings": settings, **{name: metrics[name]["mean"] for name in names}}
        self.tried.append({**record, "seconds": round(seconds, 2)})
        return self.tried[-1]

    def best(self, candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The first of the best settings; one alone is not tried."""
        if len(candidates) == 1:
            return candidates[0]
        scores = [self.score(one) for one in candidates]
        return candidates[best_of(scores, self.given.by, self.given.within)]


def best_of(scores: Sequence[dict[str, Any]], by: str, within: float) -> int:
    """The number of the best: the highest PSNR, or of those at most `within` dB below it the lowest
    distance."""
    highest = max(one["psnr"] for one in scores)
    if by == "psnr":
        return next(n for n, one in enumerate(scores) if one["psnr"] == highest)
    near = [n for n, one in enumerate(scores) if one["psnr"] >= highest - within]
    return min(near, key=lambda number: scores[number][by])


def main(words: Sequence[str] | None = None) -> int:
    """Score all settings and write the choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_run_flags(parser, ROOT, "data set of validation objects")
    add_work_flag(parser)
    parser.add_argument("--by", default="stlpips_vgg", choices=("psnr", "stlpips_vgg"))
    parser.add_argument("--within", type=float, default=0.5, help="dB of PSNR that may be given for it")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20], help="to t*, and back")
    parser.add_argument("--t-star", type=int, nargs="*", default=[], help="beside the network's own")
    parser.add_argument("--alone", nargs="+", default=list(ALONE), help="fusions with sources of noise")
    parser.add_argument("--rules", nargs="+", default=["agreement", "encoder"], help="of selection")
    parser.add_argument("--together", type=int, default=3, help="candidates that are chosen from, at most")
    parser.add_argument("--inputs", type=int, default=1, help="different references an object")
    given = parser.parse_args(words)
    out = given.results / "tunet_choice.json"
    silence_loading()
    try:
        check_output(out, allowed=given.force)
        check_range("--together", given.together, 1, 16)
        check_range("--within", given.within, 0, 100)
        for name in given.alone:
            parse_candidate(name, "--alone")
        trial = Trial(given)
        settings = choose(trial)
        record = {"settings": settings, "by": given.by, "within": given.within, "tried": trial.tried}
        write_json(out, {**record, "data": given.data.resolve().name, "versions": versions()})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in trial.tried:
        print(
            f"{one['settings']}: {given.by} {one[given.by]:.4f}, {one['psnr']:.2f} dB, {one['seconds']:.1f} s"
        )
    print(f"settings in {out.name}: {settings}")
    return 0


def choose(trial: Trial) -> dict[str, Any]:
    """`mean_steps`, `t_star`, `candidates` and `selection`."""
    given = trial.given
    own = trial.pipeline.tunet.options.t_star
    begun = [
        {"t_star": level, "mean_steps": steps, "candidates": [given.alone[0]], "selection": "agreement"}
        for level in dict.fromkeys([own, *given.t_star])
        for steps in given.steps
    ]
    best = trial.best(begun)
    alone = [{**best, "candidates": [name]} for name in given.alone]
    best = trial.best(alone)
    ranked = rank(trial, alone)
    rules = [rule for rule in given.rules if rule == "agreement" or trial.pipeline.image_encoder is not None]
    together = [
        {**best, "candidates": ranked[:count], "selection": rule}
        for count in range(2, min(given.together, len(ranked)) + 1)
        for rule in rules
    ]
    return trial.best([best, *together])


def rank(trial: Trial, alone: Sequence[dict[str, Any]]) -> list[str]:
    """Candidates from the best down, each chosen as `best_of` would among those that are left."""
    left = list(alone)
    order: list[str] = []
    while left:
        # One alone has been scored with the others.
        scores = [trial.score(one) for one in left] if len(alone) > 1 else [{"psnr": 0.0}]
        number = best_of(scores, trial.given.by, trial.given.within) if len(left) > 1 else 0
        order.append(left.pop(number)["candidates"][0])
    return order


if __name__ == "__main__":
    sys.exit(main())
