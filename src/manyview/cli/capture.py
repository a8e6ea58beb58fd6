"""`manyview synth` for methods that take any posed capture: read, place, check, make, bring back."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from manyview.cli.flags import check_memory, check_range, torch_device, torch_dtype
from manyview.cli.products import TURNTABLE_FPS, TURNTABLE_FRAMES, Product
from manyview.cli.progress import silence_loading
from manyview.cli.rig import choose_split, parse_targets
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.progress import Progress
from manyview.weights import Bundle

if TYPE_CHECKING:
    from manyview.cli.synth import Options
    from manyview.methods.sparsefusion.capture import Prepared
    from manyview.methods.sparsefusion.pipeline import FieldResult, SparseFusionPipeline
    from manyview.methods.sparsefusion.vldm import VldmSolver
    from manyview.types import Cameras


@dataclass(frozen=True, kw_only=True)
class CaptureFlags:
    """Flags of `manyview synth` for sparsefusion alone."""

    mode: Literal["field", "vldm", "eft"] = "field"
    """sparsefusion: views of a field distilled from both networks, or of one network alone."""
    given: int | None = None
    """sparsefusion: so many of the observed frames, spread evenly; when not given all, of more than 8, 8."""
    rows: int | None = None
    """sparsefusion --mode eft: rays along a side of a view, enlarged to it; all its pixels when not given."""
    attention: bool = False
    """sparsefusion: also epipolar.png and attention_depth.png, where the first view made was looked for."""
    check: bool = True
    """sparsefusion: look for wrong cameras and pictures of two objects, and warn."""


def check_flags(options: Options) -> None:
    """Raise `InputError` for flags that do not go together."""
    flags, wanted = options.capture, options.products.to
    check_range("--given", flags.given, 1, 8)
    check_range("--rows", flags.rows, 2, 4096)
    if flags.mode != "field":
        kinds = [kind for kind in wanted if kind != "views"]
        if kinds:
            accepted = "needs --mode field; manyview reconstruct lifts the views of the other modes"
            lifted = [kind for kind in kinds if kind != "video"]
            raise InputError("--to", (lifted or kinds)[0], accepted)
        if options.distill != DistillOptions():
            raise InputError("--distill", f"with --mode {flags.mode}", "is for --mode field")
    if flags.rows is not None and flags.mode != "eft":
        raise InputError("--rows", flags.rows, "is for --mode eft (--distill.rows for --mode field)")
    for name, value in (("--slots", options.slots), ("--samples", options.samples != 1 or None)):
        if value is not None:
            raise InputError(name, "given", f"{options.method} has no rig and draws one; change --seed")
    if options.solver in ("dpm", "unipc"):
        raise InputError("--solver", options.solver, f"expected ddim or plms with {options.method}")
    options.distill.check()


def run_capture(options: Options, bundle: Bundle, path: Path, resolution: int, progress: Progress) -> Answer:
    """The work of `manyview synth --method sparsefusion` after the checks of `check_flags`."""
    from manyview.io.capture import open_capture
    from manyview.methods import load
    from manyview.methods.sparsefusion.capture import prepare

    flags, lifting, begun = options.capture, options.products, time.monotonic()
    folder = path.parent if path.is_file() else path
    capture = open_capture(path, split=choose_split(folder, options.split))
    prepared = prepare(
        capture,
        resolution,
        num_given=flags.given,
        masks=lifting.masks,
        check=flags.check,
        progress=progress,
    )
    for finding in prepared.findings:
        print(f"manyview: warning: {finding.line}", file=sys.stderr)
    targets, source = choose_targets(options.targets, prepared, resolution)
    stages = options.out.absolute().parent / f".{options.out.name}.distill"
    if not lifting.resume:
        shutil.rmtree(stages, ignore_errors=True)
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)
    silence_loading()
    pipeline: SparseFusionPipeline = load(options.method, options.weights, device, dtype)
    check_memory(pipeline.estimate_memory(len(prepared.views)), options.compute.max_memory)
    result = pipeline(
        prepared.views,
        targets,
        mode=flags.mode,
        seed=options.output.seed,
        num_steps=options.steps,
        solver=cast("VldmSolver | None", options.solver),
        guidance=options.guidance,
        # Flags left alone leave the choice to the weights.
        options=options.distill if options.distill != DistillOptions() else None,
        rows=flags.rows,
        depths=flags.attention,
        checkpoint=stages if flags.mode == "field" else None,
        progress=progress,
    )
    result = _in_the_captures_world(result, prepared)
    made = _make_products(result, prepared, options, progress)
    pictures = _attention(pipeline, prepared, targets) if flags.attention else {}
    manifest: dict[str, Any] = {
        **result.manifest,
        "input": str(path),
        "capture": {**prepared.record, "targets": source},
        "products": sorted(set(lifting.to)),
        "seconds": round(time.monotonic() - begun, 2),
    }
    result = dataclasses.replace(
        result,
        manifest=manifest,
        splats=made.get("splats"),
        mesh=made.get("mesh"),
    )
    result.save(
        options.out,
        options.output.force,
        also=lambda place: _write_more(place, result, made, pictures, lifting.to),
    )
    shutil.rmtree(stages, ignore_errors=True)
    count = len(result.views)
    given = len(prepared.views)
    return Answer(
        data={
            "command": "synth",
            "out": str(options.out),
            "views": count,
            "observed": list(range(given)),
            "warnings": [finding.line for finding in prepared.findings],
            "manifest": manifest,
        },
        text=f"wrote {given} given and {count - given} made views to {options.out}; see sheet.png there",
    )


def choose_targets(text: str | None, prepared: Prepared, resolution: int) -> tuple[Cameras, str]:
    """The cameras to make views for, in the networks' world and framed as the given ones, and what they are.

    Without `text`: the capture's other cameras, else `orbit:16` through the first given one. Circles and
    sweeps turn about the capture's up axis. Raises `InputError` for anything else than `parse_targets` takes.
    """
    import torch

    from manyview.geometry.normalization import Similarity
    from manyview.io.transforms import read_transforms
    from manyview.methods.sparsefusion.placement import rotation_to_z

    if text is None and len(prepared.others):
        return prepared.others, "the capture's other cameras"
    text = text or "orbit:16"
    placement = prepared.placement
    if not text.startswith(("orbit:", "yaw:")) and Path(text).exists():
        asked = read_transforms(text).cameras.to(torch.float64)
        moved = placement.similarity.apply_to_cameras(asked)
    else:
        assert prepared.views.cameras is not None, "prepared views have cameras"
        turn = Similarity(1.0, rotation_to_z(prepared.up), torch.zeros(3, dtype=torch.float64))
        reference = turn.apply_to_cameras(prepared.views.cameras.to(torch.float64))
        circle = parse_targets(text, reference, resolution).to(torch.float64)
        moved = turn.inverse().apply_to_cameras(circle)
    return placement.frame(moved, resolution).to(torch.float32), text


def _in_the_captures_world(result: FieldResult, prepared: Prepared) -> FieldResult:
    placement = prepared.placement
    field = None if result.field is None else placement.field_back(result.field)
    return dataclasses.replace(result, views=placement.views_back(result.views), field=field)


def _make_products(
    result: FieldResult, prepared: Prepared, options: Options, progress: Progress
) -> dict[str, Any]:
    """Splats, mesh and the frames of a turn, where asked for, in the capture's world."""
    wanted = set(options.products.to) & {"splats", "mesh", "video"}
    if not wanted or result.field is None:
        return {}
    from manyview.methods.sparsefusion.products import look_around, make_mesh, make_splats, turntable

    seed = options.output.seed
    given = result.views[result.views.observed]
    made: dict[str, Any] = {}
    seen = look_around(result.field, given, seed=seed)
    if "mesh" in wanted:
        made["mesh"] = make_mesh(seen, progress=progress, seed=seed)
    if "splats" in wanted:
        made["splats"] = make_splats(seen, progress=progress, seed=seed)
    if "video" in wanted:
        import torch

        assert given.cameras is not None, "made with cameras"
        center = prepared.placement.similarity.inverse().apply_to_points(torch.zeros(3, dtype=torch.float64))
        made["frames"] = turntable(
            result.field, given.cameras, center, prepared.up, TURNTABLE_FRAMES, progress
        )
    return made


def _attention(pipeline: SparseFusionPipeline, prepared: Prepared, targets: Cameras) -> dict[str, Any]:
    from manyview.methods.sparsefusion.products import attention_pictures

    points, depth = attention_pictures(pipeline.teacher, prepared.views, targets[0])
    return {"epipolar": points, "attention_depth": depth}


def _write_more(
    folder: Path,
    result: FieldResult,
    made: dict[str, Any],
    pictures: dict[str, Any],
    wanted: Sequence[Product],
) -> None:
    from manyview.io.images import write_png
    from manyview.io.video import write_mp4
    from manyview.lift.volume_files import write_volume

    if "field" in wanted and result.field is not None:
        write_volume(folder / "field.safetensors", result.field)
    if "frames" in made:
        write_mp4(made["frames"], folder / "turntable.mp4", TURNTABLE_FPS)
    for name, picture in pictures.items():
        write_png(folder / f"{name}.png", picture)
