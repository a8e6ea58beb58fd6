"""Flags of `manyview synth --method hi3d` and what can be said about them before anything loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manyview.cli.flags import check_range, check_readable
from manyview.errors import InputError
from manyview.weights import Bundle

if TYPE_CHECKING:
    from manyview.cli.synth import Options

_ELEVATIONS = "expected degrees from -90 to 90, auto or sweep"


@dataclass(frozen=True, kw_only=True)
class OrbitFlags:
    """Flags of `manyview synth` for hi3d, some of them for tunet too."""

    elevation: str = "auto"
    """hi3d, tunet: degrees from which the photo was taken, positive from above; auto: the scene's camera,
    else a small network's estimate (tunet: else 30); sweep (hi3d): the elevation at which the first stage is
    surprised least."""
    mask: Path | None = None
    """hi3d, tunet: a mask of the photo, white where the object is."""
    fill: float | None = None
    """hi3d, tunet: share of the frame that the object's longer side is to cover; as in training when not
    given."""
    guidance_shape: Literal["linear", "triangular", "constant"] | None = None
    """hi3d: how guidance goes over the orbit: to its end, to its far side and back, or the same everywhere;
    when not given, the choice that goes with the weights."""
    refine: bool = True
    """hi3d: the second stage, to twice the resolution, where the weights have it."""
    refine_steps: int | None = None
    """hi3d: denoising steps of the second stage; when not given, the choice that goes with the weights."""
    refine_guidance: float | None = None
    """hi3d: highest guidance in the second stage; when not given, the choice that goes with the weights."""
    blend: Literal["on", "off"] | None = None
    """hi3d: pull the second stage's first steps to the coarse orbit; when not given, the choice that goes
    with the weights."""
    depth: bool = True
    """hi3d: show the second stage the depth of the coarse orbit."""
    interpolated: int = 16
    """hi3d: views of the splats between those of the orbit that the mesh is fitted to as well."""
    lift_steps: int | None = None
    """hi3d: steps of each fit, of splats and of the surface; as `manyview reconstruct` when not given."""
    prompt: str | None = None
    """hi3d: words instead of a photo; --text-model draws one. Ask for a plain white background, or give
    --masks rembg. tunet: words for the new views, for weights whose base takes text."""
    text_model: str | None = None
    """hi3d: a text-to-image pipeline of diffusers for --prompt, a folder or a hub id."""
    offload: Literal["none", "model", "layer"] = "none"
    """hi3d, on a GPU: keep only the network (model) or the layer at work there; slower, less memory."""


def check_orbit_flags(options: Options) -> None:
    """Raise `InputError` for flags that do not go together."""
    flags, wanted = options.orbit, options.products.to
    parse_elevation(flags.elevation)
    check_range("--fill", flags.fill, 0.01, 1)
    check_range("--refine-steps", flags.refine_steps, 1, 1000)
    check_range("--refine-guidance", flags.refine_guidance, 0, 100)
    check_range("--interpolated", flags.interpolated, 0, 1000)
    check_range("--lift-steps", flags.lift_steps, 1, 1_000_000)
    if "field" in wanted:
        raise InputError("--to", "field", "hi3d makes none; expected splats, mesh, video or views")
    if "views" in wanted and len(set(wanted)) > 1:
        raise InputError("--to", "views", "means nothing beside the views; expected it alone")
    if "video" in wanted and not {"splats", "mesh"} & set(wanted):
        raise InputError("--to", "video", "shows splats or the mesh; expected one of them as well")
    for name, value in (("--targets", options.targets), ("--solver", options.solver)):
        if value is not None:
            raise InputError(name, value, "hi3d has no such choice; its orbit is fixed")
    for name, value in (("--refine-steps", flags.refine_steps), ("--refine-guidance", flags.refine_guidance)):
        if value is not None and not flags.refine:
            raise InputError(name, value, "is for the second stage, which --no-refine leaves out")
    if flags.mask is not None:
        check_readable("--mask", flags.mask)
        if options.products.masks != "auto":
            raise InputError(
                "--mask", str(flags.mask), f"given together with --masks {options.products.masks}"
            )
    if flags.prompt is not None:
        if options.input is not None:
            raise InputError("--prompt", flags.prompt, "given together with INPUT; expected one of them")
        if flags.text_model is None:
            raise InputError("--text-model", "not given", "--prompt needs a text-to-image pipeline")
        if flags.mask is not None:
            raise InputError("--mask", str(flags.mask), "is for a photo, not for --prompt")
    elif flags.text_model is not None:
        raise InputError("--text-model", flags.text_model, "is for --prompt")


def check_bundle(flags: OrbitFlags, bundle: Bundle) -> None:
    """Raise `InputError` for what these weights cannot do, before any loads."""
    parts = bundle.components
    if "refiner" not in parts:
        for name, value in (
            ("--refine-steps", flags.refine_steps),
            ("--refine-guidance", flags.refine_guidance),
            ("--blend", flags.blend),
        ):
            if value is not None:
                raise InputError(name, value, "these weights have no second stage")
    elif flags.refine and flags.depth and "depth" not in parts and _depth_channels(parts["refiner"]):
        line = "has no network for depth, which its second stage reads; give --no-depth or --no-refine"
        raise InputError("--weights", bundle.name, line)


def parse_elevation(text: str) -> float | Literal["auto", "sweep"]:
    """Degrees, or how to find them. Raises `InputError` for anything else."""
    if text in ("auto", "sweep"):
        return text
    try:
        degrees = float(text)
    except ValueError:
        raise InputError("--elevation", text, _ELEVATIONS) from None
    if not -90 <= degrees <= 90:
        raise InputError("--elevation", text, _ELEVATIONS)
    return degrees


def _depth_channels(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config["in_channels"]) - 2 * int(config["out_channels"])
