"""`manyview synth`: some views of an object into the missing ones."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from manyview.cli.capture import CaptureFlags, check_flags, run_capture
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
from manyview.cli.orbit_flags import OrbitFlags, check_orbit_flags
from manyview.cli.pair import run_pair
from manyview.cli.pair_flags import (
    ORBIT_FLAGS_SHARED,
    PRODUCT_FLAGS_SHARED,
    PairFlags,
    check_pair_flags,
)
from manyview.cli.photo import run_photo
from manyview.cli.products import ProductFlags, given_flags
from manyview.cli.progress import silence_loading
from manyview.cli.rig import choose_given, parse_slots, parse_targets, read_given
from manyview.cli.shell import Answer
from manyview.cli.sweep_flags import SWEEP_FLAGS_SHARED, SweepFlags
from manyview.cli.turn import run_turn
from manyview.errors import InputError
from manyview.methods import METHODS
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.progress import Progress
from manyview.weights import Bundle, open_bundle

if TYPE_CHECKING:
    from manyview.io.result import Result

SUMMARY = "Make the missing views of an object from the given ones; the result is a scene folder."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview synth`."""

    input: tyro.conf.Positional[Path | None] = None
    """An image, a folder of images, or a scene; for sparsefusion any posed capture (transforms.json, COLMAP,
    a CO3D sequence); for refiner gan:compact or gan:WEIGHTS too. Transparency counts as background. None with
    --prompt."""
    out: Path
    """Folder of the result."""
    method: str = "dimvis"
    """dimvis: the missing views of a rig, all at once. one2one: views at --targets, one by one. sparsefusion:
    views at any cameras, and a field, from 1 to 8 posed views. hi3d: from one photo an orbit at twice the
    resolution, splats and a textured mesh. tunet: views at --targets of one photo or view of a scene, which
    share one inversion of it. refiner: a generator's code, or a photo, turned to yaws, with cameras and
    points."""
    weights: str = "compact"
    """compact (in the package), a folder, or a hub id."""
    slots: str | None = None
    """Which places of the rig the images take, in their order, such as 0,2; without it by their cameras,
    else the first places. Of a scene that holds the whole rig: which of its views count as given. hi3d and
    tunet: which of a scene's views is the input."""
    split: int | None = None
    """Which train_test_split file of the scene says what is given, if it has several."""
    targets: str | None = None
    """Cameras to draw, for methods that need them: orbit:16, yaw:-40:40:9, or a transforms.json. sparsefusion
    and tunet without it: the scene's other cameras, else orbit:16; refiner: yaw:-40:40:9."""
    steps: int | None = None
    """Denoising steps (refiner: of refining); when not given, the choice that goes with the weights, else
    50."""
    guidance: float | None = None
    """Guidance strength (hi3d: the highest of a frame); when not given, the choice that goes with the
    weights."""
    solver: Literal["ddim", "dpm", "unipc", "plms"] | None = None
    """ddim is the papers', dpm and unipc need fewer steps; sparsefusion takes ddim or plms. When not given,
    the choice that goes with the weights, else ddim."""
    samples: int = 1
    """How many results to draw; with two or more, all and their spread are written as well."""
    products: Annotated[ProductFlags, tyro.conf.arg(name="")] = field(default_factory=ProductFlags)
    capture: Annotated[CaptureFlags, tyro.conf.arg(name="")] = field(default_factory=CaptureFlags)
    orbit: Annotated[OrbitFlags, tyro.conf.arg(name="")] = field(default_factory=OrbitFlags)
    pair: Annotated[PairFlags, tyro.conf.arg(name="")] = field(default_factory=PairFlags)
    sweep: Annotated[SweepFlags, tyro.conf.arg(name="")] = field(default_factory=SweepFlags)
    distill: DistillOptions = field(default_factory=DistillOptions)
    """sparsefusion --mode field: how the field is distilled."""
    compute: Annotated[ComputeFlags, tyro.conf.arg(name="")] = field(default_factory=ComputeFlags)
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Check everything that can be checked, load the weights, draw, and write the result."""
    slots = parse_slots(options.slots)
    if options.method == "refiner":
        check_output(options.out, allowed=options.output.force)
        check_range("--steps", options.steps, 1, 1000)
        _check_kind(options)
        return run_turn(options, progress)
    if options.input is not None:
        check_readable("INPUT", options.input)
    elif options.orbit.prompt is None:
        raise InputError("INPUT", "not given", "expected an image, a folder or a scene (or --prompt)")
    check_output(options.out, allowed=options.output.force)
    check_range("--steps", options.steps, 1, 1000)
    check_range("--guidance", options.guidance, 0, 100)
    check_range("--samples", options.samples, 1, 1000)
    if options.method not in METHODS:
        raise InputError("--method", options.method, f"expected one of {', '.join(METHODS)}")
    _check_kind(options)
    by_camera = importlib.import_module(f"manyview.methods.{options.method}.spec").NEEDS_CAMERAS
    if options.method == "sparsefusion":
        check_flags(options)
    elif options.method == "hi3d":
        check_orbit_flags(options)
    elif options.method == "tunet":
        check_pair_flags(options)
    else:
        _check_rig(options, by_camera)
    bundle = open_bundle(options.weights, options.method)
    check_memory(
        parameter_bytes(bundle.components.values(), options.compute.dtype), options.compute.max_memory
    )
    if options.method == "hi3d":
        return run_photo(options, bundle, _resolution(bundle), slots, progress)
    if options.method == "tunet":
        return run_pair(options, bundle, _resolution(bundle), slots, progress)
    assert options.input is not None, "only hi3d takes words"
    if options.method == "sparsefusion":
        return run_capture(options, bundle, options.input, _resolution(bundle), progress)
    views = read_given(options.input, _resolution(bundle), options.split)
    targets = None
    if by_camera:
        given = None if views.cameras is None else views.cameras[views.observed]
        targets = parse_targets(options.targets or "", given, _resolution(bundle))
    else:
        views, slots = choose_given(views, slots, _num_views(bundle))
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)

    from manyview.methods import load

    silence_loading()
    pipeline = load(options.method, options.weights, device, dtype)
    if hasattr(pipeline, "estimate_memory"):
        check_memory(pipeline.estimate_memory(options.samples), options.compute.max_memory)
    shared: dict[str, Any] = {
        "seed": options.output.seed,
        "num_steps": options.steps,
        "solver": options.solver,
    }
    if targets is not None:
        if options.guidance is not None:
            shared["guidance"] = options.guidance
        result: Result = pipeline(views, targets, **shared)
    else:
        shared |= {"guidance": options.guidance, "num_samples": options.samples, "progress": progress}
        result = pipeline(views, slots=slots, **shared)
    result = replace(result, manifest={**result.manifest, "input": str(options.input)})
    result.save(options.out, options.output.force)
    return Answer(
        data={
            "command": "synth",
            "out": str(options.out),
            "views": len(result.views),
            "observed": result.views.observed.nonzero()[:, 0].tolist(),
            "manifest": dict(result.manifest),
        },
        text=f"wrote {len(result.views)} views to {options.out}; see {options.out / 'sheet.png'}",
    )


def _check_kind(options: Options) -> None:
    """Raise `InputError` for flags that are another method's."""
    groups: list[tuple[list[str], set[str], dict[str, Collection[str]]]] = [
        (
            given_flags(options.products),
            {"sparsefusion", "hi3d", "refiner"},
            {"tunet": PRODUCT_FLAGS_SHARED},
        ),
        (given_flags(options.capture), {"sparsefusion"}, {}),
        (["--distill"] if options.distill != DistillOptions() else [], {"sparsefusion"}, {}),
        (
            given_flags(options.orbit),
            {"hi3d"},
            {"tunet": ORBIT_FLAGS_SHARED, "refiner": SWEEP_FLAGS_SHARED},
        ),
        (given_flags(options.pair), {"tunet"}, {}),
        (given_flags(options.sweep), {"refiner"}, {}),
    ]
    for flags, owners, shared in groups:
        for flag in flags:
            able = owners | {method for method, some in shared.items() if flag in some}
            if options.method not in able:
                accepted = f"{options.method} has no such choice; {' and '.join(sorted(able))}"
                raise InputError(flag, "given", accepted + (" do" if len(able) > 1 else " does"))


def _check_rig(options: Options, by_camera: bool) -> None:
    """Raise `InputError` for flags of another kind of method: a rig's slots, target cameras."""
    if not by_camera and options.targets is not None:
        accepted = f"{options.method} takes none, its rig decides; a method such as one2one does"
        raise InputError("--targets", options.targets, accepted)
    if by_camera:
        if options.targets is None:
            accepted = f"{options.method} needs orbit:16, yaw:-40:40:9 or a transforms.json"
            raise InputError("--targets", "not given", accepted)
        if options.slots is not None:
            raise InputError("--slots", options.slots, f"{options.method} has no rig; give --targets alone")
        if options.samples != 1:
            accepted = f"{options.method} draws one; change --seed for another"
            raise InputError("--samples", options.samples, accepted)


def _resolution(bundle: Bundle) -> int:
    """Pixels a side of the views the weights make."""
    return int(bundle.settings.get("resolution") or _component_config(bundle, "vae")["sample_size"])


def _num_views(bundle: Bundle) -> int:
    """Slots of the rig the weights were trained for."""
    return math.prod(_component_config(bundle, "conditioner")["grid"])


def _component_config(bundle: Bundle, name: str) -> dict[str, Any]:
    """A component's configuration, read without loading its weights."""
    if name not in bundle.components:
        raise InputError("--weights", bundle.name, f"holds no {name}")
    return json.loads((bundle.components[name] / "config.json").read_text(encoding="utf-8"))
