"""What `manyview train` can train: for each target its task, built from folders, and where it starts from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.flags import check_range, check_readable
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

Preset = Literal["compact", "paper"]

# The compact sizes on two CPU cores or one GPU.
DEFAULTS = {
    "vae": TrainConfig(steps=20_000, batch_size=16, lr=2e-3),
    "image_encoder": TrainConfig(steps=6_000, batch_size=64, lr=1e-3),
    "dimvis": TrainConfig(steps=20_000, batch_size=16, lr=1e-3, optimizer="muon"),
    "one2one": TrainConfig(steps=20_000, batch_size=16, lr=1e-3, optimizer="muon"),
    "sparsefusion": TrainConfig(steps=20_000, batch_size=4, lr=5e-4),
}
TARGETS = tuple(DEFAULTS)
_DENOISERS = ("dimvis", "one2one")
_LATENT = (*_DENOISERS, "sparsefusion")
# Fields of a recipe that only some targets look at. Elsewhere they are refused, not passed over.
_ONLY_FOR = {
    "preset": _LATENT,
    "shares": ("vae", "image_encoder", "sparsefusion"),
    "validation": ("vae", "image_encoder", "dimvis", "sparsefusion"),
    "initial": ("vae", "dimvis", "one2one", "sparsefusion"),
    "vae": _LATENT,
    "image_encoder": _DENOISERS,
    "freeze_encoder": ("vae",),
    "crop": ("vae",),
    "negatives": ("vae",),
    "prediction": (*_DENOISERS, "sparsefusion"),
    "grid": ("dimvis",),
    "slot_embedding": ("dimvis",),
    "slot_time": ("dimvis",),
    "aligned": ("dimvis",),
    "rays": ("dimvis",),
    "sweep_depths": ("dimvis",),
    "blend": ("dimvis", "sparsefusion"),
    "time_exponent": _DENOISERS,
    "stage": ("sparsefusion",),
    "context_views": ("sparsefusion",),
    "rays_at_once": ("sparsefusion",),
    "noise_levels": ("sparsefusion",),
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
    stage: Literal["joint", "eft", "vldm", "regressor"] = "joint"
    context_views: tuple[int, int] = (1, 6)
    rays_at_once: int = 64
    noise_levels: int = 4
    seed: int = 0
    size: int | None = None
    """Pixels a side to which views of scenes are packed; that of the preset when None."""
    cache: Path | None = None
    """Where packed scenes, latents and embeddings are kept; hidden folders in each data set when None."""

    @property
    def resolution(self) -> int:
        """Pixels a side of the views of scenes."""
        return self.size or (256 if self.preset == "paper" else 128)


def default_config(target: str, preset: Preset) -> TrainConfig:
    """The published numbers of dimvis or sparsefusion for `paper`, else ours."""
    if target == "sparsefusion" and preset == "paper":
        from manyview.methods.sparsefusion.spec import PAPER_TRAINING as released

        return TrainConfig(
            steps=200_000,  # the script goes by epochs; its learning rate halves every 50 000 steps
            batch_size=1,
            lr=float(released["lr"]),
            weight_decay=0.0,
        )
    if target == "dimvis" and preset == "paper":
        from manyview.methods.dimvis.spec import PAPER_TRAINING as paper

        return TrainConfig(
            steps=int(paper["steps"]),
            # 112 items a pass, averaged over 12 passes.
            batch_size=int(paper["batch_size"]),
            accumulate=int(paper["accumulate"]),
            lr=float(paper["lr"]),
            warmup_steps=int(paper["warmup_steps"]),
        )
    return DEFAULTS[target]


def check_recipe(recipe: Recipe) -> None:
    """Raise `InputError` for what can be known to be wrong before anything loads."""
    if recipe.target not in TARGETS:
        raise InputError("TARGET", recipe.target, f"expected one of {', '.join(TARGETS)}")
    if not recipe.data:
        raise InputError("--data", "not given", "expected one or more data sets")
    named = {
        "--validation": recipe.validation,
        "--initial": recipe.initial,
        "--vae": recipe.vae,
        "--image-encoder": recipe.image_encoder,
    }
    for field in fields(recipe):
        targets = _ONLY_FOR.get(field.name, TARGETS)
        value = getattr(recipe, field.name)
        if recipe.target not in targets and value != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise InputError(flag, value, f"is not for {recipe.target}, only for {' and '.join(targets)}")
    check_range("--size", recipe.size, 8, 8192)
    check_range("--negatives", recipe.negatives, 0, 1)
    check_range("--crop", recipe.crop, 8, 8192)
    check_range("--sweep-depths", recipe.sweep_depths, 0, 64)
    check_range("--time-exponent", recipe.time_exponent, 0.1, 10)
    check_range("--noise-levels", recipe.noise_levels, 1, 64)
    check_range("--rays-at-once", recipe.rays_at_once, 0, 8192**2)
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


def make_task(recipe: Recipe, device: torch.device, progress: Progress = silent) -> Task:
    """The task of a checked recipe. For latent methods the views are encoded first, or found encoded."""
    sources = [_open(recipe, folder, "--data", progress) for folder in recipe.data]
    validation = None
    if recipe.validation is not None:
        validation = _open(recipe, recipe.validation, "--validation", progress)
    if recipe.target == "sparsefusion":
        return _sparsefusion_task(recipe, sources, validation, device, progress)
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
    if recipe.stage in ("joint", "vldm"):
        from manyview.training.encoding import encode_latents

        vae = _codec(recipe)

        def encoded(one: PosedObjects, source: PackedViews | SceneArrays) -> PosedObjects:
            root = _latent_cache(recipe, source)
            latents = encode_latents(one.views, root, vae, device=device, progress=progress)
            return replace(one, latents=latents)

        sets = [encoded(*pair) for pair in zip(sets, sources, strict=True)]
        if held_out is not None and validation is not None:
            held_out = encoded(held_out, validation)
    return SparseFusionTask(
        sets,
        stage=recipe.stage,
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


def _latent_cache(recipe: Recipe, source: PackedViews | SceneArrays) -> Path:
    return source.folder / ".latents" if recipe.cache is None else recipe.cache / "latents"


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
        roots = [_latent_cache(recipe, source) for source in sources]
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
