"""`manyview synth --method tunet`: a photo or a view of a scene, and cameras; a view for each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.cli.flags import torch_device, torch_dtype
from manyview.cli.orbit_flags import parse_elevation
from manyview.cli.pair_flags import check_bundle, chosen_candidates
from manyview.cli.progress import silence_loading
from manyview.cli.rig import choose_split, parse_targets, read_given
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.methods.tunet.spec import DEFAULT_ELEVATION_DEG
from manyview.progress import Progress
from manyview.weights import Bundle

if TYPE_CHECKING:
    from manyview.cli.synth import Options
    from manyview.types import Cameras, Views


def run_pair(
    options: Options, bundle: Bundle, resolution: int, slots: tuple[int, ...] | None, progress: Progress
) -> Answer:
    """The work of `manyview synth --method tunet` after the checks of `pair_flags.check_pair_flags`."""
    flags = options.pair
    check_bundle(options, bundle)
    candidates = chosen_candidates(flags, bundle)
    views, record = read_reference(options, resolution, slots)
    assert views.cameras is not None, "given or assumed"
    targets, source = choose_targets(options.targets, views, resolution)

    from manyview.methods import load
    from manyview.methods.tunet.pipeline import TunetPipeline, TunetResult

    silence_loading()
    device, dtype = torch_device(options.compute.device), torch_dtype(options.compute.dtype)
    pipeline: TunetPipeline = load(options.method, options.weights, device, dtype)
    result: TunetResult = pipeline(
        views,
        targets,
        seed=options.output.seed,
        t_star=flags.t_star,
        mean_steps=flags.mean_steps,
        refinements=flags.refinements,
        candidates=candidates,
        selection=flags.selection,
        class_id=flags.class_id,
        prompt=options.orbit.prompt,
        guidance=1.0 if options.guidance is None else options.guidance,
        progress=progress,
    )
    manifest: dict[str, Any] = {
        **result.manifest,
        "input": str(options.input),
        "reference": record,
        "targets": source,
    }
    dataclasses.replace(result, manifest=manifest).save(options.out, options.output.force)
    lines = [f"wrote {len(targets)} views beside the input to {options.out}; see {options.out / 'sheet.png'}"]
    if "elevation_deg" in record:
        lines.insert(0, f"elevation: {record['elevation_deg']:g} degrees ({record['camera']})")
    return Answer(
        data={
            "command": "synth",
            "out": str(options.out),
            "views": len(result.views),
            "observed": [0],
            "chosen": list(result.chosen),
            "manifest": manifest,
        },
        text="\n".join(lines),
    )


def read_reference(
    options: Options, size: int, slots: tuple[int, ...] | None
) -> tuple[Views, dict[str, Any]]:
    """The views of the input with cameras, one of them observed, and the record of that for the manifest.

    A scene's views keep their cameras. Of a photo, or a folder without cameras, the camera is assumed: on the
    orbit of the evaluation rig, azimuth 0, at --elevation. Raises `InputError` for input that cannot be read,
    where several views are observed and none is named, and for flags that such input does not take.
    """
    import torch

    from manyview.data.given import choose_view
    from manyview.io.scene import read_scene

    assert options.input is not None, "checked with the flags"
    path, orbit = options.input, options.orbit
    index = _one(slots)
    is_scene = path.is_dir() or path.name == "transforms.json"
    if is_scene:
        folder = path if path.is_dir() else path.parent
        if index is None:
            views = read_given(path, size, choose_split(folder, options.split))
        else:
            views = read_scene(path, size=size, split=options.split)
        if views.cameras is not None:
            for name, given in (
                ("--elevation", orbit.elevation if orbit.elevation != "auto" else None),
                ("--mask", orbit.mask),
                ("--fill", orbit.fill),
                ("--framing", options.pair.framing if options.pair.framing != "object" else None),
            ):
                if given is not None:
                    raise InputError(name, str(given), "is for a photo; the scene has its camera")
            number = choose_view(views, index)
            only = torch.arange(len(views)) == number
            return dataclasses.replace(views, observed=only), {"camera": "scene", "view": number}
    return _assumed(options, path, size, index)


def choose_targets(text: str | None, views: Views, size: int) -> tuple[Cameras, str]:
    """The cameras to draw and where they are from: `--targets`, else the scene's other cameras, else a full
    orbit of 16. Raises `InputError` as `parse_targets`."""
    assert views.cameras is not None, "given or assumed"
    reference = views.cameras[views.observed]
    if text is not None:
        return parse_targets(text, reference, size), text
    if len(views) > 1:
        return views.cameras[~views.observed].resized(size, size), "the scene's other cameras"
    return parse_targets("orbit:16", reference, size), "orbit:16"


def _assumed(options: Options, path: Path, size: int, index: int | None) -> tuple[Views, dict[str, Any]]:
    from manyview.data.given import read_given_view
    from manyview.geometry.trajectories import orbit as place_orbit
    from manyview.io.framing import crop_square, resize_area
    from manyview.types import Views

    flags = options.orbit
    asked = parse_elevation(flags.elevation)
    given = read_given_view(path, mask=flags.mask, split=options.split, index=index)
    elevation = asked if isinstance(asked, float) else DEFAULT_ELEVATION_DEG
    camera = place_orbit(1, elevation, size=size)
    if options.pair.framing == "crop":
        image, alpha = crop_square(given.image, given.alpha)
        image, alpha = resize_area(image, size, size, alpha)
        views = Views(images=image[None], masks=None if alpha is None else alpha[None], cameras=camera)
        record: dict[str, Any] = {"framing": "crop"}
    else:
        framed, record = given.frame(
            size, elevation_deg=elevation, masks=options.products.masks, fill=flags.fill
        )
        views = dataclasses.replace(framed, cameras=camera)
    how = "given" if isinstance(asked, float) else "assumed"
    return views, {"camera": how, "elevation_deg": elevation, **record}


def _one(slots: tuple[int, ...] | None) -> int | None:
    if slots is not None and len(slots) != 1:
        raise InputError("--slots", ",".join(map(str, slots)), "tunet takes one view")
    return slots[0] if slots else None
