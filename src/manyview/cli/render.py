"""`manyview render`: meshes or procedural objects into a data set of posed views."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from manyview.cli.flags import OutputFlags, check_range
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.progress import Progress

SUMMARY = "Render objects into a data set: scenes with cameras, RGBA views, depth and mesh, or packed views."

_PROCEDURAL = "procedural:"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview render`."""

    meshes: tyro.conf.Positional[tuple[Path, ...]]
    """Mesh files (glb, obj, ply), folders searched for them, or patterns; or procedural:FIRST:COUNT, made-up
    objects of COUNT seeds from FIRST on."""
    out: Path
    """Folder of the data set; one begun with the same options is gone on with."""
    protocol: Literal["orbit16", "orbit32", "random"] = "orbit16"
    """Cameras: 16 azimuths at elevation 30 degrees; orbit32 adds 16 between them that the split holds out; or
    random ones from 10 degrees below to 40 above."""
    num_views: int = 16
    """Cameras of the protocol random."""
    elevation: float = 30.0
    """Degrees above the horizon of the cameras of orbit16."""
    size: int = 256
    """Rows and columns of each view."""
    engine: Literal["fast", "cycles"] = "fast"
    """Ray casting for training data, or Blender's Cycles for evaluation."""
    samples: int | None = None
    """Rays a pixel; 4 for fast (a square number) and 128 for cycles when not given."""
    up: Literal["y", "z"] | None = None
    """The meshes' up axis, where it is not their file format's."""
    packed: bool = False
    """Write views over white alone, many objects in a file, for training at memory speed."""
    depths: bool = False
    """Packed: keep the views' depths too, a byte a pixel; scenes always have them."""
    turns: int = 0
    """Packed meshes: render each in so many random placements instead of as it is."""
    workers: int = 1
    """Packed: processes that render."""
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Render every object; what an interrupted run finished is kept."""
    check_range("--size", options.size, 8, 8192)
    check_range("--elevation", options.elevation, -90, 90)
    seeds = procedural_seeds(options.meshes)
    if seeds is not None and options.engine != "fast":
        raise InputError("--engine", options.engine, "procedural objects are drawn by fast alone")
    if seeds is not None and options.up is not None:
        raise InputError("--up", options.up, "is for mesh files; procedural objects stand on z")
    if options.packed:
        return _pack(options, seeds, progress)
    if options.turns:
        raise InputError("--turns", options.turns, "is for --packed; scenes show meshes as they are")
    if options.workers != 1:
        raise InputError("--workers", options.workers, "is for --packed; scenes are written one by one")
    if options.depths:
        raise InputError("--depths", options.depths, "is for --packed; scenes have depths anyway")

    from manyview.data.render.jobs import render_dataset, render_procedural

    shared: dict[str, Any] = {
        "protocol": options.protocol,
        "size": options.size,
        "samples": options.samples,
        "seed": options.output.seed,
        "num_views": options.num_views,
        "elevation_deg": options.elevation,
        "progress": progress,
        "force": options.output.force,
    }
    if seeds is not None:
        summary = render_procedural(seeds.start, len(seeds), options.out, **shared)
    else:
        summary = render_dataset(options.meshes, options.out, engine=options.engine, up=options.up, **shared)
    counts = f"{len(summary.rendered)} scenes rendered to {options.out}, {len(summary.kept)} kept"
    failed = [f"failed: {line}" for line in summary.failed]
    data = {"command": "render", "out": str(options.out), **asdict(summary)}
    return Answer(data=data, text="\n".join([*failed, counts]))


def procedural_seeds(sources: tuple[Path, ...]) -> range | None:
    """The seeds of `procedural:FIRST:COUNT`, None for meshes.

    Raises `InputError` for another form, for no objects, and where it does not stand alone.
    """
    words = [str(source) for source in sources if str(source).startswith(_PROCEDURAL)]
    if not words:
        return None
    if len(sources) > 1:
        raise InputError("MESHES", words[0], "expected no other source beside it in one data set")
    match = re.fullmatch(r"procedural:(\d{1,15}):(\d{1,8})", words[0])
    if match is None or int(match[2]) < 1:
        accepted = "expected procedural:FIRST:COUNT with a seed and a positive number, as procedural:0:1000"
        raise InputError("MESHES", words[0], accepted)
    return range(int(match[1]), int(match[1]) + int(match[2]))


def _pack(options: Options, seeds: range | None, progress: Progress) -> Answer:
    if options.protocol != "orbit16" or options.num_views != 16:
        shown = options.protocol if options.protocol != "orbit16" else options.num_views
        flag = "--protocol" if options.protocol != "orbit16" else "--num-views"
        raise InputError(flag, shown, "packed objects share one set of cameras; expected orbit16 and its 16")
    if options.engine != "fast":
        raise InputError("--engine", options.engine, "expected fast for packed views")
    if seeds is not None and options.turns:
        raise InputError("--turns", options.turns, "is for meshes; of procedural objects there are enough")
    if seeds is not None and options.output.seed:
        raise InputError("--seed", options.output.seed, "is for --turns; the objects' seeds are in FIRST")
    check_range("--turns", options.turns, 0, 100_000)
    check_range("--workers", options.workers, 1, 1024)

    from manyview.data.packed import PackedViews, pack_meshes, pack_procedural
    from manyview.data.render.jobs import find_meshes, samples_side
    from manyview.data.render.protocols import protocol_cameras

    cameras = protocol_cameras(options.protocol, options.size, elevation_deg=options.elevation)
    shared: dict[str, Any] = {
        "workers": options.workers,
        "supersample": samples_side(options.samples),
        "depths": options.depths,
        "force": options.output.force,
    }
    failed: tuple[str, ...] = ()
    if seeds is not None:
        asked = len(seeds)
        progress.start(asked, "objects")
        pack_procedural(options.out, seeds.start, asked, cameras, progress=progress.advance, **shared)
    else:
        meshes = find_meshes(options.meshes, outside=options.out)
        asked = len(meshes) * max(options.turns, 1)
        progress.start(asked, "objects")
        failed = pack_meshes(
            options.out,
            meshes,
            cameras,
            options.turns,
            options.output.seed,
            progress.advance,
            up=options.up,
            keep_going=True,
            **shared,
        )
        if len(failed) == len(meshes):
            raise InputError("MESHES", f"none of {len(meshes)} could be rendered", failed[0])
    progress.finish()
    objects = len(PackedViews(options.out, "--out"))
    if objects > asked:
        line = f"holds {objects} objects, of a longer run, where {asked} are asked for; give --force"
        raise InputError("--out", str(options.out), line)
    lines = [*(f"failed: {line}" for line in failed), f"{objects} packed objects in {options.out}"]
    data = {"command": "render", "out": str(options.out), "objects": objects, "failed": failed}
    return Answer(data=data, text="\n".join(lines))
