"""`manyview synth --method refiner`: a generator's code, or a photo, turned; views, cameras and points."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.cli.flags import check_memory, parameter_bytes, torch_device, torch_dtype
from manyview.cli.products import open_stages
from manyview.cli.progress import silence_loading
from manyview.cli.shell import BAD_INPUT, DONE, Answer
from manyview.cli.sweep_flags import PREFIX, TARGETS, check_sweep_flags, parse_yaws
from manyview.errors import InputError
from manyview.progress import Progress
from manyview.weights import Bundle, open_bundle

if TYPE_CHECKING:
    from manyview.cli.synth import Options
    from manyview.methods.refiner.pipeline import RefinerPipeline, SweepResult
    from manyview.types import Views

POINTS_NAME, COLMAP_NAME, CODES_NAME = "points.ply", "colmap.ply", "codes.safetensors"


def run_turn(options: Options, progress: Progress) -> Answer:
    """Check everything that can be checked, load the weights, turn, and write the result."""
    weights = check_sweep_flags(options)
    yaws = parse_yaws(options.targets or TARGETS)
    bundle = open_bundle(weights, "refiner")
    refines = options.orbit.refine and "refiner" in bundle.components
    if options.steps is not None and not refines:
        raise InputError("--steps", options.steps, "is for refining, which is left out")
    check_memory(
        parameter_bytes(bundle.components.values(), options.compute.dtype), options.compute.max_memory
    )
    if options.sweep.colmap:
        _require_colmap()
    begun = time.monotonic()
    photo = _read_photo(options, bundle)
    boundary = None
    if options.sweep.attribute is not None:
        from manyview.methods.refiner.attributes import Boundary

        boundary = Boundary.load(options.sweep.attribute)
    from manyview.methods import load

    silence_loading()
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)
    pipeline: RefinerPipeline = load("refiner", weights, device, dtype)
    views, framing, stages = None, None, None
    if photo is not None:
        views, framing = photo
        key = _fingerprint(options, bundle, views)
        stages = open_stages(options.out, key, resume=options.products.resume)
    result: SweepResult = pipeline(
        views,
        targets=yaws,
        seed=options.output.seed,
        truncation=options.sweep.truncation,
        facing=options.sweep.facing,
        refine=refines,
        num_steps=options.steps,
        attribute=None if boundary is None else (boundary, options.sweep.attribute_amount),
        points=options.sweep.points,
        mesh="mesh" in options.products.to,
        inversion=_inversion(options),
        perceptual=None if photo is None else _perceptual(pipeline),
        state=None if stages is None else stages / "inversion.safetensors",
        progress=progress,
    )
    colmap = _colmap(result) if options.sweep.colmap else None
    manifest = {
        **result.manifest,
        "input": str(options.input),
        **({} if framing is None else {"framing": framing}),
        "products": {
            "points": None if result.points is None else len(result.points),
            "failed": result.failed,
        },
        "seconds": round(time.monotonic() - begun, 2),
    }
    final = dataclasses.replace(result, manifest=manifest)
    final.save(options.out, options.output.force, also=lambda folder: _write_more(folder, result, colmap))
    if stages is not None:
        shutil.rmtree(stages, ignore_errors=True)
    return _answer(options, final, refines)


def _answer(options: Options, result: SweepResult, refines: bool) -> Answer:
    reached = [round(float(yaw), 1) for yaw in result.yaw_deg]
    warnings = [f"points: {result.failed}"] if result.failed else []
    for line in warnings:
        print(f"manyview: error: {line}; the views are written all the same", file=sys.stderr)
    lines = [f"yaw reached: {' '.join(f'{yaw:g}' for yaw in reached)} degrees"]
    if options.orbit.refine and not refines:
        lines.append("these weights have no refiner: the codes are turned, not refined")
    if result.inversion is not None:
        lines.append(f"photo found again at {result.inversion.psnr_db:.1f} dB")
    lines.append(
        f"wrote {len(result.views)} views to {options.out}; look at them with: manyview view {options.out}"
    )
    return Answer(
        data={
            "command": "synth",
            "out": str(options.out),
            "views": len(result.views),
            "observed": result.views.observed.nonzero()[:, 0].tolist(),
            "yaw_deg": reached,
            "points": 0 if result.points is None else len(result.points),
            "warnings": warnings,
            "manifest": dict(result.manifest),
        },
        text="\n".join(lines),
        code=BAD_INPUT if result.failed else DONE,
    )


def _read_photo(options: Options, bundle: Bundle) -> tuple[Views, dict[str, Any]] | None:
    """The photo, framed as training pictures are, and the record of it; None for a code."""
    assert options.input is not None, "checked with the flags"
    if str(options.input).startswith(PREFIX):
        return None
    from manyview.data.given import read_given_view

    config = bundle.components["generator"] / "config.json" if "generator" in bundle.components else None
    if config is None:
        raise InputError("--weights", bundle.name, "holds no generator")
    size = int(json.loads(config.read_text(encoding="utf-8"))["resolution"])
    given = read_given_view(options.input, mask=options.orbit.mask)
    return given.frame(size, masks=options.products.masks, fill=options.orbit.fill)


def _inversion(options: Options) -> Any:
    from manyview.methods.refiner.inversion import InversionOptions

    return InversionOptions(steps=options.sweep.invert_steps)


def _perceptual(pipeline: RefinerPipeline) -> Any:
    """The shift-tolerant perceptual distance, where its package is installed and pictures are large
    enough."""
    from manyview.metrics.perceptual import PerceptualDistance, load_stlpips

    distance = load_stlpips("alex")
    if not isinstance(distance, PerceptualDistance) or pipeline.resolution < distance.minimum_side:
        return None
    return distance.to(pipeline.device)


def _fingerprint(options: Options, bundle: Bundle, views: Views) -> str:
    """A hash of everything that the inversion depends on."""
    told = [bundle.sha256, options.sweep.invert_steps, options.output.seed, options.compute.dtype]
    total = hashlib.sha256(json.dumps(told).encode())
    total.update(views.over(1.0).contiguous().numpy().tobytes())
    return total.hexdigest()


def _require_colmap() -> None:
    import importlib.util

    if importlib.util.find_spec("pycolmap") is None:
        raise InputError("--colmap", "given", "needs pycolmap: pip install pycolmap")


def _colmap(result: SweepResult) -> Any:
    from manyview.methods.refiner.surface import colmap_points

    return colmap_points(result.views)


def _write_more(folder: Path, result: SweepResult, colmap: Any) -> None:
    from safetensors.torch import save

    from manyview.io.atomic import write_bytes_atomic
    from manyview.io.mesh_files import write_points

    tensors = {"codes": result.codes, "source": result.source, "yaw_deg": result.yaw_deg}
    stored = save({name: value.contiguous().clone() for name, value in tensors.items()})
    write_bytes_atomic(folder / CODES_NAME, stored)
    if result.points is not None and result.colors is not None:
        write_points(folder / POINTS_NAME, result.points, result.colors)
    if colmap is not None:
        write_points(folder / COLMAP_NAME, *colmap)
