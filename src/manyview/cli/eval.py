"""`manyview eval`: score a method, or a folder of results, under one of the papers' protocols."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyview.cli.flags import ComputeFlags, OutputFlags, check_output, check_range, check_readable
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.progress import Progress

SUMMARY = "Score a method, or results another program made, on a data set under a paper's protocol."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview eval`."""

    target: tyro.conf.Positional[str]
    """A method's name, or a folder of results with one folder a scene."""
    data: Path
    """Folder of the data set with the true views."""
    protocol: Literal["orbit4"] = "orbit4"
    """Which views are given and which are asked for; orbit4: four views 90 degrees apart, every subset given."""
    out: Path
    """File for the metrics (json)."""
    weights: str = "compact"
    """Weights of the method: compact, a folder, or a hub id."""
    steps: int = 50
    """Denoising steps."""
    guidance: float | None = None
    """Guidance strength; the method's own choice for the number of given views when not set."""
    limit: int | None = None
    """Score only the first scenes, this many."""
    compute: Annotated[ComputeFlags, tyro.conf.arg(name="")] = field(default_factory=ComputeFlags)
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)
