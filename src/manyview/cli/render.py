"""`manyview render`: meshes into a data set of posed RGBA views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyview.cli.flags import OutputFlags, check_output, check_range, check_readable
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.progress import Progress

SUMMARY = "Render meshes into a data set: one scene folder each, with exact cameras, RGBA views, depth and mask."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview render`."""

    meshes: tyro.conf.Positional[tuple[Path, ...]]
    """Mesh files (glb, obj, ply), or folders searched for them."""
    out: Path
    """Folder of the data set."""
    protocol: Literal["orbit16", "random"] = "orbit16"
    """Cameras: 16 azimuths at elevation 30 degrees, or random ones on the upper sphere."""
    size: int = 256
    """Rows and columns of each view."""
    engine: Literal["fast", "cycles"] = "fast"
    """Ray casting for training data, or Blender's Cycles for evaluation."""
    samples: int | None = None
    """Rays a pixel; the engine's own default when not given."""
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Render every mesh; scenes already done by an interrupted run are kept."""
    if not options.meshes:
        raise InputError("meshes", "none given", "expected one or more mesh files")
    for path in options.meshes:
        check_readable("meshes", path)
    check_range("--size", options.size, 8, 4096)
    check_range("--samples", options.samples, 1, 4096)
    check_output(options.out, force=options.output.force)

    from manyview.data.render.jobs import render_dataset

    render_dataset(
        options.meshes,
        options.out,
        protocol=options.protocol,
        size=options.size,
        engine=options.engine,
        samples=options.samples,
        seed=options.output.seed,
        progress=progress,
        force=options.output.force,
    )
    return Answer(data={"command": "render", "out": str(options.out)}, text=f"wrote {options.out}")
