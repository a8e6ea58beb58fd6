"""`manyview render`: meshes into a data set of posed RGBA views."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyview.cli.flags import OutputFlags, check_range
from manyview.cli.shell import Answer
from manyview.progress import Progress

SUMMARY = "Render meshes into a data set: a scene folder each, with exact cameras, RGBA views, depth, mesh."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview render`."""

    meshes: tyro.conf.Positional[tuple[Path, ...]]
    """Mesh files (glb, obj, ply), folders searched for them, or patterns."""
    out: Path
    """Folder of the data set; one begun with the same options is gone on with."""
    protocol: Literal["orbit16", "random"] = "orbit16"
    """Cameras: 16 azimuths at elevation 30 degrees, or random ones from 10 degrees below to 40 above."""
    num_views: int = 16
    """Cameras of the protocol random."""
    size: int = 256
    """Rows and columns of each view."""
    engine: Literal["fast", "cycles"] = "fast"
    """Ray casting for training data, or Blender's Cycles for evaluation."""
    samples: int | None = None
    """Rays a pixel; 4 for fast (a square number) and 128 for cycles when not given."""
    up: Literal["y", "z"] | None = None
    """The meshes' up axis, where it is not their file format's."""
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Render every mesh; scenes an interrupted run finished are kept."""
    check_range("--size", options.size, 8, 8192)

    from manyview.data.render.jobs import render_dataset

    summary = render_dataset(
        options.meshes,
        options.out,
        protocol=options.protocol,
        size=options.size,
        engine=options.engine,
        samples=options.samples,
        seed=options.output.seed,
        num_views=options.num_views,
        up=options.up,
        progress=progress,
        force=options.output.force,
    )
    counts = f"{len(summary.rendered)} scenes rendered to {options.out}, {len(summary.kept)} kept"
    failed = [f"failed: {line}" for line in summary.failed]
    data = {"command": "render", "out": str(options.out), **asdict(summary)}
    return Answer(data=data, text="\n".join([*failed, counts]))
