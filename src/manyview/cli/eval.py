"""`manyview eval`: score a method, or a folder of results, under one of the papers' protocols."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyview.cli.flags import (
    ComputeFlags,
    OutputFlags,
    check_memory,
    check_output,
    check_range,
    check_readable,
    parameter_bytes,
    torch_device,
    torch_dtype,
)
from manyview.cli.progress import silence_loading
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.methods import METHODS
from manyview.progress import Progress
from manyview.weights import open_bundle

SUMMARY = "Score a method, or results another program made, on a data set under a paper's protocol."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview eval`."""

    target: tyro.conf.Positional[str]
    """A method's name, or a folder of results with one folder a scene."""
    data: Path
    """Folder of the data set with the true views."""
    protocol: Literal["orbit4"] = "orbit4"
    """orbit4: four views 90 degrees apart, every subset of them given."""
    out: Path
    """File for the metrics (json)."""
    weights: str = "compact"
    """Weights of the method: compact, a folder, or a hub id."""
    steps: int = 50
    """Denoising steps."""
    guidance: float | None = None
    """Guidance strength; the method's own choice for the number of given views when not set."""
    solver: Literal["ddim", "dpm", "unipc"] = "ddim"
    """ddim is the papers'; the others need fewer steps."""
    samples: int = 1
    """How many answers to draw to a question; with two or more, their mean and deviation are scored too."""
    perceptual: bool = True
    """Also the perceptual metrics, which cost more than drawing does on a CPU."""
    limit: int | None = None
    """Score only the first scenes, this many."""
    compute: Annotated[ComputeFlags, tyro.conf.arg(name="")] = field(default_factory=ComputeFlags)
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Check, run the protocol, and write the metrics."""
    if options.target not in METHODS and not Path(options.target).is_dir():
        accepted = f"expected a folder of results or one of {', '.join(METHODS)}"
        raise InputError("TARGET", options.target, accepted)
    check_readable("--data", options.data)
    check_range("--steps", options.steps, 1, 1000)
    check_range("--guidance", options.guidance, 0, 100)
    check_range("--samples", options.samples, 1, 1000)
    check_range("--limit", options.limit, 1, 10**9)
    check_output(options.out, allowed=options.output.force)
    if options.target in METHODS:
        bundle = open_bundle(options.weights, options.target)
        needed = parameter_bytes(bundle.components.values(), options.compute.dtype)
        check_memory(needed, options.compute.max_memory)
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)

    from manyview.bench.run import evaluate

    silence_loading()

    metrics = evaluate(
        options.target if options.target in METHODS else Path(options.target),
        options.data,
        options.protocol,
        options.out,
        weights=options.weights,
        device=device,
        dtype=dtype,
        seed=options.output.seed,
        num_steps=options.steps,
        guidance=options.guidance,
        solver=options.solver,
        num_samples=options.samples,
        perceptual=options.perceptual,
        limit=options.limit,
        force=options.output.force,
        progress=progress,
    )
    computed = {name: value["mean"] for name, value in metrics["metrics"].items() if "mean" in value}
    means = ", ".join(f"{name} {value:.4g}" for name, value in computed.items())
    return Answer(data=metrics, text=f"{means}; all of it in {options.out}")
