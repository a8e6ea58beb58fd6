"""`manyview eval`: score a method, or a folder of results, under one of the papers' protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

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
from manyview.cli.progress import silence_loading
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.methods import METHODS, protocol_of
from manyview.progress import Progress
from manyview.weights import open_bundle

SUMMARY = "Score a method, or results another program made, on a data set under a paper's protocol."
Protocol = Literal["orbit4", "fewview", "orbit16", "pair", "yaw"]
_SHOWN = (
    "psnr",
    "ssim_skimage",
    "stlpips_vgg",
    "lpips_vgg",
    "pixel_std",
    "neighbour_mae",
    "seam_ratio",
    "chamfer_mean",
    "volume_iou_64",
    "frechet_compact_encoder",
    "hf_power_025",
    "identity",
    "warp_l1",
    "reached",
    "yaw_deg",
    "frechet",
    "kernel",
)
# Flags that not all protocols look at, refused elsewhere.
_ONLY_FOR: dict[str, tuple[Protocol, ...]] = {
    "solver": ("orbit4", "fewview"),
    "samples": ("orbit4", "orbit16"),
    "inputs": ("fewview", "orbit16", "pair"),
    "scored": ("fewview",),
    "rows": ("fewview",),
    "only": ("fewview", "orbit16", "pair", "yaw"),
    "perceptual": ("orbit4", "fewview", "orbit16", "pair"),
    "ablations": ("yaw",),
    "yaw_net": ("yaw",),
    "feature_net": ("yaw",),
    "dragged": ("yaw",),
    "regressor": ("fewview",),
    "meshes": ("orbit16",),
    "upscaler": ("orbit16",),
    "size": ("orbit16", "pair"),
    "perceptual_size": ("pair",),
    "pairing": ("pair",),
    "split": ("pair",),
    "variants": ("pair",),
    "depth_net": ("pair",),
    "features": ("pair",),
    "guidance": ("orbit4", "fewview", "orbit16"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview eval`."""

    target: tyro.conf.Positional[str]
    """A method's name, or a folder of results with one folder a scene."""
    data: Path
    """Folder of the data set with the true views; yaw: of held-out single views."""
    protocol: Protocol = "orbit4"
    """orbit4: four views 90 degrees apart, every subset of them given. fewview: 2, 3 and 6 posed views given,
    others asked for. orbit16: one view given, the 15 others of its orbit asked for. pair: one view given,
    others asked for one by one, by their distance; of renders or of MVImgNet's ordered captures. yaw: codes
    of a generator turned, at equal measured yaw."""
    out: Path
    """File for the metrics (json)."""
    weights: str = "compact"
    """Weights of the method: compact, a folder, or a hub id."""
    steps: int | None = None
    """Denoising steps; when not given 50, in fewview, orbit16 and pair those recorded with the weights (in
    pair they are of the inversion and the way back)."""
    guidance: float | None = None
    """Guidance strength; the method's own choice for the number of given views when not set."""
    solver: Literal["ddim", "dpm", "unipc", "plms"] | None = None
    """When not given ddim, in fewview the one recorded with the weights. orbit4 has ddim (the papers'), dpm
    and unipc, which need fewer steps; fewview ddim and plms (the paper's)."""
    samples: int = 1
    """orbit4 and orbit16: how many answers to draw to a question; with two or more, their mean and deviation
    are scored too."""
    perceptual: bool = True
    """Also the perceptual metrics, which cost more than drawing does on a CPU."""
    limit: int | None = None
    """Score only the first scenes, this many; yaw: so many codes, 100 when not given."""
    inputs: tuple[int, ...] = ()
    """fewview: numbers of given views, 2 3 6 when not set. orbit16, and pair on orbits: how many views of an
    object are the input, one after the other, 1 when not set."""
    scored: int = 8
    """fewview: views scored an object, the same for all numbers of given ones; 0 for all that are left."""
    rows: int = 64
    """fewview: rays a side of the pictures of EFT and regressor, which are then enlarged."""
    only: tuple[str, ...] = ()
    """Only these rows; all when not given. fewview: sparsefusion eft vldm pixelnerf copy_nearest
    mean_of_inputs field_fit splats_fit. orbit16: hi3d coarse_bicubic coarse_swin2sr no_depth
    one2one copy_input mean_of_truth. pair: tunet mean_only fusion_a fusion_b oracle full_short
    no_cross_attention concat one2one warp_by_depth copy_input. yaw: refiner ganspace no_warp no_latent
    no_feature no_guard drag."""
    upscaler: str | None = None
    """orbit16: the network of the row coarse_swin2sr, a Swin2SR to twice the size: a folder or a hub id."""
    regressor: str = "compact"
    """fewview: weights of the regressor: compact, a folder, or a hub id."""
    meshes: tuple[int, ...] = ()
    """orbit16: also make a mesh of every orbit with so many views interpolated, for each number."""
    size: int | None = None
    """orbit16 and pair: pixels a side of the comparison; when not set what the weights make, of results 256
    and 128."""
    perceptual_size: int | None = None
    """pair: pixels a side of the perceptual figures and the distances of sets; as --size when not set."""
    pairing: Literal["auto", "orbit", "ordered"] = "auto"
    """pair: any view of an orbit with all others, or a capture's frames as the paper pairs them; auto looks
    at the cameras."""
    split: Literal["all", "90-5-5", "1-of-99"] = "all"
    """pair: score all scenes, or the test part of one of the paper's two rules."""
    variants: tuple[str, ...] = ()
    """pair: rows of translators trained otherwise, name=folder, of full_short no_cross_attention concat."""
    depth_net: Path | None = None
    """pair: depth network of the row warp_by_depth; when not set that of Hi3D's compact weights."""
    features: tuple[Literal["compact_encoder", "stvgg16"], ...] = ("compact_encoder",)
    """pair: networks by whose features all made and all true views are compared (Frechet distance and
    KID)."""
    ablations: tuple[str, ...] = ()
    """yaw: refiners trained without one of the losses, such as no_warp=FOLDER no_latent=FOLDER."""
    yaw_net: Path | None = None
    """yaw: the network that measures; the one that comes with the weights when not given."""
    feature_net: Path | None = None
    """yaw: whose features are compared, a CLIP vision model with projection (a face network in that layout
    too); the package's image encoder when not given."""
    dragged: int = 12
    """yaw: codes that the row drag is asked about."""
    compute: Annotated[ComputeFlags, tyro.conf.arg(name="")] = field(default_factory=ComputeFlags)
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Check, run the protocol, and write the metrics."""
    if options.target not in METHODS and not Path(options.target).is_dir():
        accepted = f"expected a folder of results or one of {', '.join(METHODS)}"
        raise InputError("TARGET", options.target, accepted)
    _check_protocol(options)
    check_readable("--data", options.data)
    check_range("--steps", options.steps, 1, 1000)
    check_range("--guidance", options.guidance, 0, 100)
    check_range("--samples", options.samples, 1, 1000)
    check_range("--limit", options.limit, 1, 10**9)
    check_range("--scored", options.scored, 0, 10**6)
    check_range("--rows", options.rows, 1, 4096)
    check_range("--size", options.size, 8, 8192)
    check_output(options.out, allowed=options.output.force)
    if options.target in METHODS:
        bundle = open_bundle(options.weights, options.target)
        needed = parameter_bytes(bundle.components.values(), options.compute.dtype)
        check_memory(needed, options.compute.max_memory)
    silence_loading()
    protocols = {
        "orbit4": _orbit4,
        "fewview": _fewview,
        "orbit16": _orbit16,
        "pair": _pair,
        "yaw": _yaw,
    }
    metrics = protocols[options.protocol](options, progress)
    lines = [_means(metrics["metrics"])]
    if options.protocol in ("orbit16", "pair", "yaw"):
        parts = {metrics["method"]: metrics, **metrics["rows"]}.items()
        lines = [f"{name}: {_means(part['metrics'])}" for name, part in parts if "metrics" in part]
    if options.protocol == "fewview":
        parts = metrics["by_references"].items()
        lines = [f"{count} input{'s' * (count != '1')}: {_means(part)}" for count, part in parts]
    return Answer(data=metrics, text="\n".join([*lines[:-1], f"{lines[-1]}; all of it in {options.out}"]))


def _check_protocol(options: Options) -> None:
    own = protocol_of(options.target) if options.target in METHODS else None
    if own is not None and own != options.protocol:
        raise InputError("--protocol", options.protocol, f"{options.target} is scored under {own}")
    for name, protocols in _ONLY_FOR.items():
        value = getattr(options, name)
        if options.protocol not in protocols and value != Options.__dataclass_fields__[name].default:
            flag = "--" + name.replace("_", "-")
            raise InputError(flag, value, f"is for --protocol {' or '.join(protocols)}")
    if options.protocol in ("orbit16", "pair") and len(options.inputs) > 1:
        raise InputError("--inputs", options.inputs, f"{options.protocol} takes one number")
    if options.protocol == "pair" and options.solver is not None:
        raise InputError(
            "--solver", options.solver, "pair samples by DDIM alone, the inverse of its inversion"
        )
    allowed = ("ddim", "plms") if options.protocol == "fewview" else ("ddim", "dpm", "unipc")
    if options.solver is not None and options.solver not in allowed:
        raise InputError("--solver", options.solver, f"{options.protocol} has {', '.join(allowed)}")


def _orbit4(options: Options, progress: Progress) -> dict[str, Any]:
    from manyview.bench.run import evaluate

    return evaluate(
        options.target if options.target in METHODS else Path(options.target),
        options.data,
        options.protocol,
        options.out,
        weights=options.weights,
        device=torch_device(options.compute.device),
        dtype=torch_dtype(options.compute.dtype),
        seed=options.output.seed,
        num_steps=50 if options.steps is None else options.steps,
        guidance=options.guidance,
        solver="ddim" if options.solver is None else cast(Any, options.solver),
        num_samples=options.samples,
        perceptual=options.perceptual,
        limit=options.limit,
        force=options.output.force,
        progress=progress,
    )


def _fewview(options: Options, progress: Progress) -> dict[str, Any]:
    from manyview.bench.fewview_options import COUNTS, FewviewOptions
    from manyview.bench.fewview_run import evaluate_fewview

    asked = FewviewOptions(
        counts=options.inputs or COUNTS,
        num_scored=options.scored or None,
        only=options.only or None,
        ray_rows=options.rows,
        num_steps=options.steps,
        solver=cast(Any, options.solver),
        guidance=options.guidance,
        seed=options.output.seed,
    )
    return evaluate_fewview(
        **_run_options(options, progress),
        options=asked,
        regressor=options.regressor,
    )


def _orbit16(options: Options, progress: Progress) -> dict[str, Any]:
    from manyview.bench.orbit16_options import Orbit16Options
    from manyview.bench.orbit16_run import evaluate_orbit16

    asked = Orbit16Options(
        num_inputs=(options.inputs or (1,))[0],
        only=options.only or None,
        meshes=options.meshes,
        num_samples=options.samples,
        upscaler=options.upscaler,
        num_steps=options.steps,
        guidance=options.guidance,
        seed=options.output.seed,
    )
    return evaluate_orbit16(
        **_run_options(options, progress),
        options=asked,
        size=options.size,
    )


def _pair(options: Options, progress: Progress) -> dict[str, Any]:
    from manyview.bench.pair_options import PairOptions, parse_variants
    from manyview.bench.pair_run import evaluate_pair

    asked = PairOptions(
        pairing=options.pairing,
        num_inputs=(options.inputs or (1,))[0],
        split=options.split,
        only=options.only or None,
        variants=parse_variants(options.variants),
        depth_net=options.depth_net,
        features=options.features,
        num_steps=options.steps,
        perceptual_size=options.perceptual_size,
        seed=options.output.seed,
    )
    return evaluate_pair(
        **_run_options(options, progress),
        options=asked,
        size=options.size,
    )


def _yaw(options: Options, progress: Progress) -> dict[str, Any]:
    from manyview.bench.yaw_options import YawOptions, parse_ablations
    from manyview.bench.yaw_run import evaluate_yaw

    if options.target not in METHODS:
        raise InputError("TARGET", options.target, "yaw scores refiner; results cannot be turned")
    asked = YawOptions(
        num_sources=100 if options.limit is None else options.limit,
        only=options.only or None,
        ablations=parse_ablations(options.ablations),
        num_dragged=options.dragged,
        num_steps=options.steps,
        seed=options.output.seed,
    )
    shared = _run_options(options, progress)
    # The limit is the number of codes, and what is perceptual here is the feature network's.
    del shared["limit"], shared["perceptual"]
    return evaluate_yaw(
        **shared,
        options=asked,
        yaw_net=options.yaw_net,
        feature_net=options.feature_net,
    )


def _run_options(options: Options, progress: Progress) -> dict[str, Any]:
    """What every protocol's run takes alike, by name."""
    return {
        "target": options.target if options.target in METHODS else Path(options.target),
        "data": options.data,
        "out": options.out,
        "weights": options.weights,
        "limit": options.limit,
        "device": torch_device(options.compute.device),
        "dtype": torch_dtype(options.compute.dtype),
        "perceptual": options.perceptual,
        "force": options.output.force,
        "progress": progress,
    }


def _means(scores: Mapping[str, Any]) -> str:
    computed = {name: value["mean"] for name, value in scores.items() if name in _SHOWN and "mean" in value}
    return ", ".join(f"{name} {value:.4g}" for name, value in computed.items())
