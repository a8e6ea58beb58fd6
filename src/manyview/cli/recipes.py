"""What `manyview train` can train: for each target its task, built from folders, and where it starts from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from manyview.cli.flags import check_range, check_readable
from manyview.cli.products import given_flags
from manyview.cli.refiner_recipes import RefinerTrainFlags, check_refiner, refiner_task
from manyview.cli.train_defaults import DEFAULTS, SMALL_STAGES, STAGES, Preset, Stage, default_config
from manyview.cli.tunet_recipe import UNASKED, TunetRecipe, check_tunet, tunet_task
from manyview.errors import InputError
from manyview.progress import Progress, silent
from manyview.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from manyview.data.datasets import SceneArrays
    from manyview.data.packed import PackedViews
    from manyview.methods.sparsefusion.examples import PosedObjects
    from manyview.training.task import Task

TARGETS = tuple(DEFAULTS)
_DENOISERS = ("dimvis", "one2one")
_LATENT = (*_DENOISERS, "sparsefusion", "hi3d", "tunet")
_SIZED = (*_LATENT, "refiner")
# Fields of a recipe that of hi3d's stages only some look at.
_ONLY_FOR_STAGES = {
    "preset": ("orbit", "refine"),
    "vae": ("orbit", "refine"),
    "image_encoder": ("orbit", "refine"),
    "closed": ("orbit", "refine"),
    "window": ("orbit", "refine"),
    "crop_cells": ("refine",),
    "crop": ("upscaler",),
    "sweep_depths": ("orbit",),
    "blend": ("orbit", "refine"),
    "log_sigma": ("orbit", "refine"),
    "joint_drop": ("orbit", "refine"),
    "drop": ("orbit", "refine"),
    "depth_net": ("refine",),
    "own": ("refine",),
    "own_share": ("refine",),
}
# Fields of a recipe that only some targets look at. Elsewhere they are refused, not passed over.
_ONLY_FOR = {
    "preset": _SIZED,
    "shares": ("vae", "image_encoder", "sparsefusion", "hi3d", "tunet", "refiner"),
    "validation": ("vae", "image_encoder", "dimvis", "sparsefusion", "hi3d", "tunet", "refiner"),
    "initial": ("vae", *_SIZED),
    "refiner": ("refiner",),
    "vae": _LATENT,
    "image_encoder": (*_DENOISERS, "hi3d"),
    "freeze_encoder": ("vae",),
    "crop": ("vae", "hi3d"),
    "negatives": ("vae",),
    "prediction": (*_DENOISERS, "sparsefusion", "tunet"),
    "grid": ("dimvis",),
    "slot_embedding": ("dimvis",),
    "slot_time": ("dimvis",),
    "aligned": ("dimvis",),
    "rays": ("dimvis",),
    "sweep_depths": ("dimvis", "hi3d"),
    "blend": ("dimvis", "sparsefusion", "hi3d"),
    "time_exponent": (*_DENOISERS, "tunet"),
    "stage": tuple(STAGES),
    "context_views": ("sparsefusion",),
    "rays_at_once": ("sparsefusion",),
    "noise_levels": ("sparsefusion",),
    "coarse": ("hi3d",),
    "depth_net": ("hi3d",),
    "own": ("hi3d",),
    "own_share": ("hi3d",),
    "closed": ("hi3d",),
    "window": ("hi3d",),
    "crop_cells": ("hi3d",),
    "log_sigma": ("hi3d",),
    "joint_drop": ("hi3d",),
    "drop": ("hi3d",),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides a training run beside its `TrainConfig`."""

    target: str
    data: tuple[Path, ...]
    """Packed data sets, or data sets of scenes."""
    preset: Preset = "compact"
    shares: tuple[float, ...] = ()
    """How often each data set is drawn from; equal when empty."""
    validation: Path | None = None
    initial: Path | None = None
    vae: Path | None = None
    """The codec's folder; that of the compact weights when None."""
    image_encoder: Path | None = None
    freeze_encoder: bool = False
    crop: int = 64
    negatives: float = 0.5
    grid: tuple[int, int] = (2, 2)
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    slot_embedding: bool = False
    slot_time: bool = False
    aligned: bool = False
    rays: bool = False
    sweep_depths: int = 0
    blend: bool = False
    time_exponent: float = 1.0
    stage: Stage | None = None
    """The target's first one when None; see `STAGES`."""
    context_views: tuple[int, int] = (1, 6)
    rays_at_once: int = 64
    noise_levels: int = 4
    coarse: tuple[Path, ...] = ()
    """Coarse latents and depth of each data set (`hi3d.orbits.StoredCoarse`)."""
    depth_net: Path | None = None
    """The depth network to make them with, where they are not given."""
    own: tuple[Path, ...] = ()
    """With it: for each data set what a first stage made of its objects."""
    own_share: float = 0.5
    """How often an item is shown such a clip."""
    closed: bool = False
    window: int = 0
    crop_cells: int = 0
    log_sigma: tuple[float, float] | None = None
    joint_drop: float = 0.0
    drop: float = 0.1
    tunet: TunetRecipe = UNASKED
    seed: int = 0
    size: int | None = None
    """Pixels a side to which views of scenes are packed; that of the preset when None."""
    refiner: RefinerTrainFlags = RefinerTrainFlags()  # noqa: RUF009
    """What only its stages look at."""
    cache: Path | None = None
    """Where packed scenes, latents and embeddings are kept; hidden folders in each data set when None."""

    @property
    def resolution(self) -> int:
        """Pixels a side of the views of scenes."""
        side = 256 if self.preset == "paper" else 128
        if self.target in ("hi3d", "tunet"):
            side = 512 if self.preset == "paper" else 128
            side *= 2 if self.chosen_stage in ("refine", "upscaler") else 1
        if self.target == "refiner":
            side = 512 if self.preset == "paper" else 64
        return self.size or side

    @property
    def chosen_stage(self) -> Stage | None:
        """The stage that is trained; None for targets without stages."""
        first: Any = STAGES.get(self.target, (None,))[0]
        return self.stage or first


def check_recipe(recipe: Recipe) -> None:
    """Raise `InputError` for what can be known to be wrong before anything loads."""
    if recipe.target not in TARGETS:
        raise InputError("TARGET", recipe.target, f"expected one of {', '.join(TARGETS)}")
    if not recipe.data and recipe.target != "refiner":
        raise InputError("--data", "not given", "expected one or more data sets")
    named = {
        "--validation": recipe.validation,
        "--initial": recipe.initial,
        "--vae": recipe.vae,
        "--image-encoder": recipe.image_encoder,
        "--depth-net": recipe.depth_net,
    }
    check_tunet(recipe)
    for field in fields(recipe):
        targets = _ONLY_FOR.get(field.name, TARGETS)
        value = getattr(recipe, field.name)
        if recipe.target not in targets and value != field.default:
            flag = "--" + field.name.replace("_", "-")
            if field.name == "refiner":  # a group, of which the first one given is named
                flag, value = given_flags(value)[0], "given"
            raise InputError(flag, value, f"is not for {recipe.target}, only for {' and '.join(targets)}")
    check_range("--size", recipe.size, 8, 8192)
    check_range("--negatives", recipe.negatives, 0, 1)
    check_range("--crop", recipe.crop, 8, 8192)
    check_range("--sweep-depths", recipe.sweep_depths, 0, 64)
    check_range("--time-exponent", recipe.time_exponent, 0.1, 10)
    check_range("--noise-levels", recipe.noise_levels, 1, 64)
    check_range("--rays-at-once", recipe.rays_at_once, 0, 8192**2)
    if recipe.target in STAGES and recipe.chosen_stage not in STAGES[recipe.target]:
        accepted = f"expected one of {', '.join(STAGES[recipe.target])} for {recipe.target}"
        raise InputError("--stage", recipe.stage, accepted)
    if recipe.target == "refiner":
        check_refiner(recipe)
    check_range("--window", recipe.window, 0, 1024)
    check_range("--crop-cells", recipe.crop_cells, 0, 1024)
    check_range("--own-share", recipe.own_share, 0, 1)
    check_range("--joint-drop", recipe.joint_drop, 0, 0.99)
    check_range("--drop", recipe.drop, 0, 0.99)
    _check_stage(recipe)
    for flag, folders in (("--coarse", recipe.coarse), ("--own", recipe.own)):
        for folder in folders:
            check_readable(flag, folder)
    if recipe.stage == "vldm" and (recipe.initial is None or not (recipe.initial / "eft").is_dir()):
        found = recipe.initial or "not given"
        raise InputError("--initial", str(found), "expected the export of a run that trained the EFT")
    if recipe.crop % 8:
        raise InputError("--crop", recipe.crop, "expected a multiple of 8, the side of a latent cell")
    if recipe.blend and recipe.prediction != "v_prediction":
        raise InputError("--blend", recipe.prediction, "expected --prediction v_prediction with it")
    if recipe.cache is not None and recipe.cache.is_file():
        raise InputError("--cache", str(recipe.cache), "is a file, expected a folder")
    for folder in recipe.data:
        check_readable("--data", folder)
    for flag, path in named.items():
        if path is not None:
            check_readable(flag, path)
    if recipe.shares and (len(recipe.shares) != len(recipe.data) or min(recipe.shares) <= 0):
        accepted = f"expected {len(recipe.data)} positive numbers, one for each data set"
        raise InputError("--shares", recipe.shares, accepted)


def _check_stage(recipe: Recipe) -> None:
    """Options that a stage of hi3d needs or has no use for."""
    stage = recipe.chosen_stage
    if recipe.target == "hi3d" and stage is not None:
        for field in fields(recipe):
            stages = _ONLY_FOR_STAGES.get(field.name)
            value = getattr(recipe, field.name)
            if stages is not None and stage not in stages and value != field.default:
                flag = "--" + field.name.replace("_", "-")
                raise InputError(flag, value, f"is for the stages {' and '.join(stages)}, not for {stage}")
    if recipe.coarse and (stage != "refine" or recipe.depth_net is not None):
        other = "--depth-net" if stage == "refine" else "other stages than the stage refine"
        raise InputError("--coarse", "given", f"does not go with {other}")
    if stage == "refine" and not recipe.coarse and recipe.depth_net is None:
        line = "the stage refine needs one folder for each data set, or --depth-net to make them with"
        raise InputError("--coarse", "not given", line)
    count = len(recipe.data)
    all_sets = count + int(recipe.validation is not None)
    if recipe.coarse and len(recipe.coarse) != all_sets:
        line = f"expected {all_sets}, one for each data set, the validation's last"
        raise InputError("--coarse", len(recipe.coarse), line)
    if recipe.own and (recipe.depth_net is None or len(recipe.own) not in (count, all_sets)):
        raise InputError("--own", len(recipe.own), "expected one for each data set, and --depth-net with it")


def make_task(
    recipe: Recipe, device: torch.device, progress: Progress = silent, config: TrainConfig | None = None
) -> Task:
    """The task of a checked recipe; `config` of its run, by default the target's. For latent methods the
    views are encoded first, or found encoded."""
    if recipe.target == "tunet":
        opening = partial(_open, recipe, progress=progress)
        return tunet_task(recipe, opening, partial(_latent_cache, recipe), _codec(recipe), device, progress)
    sources = [_open(recipe, folder, "--data", progress) for folder in recipe.data]
    validation = None
    if recipe.validation is not None:
        validation = _open(recipe, recipe.validation, "--validation", progress)
    if recipe.target == "sparsefusion":
        return _sparsefusion_task(recipe, sources, validation, device, progress)
    if recipe.target == "hi3d":
        return _hi3d_task(recipe, sources, validation, device, progress)
    if recipe.target == "refiner":
        held_out = None if validation is None else _packed_folder(validation)
        config = config or default_config(recipe.target, recipe.preset, recipe.stage)
        return refiner_task(recipe, [_packed_folder(source) for source in sources], held_out, config)
    if recipe.target not in _DENOISERS:
        folders = [_packed_folder(source) for source in sources]
        held_out_folder = None if validation is None else _packed_folder(validation)
        shares = list(recipe.shares) or [1.0] * len(folders)
        if recipe.target == "image_encoder":
            from manyview.training.image_encoder import ImageEncoderTask

            return ImageEncoderTask(folders, shares, held_out_folder, seed=recipe.seed)
        from manyview.training.autoencoder import AutoencoderTask

        return AutoencoderTask(
            folders,
            shares,
            held_out_folder,
            crop=recipe.crop,
            seed=recipe.seed,
            initial=recipe.initial,
            freeze_encoder=recipe.freeze_encoder,
            negatives=recipe.negatives,
        )
    groups = [sources] if validation is None else [sources, [validation]]
    (latents, embeddings), *others = _encode(recipe, groups, device, progress)
    data_name = ",".join(str(folder) for folder in recipe.data)
    if recipe.target == "one2one":
        from manyview.methods.one2one.train import One2OneTask

        return One2OneTask(
            latents,
            embeddings,
            prediction=recipe.prediction,
            preset=recipe.preset,
            seed=recipe.seed,
            initial=recipe.initial,
            time_exponent=recipe.time_exponent,
            data_name=data_name,
        )
    from manyview.methods.dimvis.model import DimvisOptions
    from manyview.methods.dimvis.train import DimvisTask

    options = DimvisOptions(
        grid=recipe.grid,
        latent_channels=latents.shape[2],
        context_dim=embeddings.shape[2],
        slot_embedding=recipe.slot_embedding,
        slot_time=recipe.slot_time,
        aligned=recipe.aligned,
        rays=recipe.rays,
        sweep_depths=recipe.sweep_depths,
        blend=recipe.blend,
    )
    return DimvisTask(
        latents,
        embeddings,
        options,
        prediction=recipe.prediction,
        preset=recipe.preset,
        validation=others[0] if others else None,
        seed=recipe.seed,
        initial=recipe.initial,
        time_exponent=recipe.time_exponent,
        data_name=data_name,
    )


def _sparsefusion_task(
    recipe: Recipe,
    sources: list[PackedViews | SceneArrays],
    validation: PackedViews | SceneArrays | None,
    device: torch.device,
    progress: Progress,
) -> Task:
    from manyview.methods.sparsefusion.examples import open_posed
    from manyview.methods.sparsefusion.train import SparseFusionTask

    sets = [open_posed(source) for source in sources]
    held_out = None if validation is None else open_posed(validation, "--validation")
    if recipe.chosen_stage in ("joint", "vldm"):
        from manyview.training.encoding import encode_latents

        vae = _codec(recipe)

        def encoded(one: PosedObjects, source: PackedViews | SceneArrays) -> PosedObjects:
            root = _latent_cache(recipe, source.folder)
            latents = encode_latents(one.views, root, vae, device=device, progress=progress)
            return replace(one, latents=latents)

        sets = [encoded(*pair) for pair in zip(sets, sources, strict=True)]
        if held_out is not None and validation is not None:
            held_out = encoded(held_out, validation)
    return SparseFusionTask(
        sets,
        stage=cast(Any, recipe.chosen_stage),
        preset=recipe.preset,
        context_views=recipe.context_views,
        rays_at_once=recipe.rays_at_once,
        noise_levels=recipe.noise_levels,
        prediction=recipe.prediction,
        blend=recipe.blend,
        shares=recipe.shares,
        validation=held_out,
        seed=recipe.seed,
        initial=recipe.initial,
        data_name=",".join(str(folder) for folder in recipe.data),
    )


def _hi3d_task(
    recipe: Recipe,
    sources: list[PackedViews | SceneArrays],
    validation: PackedViews | SceneArrays | None,
    device: torch.device,
    progress: Progress,
) -> Task:
    import torch

    from manyview.data.rigs import read_rigs
    from manyview.methods.hi3d.orbits import Orbits, StoredCoarse, orbit_elevations
    from manyview.methods.hi3d.train import Hi3dOptions, Hi3dTask

    if recipe.chosen_stage in SMALL_STAGES:
        return _small_hi3d_task(recipe, sources, validation)
    stage = "refine" if recipe.chosen_stage == "refine" else "orbit"
    groups = [(sources, "--data"), *([] if validation is None else [([validation], "--validation")])]
    # Cameras first: they are read at once, and refused before anything is encoded.
    elevations = [
        torch.cat([orbit_elevations(read_rigs(one, flag), len(one), flag) for one in group])
        for group, flag in groups
    ]
    encoded = _encode(recipe, [group for group, _ in groups], device, progress)
    everything = [source for group, _ in groups for source in group]
    folders = list(recipe.coarse)
    if stage == "refine" and not folders:
        folders = _make_coarse(recipe, everything, device, progress)
    orbits = []
    for (group, _), (latents, embeddings), elevation in zip(groups, encoded, elevations, strict=True):
        counts, coarse = [len(one) for one in group], None
        if stage == "refine":
            own, folders = folders[: len(group)], folders[len(group) :]
            sizes = (latents.shape[1], latents.shape[2])
            coarse = StoredCoarse(own, counts, *sizes, recipe.seed, recipe.own_share)
        parts: Any = {"latents": latents, "embeddings": embeddings, "elevation_deg": elevation}
        orbits.append(Orbits(**parts, coarse=coarse, counts=tuple(counts)))
    published = Hi3dOptions()
    options = Hi3dOptions(
        log_sigma=recipe.log_sigma or published.log_sigma,
        joint_drop=recipe.joint_drop,
        drop=recipe.drop,
        window=recipe.window,
        crop=recipe.crop_cells,
        closed=recipe.closed,
        sweep_depths=recipe.sweep_depths,
        blend=recipe.blend,
    )
    return Hi3dTask(
        orbits[0],
        stage=stage,
        preset=recipe.preset,
        options=options,
        validation=orbits[1] if len(orbits) > 1 else None,
        seed=recipe.seed,
        initial=recipe.initial,
        data_name=",".join(str(folder) for folder in recipe.data),
        shares=recipe.shares,
    )


def _small_hi3d_task(
    recipe: Recipe, sources: list[PackedViews | SceneArrays], validation: PackedViews | SceneArrays | None
) -> Task:
    data_name = ",".join(str(folder) for folder in recipe.data)
    if recipe.chosen_stage == "elevation":
        from manyview.methods.hi3d.train_elevation import ElevationTask

        return ElevationTask(
            sources,
            recipe.shares,
            validation,
            seed=recipe.seed,
            initial=recipe.initial,
            data_name=data_name,
        )
    folders = [_packed_folder(source) for source in sources]
    held_out = None if validation is None else _packed_folder(validation)
    shared: dict[str, Any] = {"seed": recipe.seed, "initial": recipe.initial, "data_name": data_name}
    if recipe.chosen_stage == "upscaler":
        from manyview.methods.hi3d.train_upscaler import UpscalerTask

        return UpscalerTask(folders, recipe.shares, held_out, crop=recipe.crop, **shared)
    from manyview.methods.hi3d.train_depth import DepthTask

    return DepthTask(folders, recipe.shares, held_out, size=recipe.resolution, **shared)


def _make_coarse(
    recipe: Recipe, sources: list[PackedViews | SceneArrays], device: torch.device, progress: Progress
) -> list[Path]:
    """For each data set the folder with its coarse clips, made where they are not there yet."""
    from manyview.data.packed import PackedViews
    from manyview.methods.hi3d.depth import load_depth
    from manyview.methods.hi3d.refine_data import CoarseOptions, encode_coarse

    assert recipe.depth_net is not None, "checked with the recipe"
    network, vae = load_depth(recipe.depth_net, argument="--depth-net"), _codec(recipe)
    folders = []
    # Own clips of the validation set may be missing.
    for number, source in enumerate(sources):
        own = [PackedViews(folder, "--own") for folder in recipe.own[number : number + 1]]
        options = CoarseOptions(seed=recipe.seed)
        root = _latent_cache(recipe, source.folder)
        folders.append(
            encode_coarse(source, root, vae, network, options, own=own, device=device, progress=progress)
        )
    return folders


def _latent_cache(recipe: Recipe, folder: Path) -> Path:
    return folder / ".latents" if recipe.cache is None else recipe.cache / "latents"


def _open(recipe: Recipe, folder: Path, flag: str, progress: Progress) -> PackedViews | SceneArrays:
    from manyview.data.datasets import open_views

    cache = None if recipe.cache is None else recipe.cache / "arrays"
    return open_views(folder, size=recipe.resolution, cache=cache, argument=flag, progress=progress)


def _packed_folder(source: PackedViews | SceneArrays) -> Path:
    from manyview.data.packed import PackedViews

    return source.folder if isinstance(source, PackedViews) else source.packed.folder


def _encode(
    recipe: Recipe,
    groups: list[list[PackedViews | SceneArrays]],
    device: torch.device,
    progress: Progress,
) -> list[tuple[Tensor, Tensor]]:
    """Latents and embeddings of each group of data sets."""
    from transformers import CLIPVisionModelWithProjection

    from manyview.training.encoding import encode_views
    from manyview.weights.packing import load_component

    vae = _codec(recipe)
    place = _component(recipe, "image_encoder")
    encoder = load_component(CLIPVisionModelWithProjection, place, argument="--image-encoder")
    found = []
    for sources in groups:
        roots = [_latent_cache(recipe, source.folder) for source in sources]
        found.append(encode_views(sources, roots, vae, encoder, device=device, progress=progress))
    return found


def _codec(recipe: Recipe) -> Any:
    from diffusers import AutoencoderKL

    from manyview.weights.packing import load_component

    return load_component(AutoencoderKL, _component(recipe, "vae"), argument="--vae")


def _component(recipe: Recipe, name: Literal["vae", "image_encoder"]) -> Path:
    given = recipe.vae if name == "vae" else recipe.image_encoder
    if given is not None:
        return given
    from manyview.weights import open_bundle

    flag = "--" + name.replace("_", "-")
    try:
        return open_bundle("compact", "dimvis").components[name]
    except InputError as error:
        raise InputError(flag, "not given", f"and {error.accepted}; name a trained one") from None
