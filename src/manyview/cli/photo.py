"""`manyview synth --method hi3d`: a photo, a view of a scene, or words; an orbit, splats and a mesh."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from manyview.cli.flags import check_memory, parse_bytes, torch_device, torch_dtype
from manyview.cli.orbit_flags import OrbitFlags, check_bundle, parse_elevation
from manyview.cli.products import (
    TURNTABLE_FPS,
    TURNTABLE_FRAMES,
    open_stages,
    splat_device,
)
from manyview.cli.progress import silence_loading
from manyview.cli.reconstruct import estimate_bytes
from manyview.cli.shell import BAD_INPUT, DONE, Answer
from manyview.errors import InputError
from manyview.progress import Progress
from manyview.weights import Bundle

if TYPE_CHECKING:
    from torch import Tensor

    from manyview.cli.synth import Options
    from manyview.data.given import Given
    from manyview.methods.hi3d.pipeline import Hi3dPipeline, OrbitResult
    from manyview.methods.hi3d.products import Lift, Lifted

_DECODED_AT_ONCE = (8, 4, 2, 1)
_BASE_BYTES = 700_000_000
"""What the libraries take by themselves."""


def run_photo(
    options: Options, bundle: Bundle, resolution: int, slots: tuple[int, ...] | None, progress: Progress
) -> Answer:
    """The work of `manyview synth --method hi3d` after the checks of `orbit_flags.check_orbit_flags`."""
    from manyview.data.given import read_given_view
    from manyview.methods.hi3d.products import lift_options, lift_orbit
    from manyview.methods.hi3d.text import check_text_model

    flags, begun = options.orbit, time.monotonic()
    check_bundle(flags, bundle)
    if flags.offload != "none" and torch_device(options.compute.device).type != "cuda":
        raise InputError("--offload", flags.offload, "is for a GPU; on a CPU all is in one memory")
    refines = flags.refine and "refiner" in bundle.components
    plan = lift_options(interpolated=flags.interpolated, num_steps=flags.lift_steps, seed=options.output.seed)
    if slots is not None and len(slots) != 1:
        raise InputError("--slots", ",".join(map(str, slots)), "hi3d takes one view")
    size = 2 * resolution if refines else resolution
    if flags.prompt is not None:
        check_text_model(cast(str, flags.text_model))
        given = None
    else:
        assert options.input is not None, "checked by the command"
        given = read_given_view(
            options.input, mask=flags.mask, split=options.split, index=slots[0] if slots else None
        )
        _check_elevation(flags, given, bundle)
        given.frame(size, masks=options.products.masks, fill=flags.fill)  # refuses pictures without a mask
    at_once = _choose_chunk(options, bundle, resolution, refines)
    stages = open_stages(options.out, _fingerprint(options, bundle, given), resume=options.products.resume)
    result = _make_orbit(options, bundle, given, size, at_once, stages, progress)
    wanted = cast("set[Lifted]", set(options.products.to or ("splats", "mesh")) & {"splats", "mesh"})
    device = splat_device(options.compute.device)
    lift = lift_orbit(result.views, wanted, plan, stages=stages, device=device, progress=progress)
    frames = _turntable(lift, result, progress) if "video" in options.products.to else None
    manifest: dict[str, Any] = {
        **result.manifest,
        "input": str(options.input) if flags.prompt is None else flags.prompt,
        "products": {
            "made": sorted(kind for kind in wanted if kind not in lift.failed),
            "failed": lift.failed,
            "interpolated": flags.interpolated,
        },
        "seconds": round(time.monotonic() - begun, 2),
    }
    final = dataclasses.replace(
        result,
        splats=None if lift.splats is None else lift.splats.splats,
        mesh=None if lift.mesh is None else lift.mesh.mesh,
        manifest=manifest,
    )
    final.save(options.out, options.output.force, also=lambda folder: _write_more(folder, stages, frames))
    shutil.rmtree(stages, ignore_errors=True)
    return _answer(options, final, lift, refines)


def _answer(options: Options, result: OrbitResult, lift: Lift, refines: bool) -> Answer:
    warnings = [f"--to: {kind}: {line}" for kind, line in lift.failed.items()]
    for line in warnings:
        print(f"manyview: error: {line}; the views are written all the same", file=sys.stderr)
    elevation = result.elevation
    told = f"{elevation.degrees:.1f} degrees ({elevation.source})"
    height, _ = result.views.size
    lines = [f"elevation: {told}"]
    if options.orbit.refine and not refines:
        lines.append("these weights have no second stage: the views are not refined")
    lines.append(
        f"wrote {len(result.views)} views of {height} pixels to {options.out}; look at them with: "
        f"manyview view {options.out}"
    )
    return Answer(
        data={
            "command": "synth",
            "out": str(options.out),
            "views": len(result.views),
            "observed": [0],
            "elevation_deg": elevation.degrees,
            "warnings": warnings,
            "manifest": dict(result.manifest),
        },
        text="\n".join(lines),
        code=BAD_INPUT if lift.failed else DONE,
    )


def _check_elevation(flags: OrbitFlags, given: Given | None, bundle: Bundle) -> None:
    known = given is not None and given.elevation_deg is not None
    if flags.elevation == "auto" and not known and "elevation" not in bundle.components:
        line = "needs a camera or weights with a network for it; expected degrees, or sweep"
        raise InputError("--elevation", flags.elevation, line)


def _make_orbit(
    options: Options,
    bundle: Bundle,
    given: Given | None,
    size: int,
    at_once: int,
    stages: Path,
    progress: Progress,
) -> OrbitResult:
    """The orbit, that of a stopped run where there is one."""
    from manyview.methods.hi3d.kept import read_orbit, write_orbit

    kept = stages / "orbit.safetensors"
    if kept.is_file():
        return read_orbit(kept)
    from manyview.methods import load

    flags, output = options.orbit, options.output
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)
    silence_loading()
    if given is None:
        given = _drawn(options, stages, device, dtype)
        _check_elevation(flags, given, bundle)
    moved = device if flags.offload == "none" else torch_device("cpu")
    pipeline: Hi3dPipeline = load(options.method, options.weights, moved, dtype)
    if flags.offload != "none":
        offload = {"model": "enable_model_cpu_offload", "layer": "enable_sequential_cpu_offload"}
        getattr(pipeline, offload[flags.offload])(device=device)
    how = parse_elevation(flags.elevation)
    views, record = given.frame(size, masks=options.products.masks, fill=flags.fill)
    if isinstance(how, float):
        chosen = pipeline.find_elevation(views, how)
    elif how == "auto" and given.elevation_deg is not None:
        from manyview.methods.hi3d.elevation import Elevation

        chosen = Elevation(degrees=given.elevation_deg, source="camera")
    else:
        search = "sweep" if how == "sweep" else "estimate"
        chosen = pipeline.find_elevation(views, None, search, seed=output.seed, progress=progress)
    views, record = given.frame(
        size, elevation_deg=chosen.degrees, masks=options.products.masks, fill=flags.fill
    )
    result = pipeline(
        views,
        elevation_deg=chosen.degrees,
        seed=output.seed,
        num_steps=options.steps,
        guidance=options.guidance,
        guidance_shape=flags.guidance_shape,
        refine=flags.refine and pipeline.refiner is not None,
        refine_steps=flags.refine_steps,
        refine_guidance=flags.refine_guidance,
        blend=None if flags.blend is None else flags.blend == "on",
        depth=flags.depth,
        num_samples=options.samples,
        decode_at_once=at_once,
        progress=progress,
    )
    told = {**result.manifest["options"], "elevation": dataclasses.asdict(chosen)}
    manifest = {**result.manifest, "options": told, "framing": record}
    if flags.prompt is not None:
        manifest["text_model"] = flags.text_model
    result = dataclasses.replace(result, elevation=chosen, manifest=manifest)
    write_orbit(kept, result)
    return result


def _drawn(options: Options, stages: Path, device: Any, dtype: Any) -> Given:
    """The picture of the prompt, kept for the result too."""
    from manyview.data.given import Given
    from manyview.io.images import write_png
    from manyview.methods.hi3d.text import draw_text

    flags = options.orbit
    assert flags.prompt is not None, "checked by the command"
    assert flags.text_model is not None, "checked with the flags"
    image = draw_text(flags.prompt, flags.text_model, seed=options.output.seed, device=device, dtype=dtype)
    write_png(stages / "text.png", image)
    return Given(image=image, alpha=None, name="the picture of the prompt")


def _choose_chunk(options: Options, bundle: Bundle, resolution: int, refines: bool) -> int:
    """Frames in the codec at once: the most that fit, at most 8. Says what the run needs, and raises
    `InputError` where even one frame at a time needs more than allowed."""
    from manyview.methods.hi3d.memory import profile_bundle
    from manyview.methods.hi3d.networks import orbits_at_once

    limit, offload = options.compute.max_memory, options.orbit.offload != "none"
    allowed = math.inf if limit is None else parse_bytes(limit)
    silence_loading()
    profile = profile_bundle(
        bundle,
        resolution=resolution,
        dtype=torch_dtype(options.compute.dtype),
        refine=refines,
        depth=options.orbit.depth,
    )
    side = 2 * resolution if refines else resolution
    lift = 0 if set(options.products.to) == {"views"} else estimate_bytes("mesh", [(side, side)] * 16, side)
    at_once, needed, what = 1, 0, ""
    for at_once in _DECODED_AT_ONCE:
        plan = profile.plan(num_orbits=orbits_at_once(options.samples), at_once=at_once)
        needed = _BASE_BYTES + (plan.offloaded_peak if offload else plan.peak)
        what = f"{plan.worst(offload=offload).name}, {at_once} frames in the codec at once"
        if needed <= allowed:
            break
    if needed < lift:
        needed, what = lift, "the lift"
    print(f"manyview: about {needed / 1e9:.1f} GB at the peak ({what})", file=sys.stderr)
    check_memory(needed, limit)
    return at_once


def _fingerprint(options: Options, bundle: Bundle, given: Given | None) -> str:
    """A hash of everything that the steps of the run depend on."""
    from manyview.io.manifest import to_plain

    told = {
        "orbit": dataclasses.asdict(options.orbit),
        "masks": options.products.masks,
        "weights": bundle.sha256,
        "drawn": [options.steps, options.guidance, options.samples, options.output.seed],
        "compute": [options.compute.dtype, options.compute.device],
    }
    total = hashlib.sha256(json.dumps(to_plain(told), sort_keys=True).encode())
    if given is not None:
        for part in (given.image, given.alpha):
            if part is not None:
                total.update(part.contiguous().numpy().tobytes())
    return total.hexdigest()


def _turntable(lift: Lift, result: OrbitResult, progress: Progress) -> Tensor | None:
    from manyview.bench.lift_task import draw_turntable

    if lift.best is None:
        return None
    assert result.views.cameras is not None, "orbits have cameras"
    return draw_turntable(lift.best, result.views.cameras, TURNTABLE_FRAMES, progress)


def _write_more(folder: Path, stages: Path, frames: Tensor | None) -> None:
    from manyview.io.video import write_mp4

    if (stages / "text.png").is_file():
        shutil.copyfile(stages / "text.png", folder / "text.png")
    if frames is not None:
        write_mp4(frames, folder / "turntable.mp4", TURNTABLE_FPS)
