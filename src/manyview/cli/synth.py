"""`manyview synth`: some views of an object into the missing ones."""

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
    torch_device,
    torch_dtype,
)
from manyview.cli.rig import fill_rig, parse_grid, parse_slots
from manyview.cli.shell import Answer
from manyview.progress import Progress

SUMMARY = "Make the missing views of an object from the given ones; the result is a scene folder."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview synth`."""

    input: tyro.conf.Positional[Path]
    """An image, a folder of images, or a scene. Transparency counts as background."""
    out: Path
    """Folder of the result."""
    method: str = "dimvis"
    """The method."""
    weights: str = "compact"
    """compact (in the package), a folder, or a hub id."""
    slots: str | None = None
    """Which places of the rig the images take, in their order, such as 0,2; the first ones when not given."""
    grid: str = "2x2"
    """Rows x columns in which the method lays out the rig's views."""
    steps: int = 50
    """Denoising steps."""
    guidance: float | None = None
    """Guidance strength; when not given, the method's choice for the number of given views."""
    solver: Literal["ddim", "repaint"] = "ddim"
    """How the missing views are drawn."""
    samples: int = 1
    """How many results to draw; with two or more their spread is written as well."""
    compute: Annotated[ComputeFlags, tyro.conf.arg(name="")] = field(default_factory=ComputeFlags)
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)
