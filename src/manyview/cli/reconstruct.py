"""`manyview reconstruct`: posed views into splats, a field, or a textured mesh."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from manyview.cli.flags import (
    OutputFlags,
    check_memory,
    check_output,
    check_range,
    check_readable,
    parse_bytes,
)
from manyview.cli.products import TURNTABLE_FPS, open_stages, splat_device
from manyview.cli.rig import choose_split
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.lift.field.options import FieldOptions
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from manyview.lift.reconstruction import Reconstruction

SUMMARY = "Lift posed views to 3D: splats, a neural field, or a textured mesh; the result is a scene folder."

Also = Literal["splat", "spz", "obj", "ply"]
_ALSO = {"splats": ("splat", "spz"), "field": (), "mesh": ("obj", "ply")}
_Seeded = TypeVar("_Seeded", SplatOptions, FieldOptions, SdfOptions)
# Measured: peaks of runs at several sizes and numbers of views, see docs/lift.md.
_BASE_BYTES = {"splats": 700_000_000, "field": 1_700_000_000, "mesh": 2_000_000_000}
_BYTES_A_READ_PIXEL = 48
_BYTES_A_PIXEL = 100
_SIDES = (1024, 768, 512, 384, 256, 192, 128)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview reconstruct`."""

    scene: tyro.conf.Positional[Path]
    """A scene with cameras, or the result of another command. Transparency counts as background."""
    to: Literal["splats", "field", "mesh"]
    """splats: splats.ply. field: field.safetensors and points.ply. mesh: mesh.glb, textured."""
    out: Path
    """Folder of the result."""
    use: Literal["auto", "given", "all"] = "auto"
    """Which views to fit: those the scene's split gives (the others are held out for the scores), or all
    with an image. auto: all of a result that another command made, else the given."""
    split: int | None = None
    """Which train_test_split file of the scene says what is given, if it has several."""
    made_weight: float = 1.0
    """Weight of views that a method made, against 1 for given ones."""
    interpolate: int = 0
    """Mesh and field: also fit this many views that splats, fitted first, show between the cameras."""
    interpolated_weight: float = 0.25
    """Weight of those views."""
    truth: Path | None = None
    """A scene with real images (and mesh.glb) to score against; by default what the scene itself holds."""
    turntable: int = 48
    """Frames of turntable.mp4; 0 for none."""
    also: tuple[Also, ...] = ()
    """Further files: splat, spz (of splats), obj, ply (of a mesh)."""
    splat_axes: Literal["world", "rdf"] = "world"
    """Axes in splat files: the scene's (z up), or right-down-forward, upright in some viewers."""
    max_side: int | None = None
    """Larger images are averaged down to this longer side; 1024, or what --max-memory allows, when not
    given."""
    splats: SplatOptions = dataclasses.field(default_factory=SplatOptions)
    """For --to splats, and for --interpolate."""
    field: FieldOptions = dataclasses.field(default_factory=FieldOptions)
    """For --to field."""
    sdf: SdfOptions = dataclasses.field(default_factory=SdfOptions)
    """For --to mesh: the surface."""
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    """For --to mesh: triangles and texture."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where splats are fitted; auto takes a CUDA GPU if there is one with gsplat. The rest is on the CPU."""
    max_memory: str | None = None
    """Keep the estimated peak below this, for example 4GB, by smaller images; refuse where that is not
    enough."""
    resume: bool = False
    """Go on with a stopped run of the same command: what it finished is not done again."""
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Check everything that can be checked, read, fit, score, and write the result."""
    check_readable("SCENE", options.scene)
    check_output(options.out, allowed=options.output.force)
    check_range("--turntable", options.turntable, 0, 10_000)
    check_range("--max-side", options.max_side, 16, 16_384)
    check_range("--made-weight", options.made_weight, 0, 1)
    for suffix in options.also:
        if suffix not in _ALSO[options.to]:
            accepted = f"--to {options.to} has " + (", ".join(_ALSO[options.to]) or "no further files")
            raise InputError("--also", suffix, accepted)
    if options.truth is not None:
        check_readable("--truth", options.truth)

    from manyview.bench import lift_task
    from manyview.io.manifest import build_manifest
    from manyview.io.result import Result
    from manyview.lift.reconstruction import ReconstructOptions, Stages, reconstruct

    begin = time.monotonic()
    chosen = ReconstructOptions(
        to=options.to,
        interpolate=options.interpolate,
        interpolated_weight=options.interpolated_weight,
        splats=_seeded(options.splats, options.output.seed),
        field=_seeded(options.field, options.output.seed),
        sdf=_seeded(options.sdf, options.output.seed),
        mesh=options.mesh,
    )
    chosen.check()
    split = choose_split(lift_task.scene_folder(options.scene), options.split)
    sizes = lift_task.frame_sizes(options.scene)
    max_side = choose_side(options, sizes)
    task = lift_task.read_task(
        options.scene,
        use=options.use,
        split=split,
        made_weight=options.made_weight,
        truth=options.truth,
        max_side=max_side,
    )
    stages = open_stages(options.out, lift_task.fingerprint(task, chosen), resume=options.resume)
    device = splat_device(options.device)
    views = replace(task.views, observed=task.fitted)
    made = reconstruct(views, chosen, progress, weights=task.weights, stages=Stages(stages), device=device)
    scene, drawn = lift_task.finish_views(task, made, progress)
    record = lift_task.score(task, made, drawn, seed=options.output.seed, progress=progress)
    frames = None
    if options.turntable:
        assert scene.cameras is not None, "the fit has checked"
        frames = lift_task.draw_turntable(made, scene.cameras, options.turntable, progress)
    record["seconds"] = made.seconds
    manifest = build_manifest(
        f"reconstruct {options.to}",
        options={**vars(chosen), "max_side": max_side, "use": options.use, "split": split},
        seed=options.output.seed,
        seconds=round(time.monotonic() - begin, 2),
        input=options.scene.resolve().name,
        fitted=task.fitted.nonzero()[:, 0].tolist(),
    )
    result = Result(
        views=scene,
        splats=made.splats if options.to == "splats" else None,
        mesh=made.mesh,
        manifest=manifest,
        metrics=record,
    )
    result.save(
        options.out, options.output.force, also=lambda folder: _write_more(folder, options, made, frames)
    )
    shutil.rmtree(stages, ignore_errors=True)
    data = {
        "command": "reconstruct",
        "to": options.to,
        "out": str(options.out),
        **record,
    }
    shrunk = max(task.views.size) < max(max(size) for size in sizes)
    lines = [f"images averaged down to {max(task.views.size)} pixels (--max-side)"] if shrunk else []
    lines += [
        lift_task.describe(record),
        f"wrote {options.out}; look at it with: manyview view {options.out}",
    ]
    return Answer(data={**data, "manifest": dict(manifest)}, text="\n".join(lines))


def _write_more(folder: Path, options: Options, made: Reconstruction, frames: Tensor | None) -> None:
    """The files of the product that a result has no place for."""
    from manyview.io.mesh_files import write_mesh, write_points
    from manyview.io.splat_files import write_splats
    from manyview.io.video import write_mp4
    from manyview.lift.field.points import seen_points
    from manyview.lift.volume_files import Volume, write_volume

    if made.kind == "splats":
        assert made.splats is not None, "splats were asked for"
        arrays = made.splats.to_arrays()
        for suffix in ("ply", *options.also):
            write_splats(folder / f"splats.{suffix}", arrays, axes=options.splat_axes)
    elif made.kind == "field":
        assert isinstance(made.field, Volume), "fits give one of these"
        write_volume(folder / "field.safetensors", made.field)
        write_points(folder / "points.ply", *seen_points(made.field, made.cameras))
    else:
        assert made.mesh is not None, "a mesh was asked for"
        for suffix in options.also:
            write_mesh(folder / f"mesh.{suffix}", made.mesh)
    if frames is not None:
        write_mp4(frames, folder / "turntable.mp4", TURNTABLE_FPS)


def _seeded(options: _Seeded, seed: int) -> _Seeded:
    """`options` with the command's seed, unless they have one of their own."""
    return options if options.seed else replace(options, seed=seed)


def choose_side(options: Options, sizes: list[tuple[int, int]]) -> int:
    """The longer side images are averaged down to. Raises `InputError` where even the smallest needs more
    memory than allowed."""
    limit = options.max_memory
    if options.max_side is not None:
        check_memory(estimate_bytes(options.to, sizes, options.max_side), limit)
        return options.max_side
    fitting = [
        side
        for side in _SIDES
        if limit is None or estimate_bytes(options.to, sizes, side) <= parse_bytes(limit)
    ]
    if not fitting:
        check_memory(estimate_bytes(options.to, sizes, _SIDES[-1]), limit)
    return fitting[0]


def estimate_bytes(
    kind: Literal["splats", "field", "mesh"], sizes: list[tuple[int, int]], max_side: int
) -> int:
    """About the peak memory of a run: the libraries and the volume, one image as it is read, and all images
    in the copies a fit and its scores hold."""
    largest = max(height * width for height, width in sizes)
    shrunk = sum(
        round(height * width * min(1.0, max_side / max(height, width)) ** 2) for height, width in sizes
    )
    return _BASE_BYTES[kind] + largest * _BYTES_A_READ_PIXEL + shrunk * _BYTES_A_PIXEL
