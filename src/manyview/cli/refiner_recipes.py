"""What `manyview train refiner` can train: its stages, their flags, and their tasks built from folders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.flags import check_range
from manyview.errors import InputError
from manyview.training.config import TrainConfig

if TYPE_CHECKING:
    from manyview.cli.recipes import Recipe
    from manyview.training.task import Task

Loss = Literal["warp", "latent", "feature", "guard"]
STAGES = ("refiner", "autoencoder", "generator", "depth", "yaw")
CONFIGS = {
    "autoencoder": TrainConfig(
        steps=6_000,
        batch_size=32,
        lr=2e-3,
        clip_norm=None,
        weight_decay=0.0,
        warmup_steps=50,
        ema_decay=0.998,
    ),
    # The game wants no momentum, no decay and gradients as they are.
    "generator": TrainConfig(
        steps=7_000,
        batch_size=32,
        lr=2e-3,
        betas=(0.0, 0.99),
        clip_norm=None,
        weight_decay=0.0,
        ema_decay=0.998,
        min_lr_fraction=0.1,
    ),
    "depth": TrainConfig(steps=2_000, batch_size=12, lr=1e-3, weight_decay=1e-4, ema_decay=0.99),
    "yaw": TrainConfig(steps=1_000, batch_size=64, lr=1e-3, ema_decay=0.99),
    "refiner": TrainConfig(steps=2_000, batch_size=16, lr=5e-4, weight_decay=0.0, ema_decay=0.995),
}
# Stages that train a generator; flags that only some stages look at.
_DRAWING = ("autoencoder", "generator")
_ONLY_FOR = {
    "data": (*_DRAWING, "yaw"),
    "shares": _DRAWING,
    "validation": (*_DRAWING, "depth", "yaw"),
    "preset": (*_DRAWING, "depth", "refiner"),
    "size": _DRAWING,
}
_OWN = {
    "generator": ("depth", "refiner"),
    "calibration": ("refiner",),
    "yaw_net": ("depth",),
    "without": ("refiner",),
    "warp": ("refiner",),
    "latent": ("refiner",),
    "feature": ("refiner",),
    "guard": ("refiner",),
    "warp_features": ("refiner",),
    "focal": ("depth",),
    "learn_focal": ("depth",),
    "symmetric": ("depth",),
    "yaw_range": ("depth",),
    "near": ("depth",),
    "unmasked": ("depth", "refiner"),
    "reach": ("depth", "refiner"),
    "r1": ("generator",),
    "augment": ("generator",),
    "style_mixing": ("generator",),
    "path_length": ("generator",),
    "rate": ("autoencoder",),
    "odd": ("autoencoder",),
}


@dataclass(frozen=True, kw_only=True)
class RefinerTrainFlags:
    """Flags of `manyview train refiner` alone."""

    generator: Path | None = None
    """refiner --stage depth, refiner: the export of the stage generator or autoencoder, or a converted one's
    folder."""
    calibration: Path | None = None
    """refiner --stage refiner: the export of the stage depth."""
    yaw_net: Path | None = None
    """refiner --stage depth: the export of the stage yaw, for validation alone."""
    without: tuple[Loss, ...] = ()
    """refiner --stage refiner: losses left out, of warp latent feature guard."""
    warp: float = 1.0
    """refiner --stage refiner: weight of the warp loss."""
    latent: float = 1.0
    """refiner --stage refiner: weight of the latent loss."""
    feature: float = 1.0
    """refiner --stage refiner: weight of the feature loss."""
    guard: float = 60.0
    """refiner --stage refiner: weight of the pose guard."""
    warp_features: bool = False
    """refiner --stage refiner: compare features where the depth says, not cell by cell."""
    focal: float | None = None
    """refiner --stage depth: focal length in picture widths; 1.09 when not given."""
    learn_focal: bool = False
    """refiner --stage depth: learn it from there."""
    symmetric: bool = False
    """refiner --stage depth: objects are their own mirror images, so mirrored pictures show which direction
    turns them."""
    yaw_range: float | None = None
    """refiner --stage depth: degrees to either side of the front within which the generator's pictures are
    known to be spread evenly; outlines tell how far is turned when not given."""
    unmasked: bool = False
    """refiner --stage depth, refiner: look at the whole picture, not at the object alone."""
    reach: float = 3.0
    """refiner --stage depth, refiner: how far codes are turned, in deviations."""
    near: tuple[float, float] = (0.25, 1.2)
    """refiner --stage depth: how far from a picture those are turned that it is compared with, at least and
    at most, in deviations."""
    r1: float = 1.0
    """refiner --stage generator: weight of the gradient penalty."""
    augment: float | None = None
    """refiner --stage generator: how likely each change before the discriminator is; adapted when not
    given."""
    style_mixing: float = 0.5
    """refiner --stage generator: how often a picture has the styles of two codes."""
    path_length: float = 0.0
    """refiner --stage generator: weight of the path lengths' regularisation."""
    rate: float = 2e-4
    """refiner --stage autoencoder: what large codes cost; more for fewer meaningful numbers in a code."""
    odd: int = 1
    """refiner --stage autoencoder: how many numbers of a code change sign where a picture is mirrored; 0 for
    objects that are not their own mirror images."""


def check_refiner(recipe: Recipe) -> None:
    """Raise `InputError` for what a stage needs or has no use for."""
    stage, flags = str(recipe.chosen_stage), recipe.refiner
    for part, table in ((recipe, _ONLY_FOR), (flags, _OWN)):
        for field in dataclasses.fields(part):
            stages, value = table.get(field.name), getattr(part, field.name)
            if stages is not None and stage not in stages and value != _default(field):
                name = "--" + field.name.replace("_", "-")
                shown = value if isinstance(value, int | float | str) else "given"
                raise InputError(name, shown, f"is for the stages {' and '.join(stages)}, not for {stage}")
    if stage in _ONLY_FOR["data"] and not recipe.data:
        raise InputError("--data", "not given", "expected one or more data sets")
    if stage == "yaw" and len(recipe.data) != 1:
        raise InputError("--data", f"{len(recipe.data)} data sets", "the stage yaw takes one of single views")
    needed = {"depth": ("generator",), "refiner": ("generator", "calibration")}
    for name in needed.get(stage, ()):
        if getattr(flags, name) is None:
            raise InputError(
                "--" + name, "not given", f"the stage {stage} needs the export of an earlier one"
            )
    for name in ("generator", "calibration", "yaw_net"):
        path, flag = getattr(flags, name), "--" + name.replace("_", "-")
        if path is not None:
            wanted = path / "pose" / "config.json" if name == "calibration" else path / "config.json"
            if not wanted.is_file():
                raise InputError(flag, str(path), f"expected an export ({wanted.name} is missing)")
    for name in ("warp", "latent", "feature", "guard"):
        check_range("--" + name, getattr(flags, name), 0, 1e6)
    check_range("--focal", flags.focal, 0.1, 20)
    check_range("--reach", flags.reach, 0.5, 10)
    check_range("--r1", flags.r1, 0, 1e6)
    check_range("--augment", flags.augment, 0, 1)
    check_range("--style-mixing", flags.style_mixing, 0, 1)
    check_range("--path-length", flags.path_length, 0, 1e6)
    check_range("--rate", flags.rate, 0, 1)
    check_range("--odd", flags.odd, 0, 64)
    check_range("--yaw-range", flags.yaw_range, 1, 180)
    if not 0 < flags.near[0] <= flags.near[1]:
        raise InputError("--near", flags.near, "expected two rising numbers above 0")


def refiner_task(recipe: Recipe, folders: list[Path], held_out: Path | None, config: TrainConfig) -> Task:
    """The task of a checked recipe. `folders`, `held_out`: its packed data sets; `config`: of the run."""
    stage, flags = recipe.chosen_stage, recipe.refiner
    shared: dict[str, Any] = {
        "seed": recipe.seed,
        "initial": recipe.initial,
        "data_name": ",".join(str(folder) for folder in recipe.data),
    }
    if stage in _DRAWING:
        return _generator_task(recipe, folders, held_out, config.steps, shared)
    if stage == "yaw":
        from manyview.methods.refiner.train_yaw import YawTask

        return YawTask(folders[0], held_out, **shared)
    assert flags.generator is not None, "checked with the recipe"
    if stage == "depth":
        from manyview.methods.refiner.pose import FOCAL
        from manyview.methods.refiner.sweep_frames import SearchOptions
        from manyview.methods.refiner.train_depth import DepthOptions, SelfTaughtTask

        looked = DepthOptions(
            masked=not flags.unmasked,
            reach=flags.reach,
            near=flags.near,
            focal=flags.focal or FOCAL,
            learned_focal=flags.learn_focal,
            yaw_range=flags.yaw_range or 0.0,
            search=SearchOptions(symmetric=flags.symmetric),
        )
        return SelfTaughtTask(
            flags.generator,
            held_out,
            preset=recipe.preset,
            steps=config.steps,
            batch_size=config.batch_size * config.accumulate,
            options=looked,
            yaw_net=flags.yaw_net,
            **shared,
        )
    from manyview.methods.refiner.losses import RefinerLosses
    from manyview.methods.refiner.train import RefinerTask

    assert flags.calibration is not None, "checked with the recipe"
    losses = RefinerLosses(
        warp=flags.warp,
        latent=flags.latent,
        feature=flags.feature,
        guard=flags.guard,
        warp_features=flags.warp_features,
        masked=not flags.unmasked,
    )
    for name in flags.without:
        losses = losses.without(name)
    return RefinerTask(
        flags.generator,
        flags.calibration,
        losses=losses,
        preset=recipe.preset,
        reach=flags.reach,
        **shared,
    )


def _generator_task(
    recipe: Recipe, folders: list[Path], held_out: Path | None, steps: int, shared: dict[str, Any]
) -> Task:
    flags = recipe.refiner
    shared = {
        **shared,
        "preset": recipe.preset,
        "size": recipe.size,
        "feature_net": None if held_out is None else _feature_net(),
    }
    if recipe.chosen_stage == "autoencoder":
        from manyview.methods.refiner.autoencoder import AutoencoderOptions
        from manyview.methods.refiner.train_autoencoder import AutoencoderTask

        redrawn = AutoencoderOptions(rate=flags.rate, odd=flags.odd).within(steps)
        return AutoencoderTask(folders, recipe.shares, held_out, autoencoder=redrawn, **shared)
    from manyview.methods.refiner.gan import GanOptions
    from manyview.methods.refiner.train_generator import GeneratorTask

    options = GanOptions(
        r1=flags.r1,
        augmentation=flags.augment,
        style_mixing=flags.style_mixing,
        path_length=flags.path_length,
    )
    return GeneratorTask(folders, recipe.shares, held_out, options=options, **shared)


def _feature_net() -> Any:
    """The package's image encoder as a network of features, where there is one."""
    import torch
    from transformers import CLIPVisionModelWithProjection

    from manyview.nets.image_encoder import EncoderFeatures
    from manyview.weights import open_bundle
    from manyview.weights.packing import load_component

    try:
        folder = open_bundle("compact", "dimvis").components["image_encoder"]
    except (InputError, KeyError):
        return None
    return EncoderFeatures(load_component(CLIPVisionModelWithProjection, folder, torch.float32))


def _default(field: dataclasses.Field[Any]) -> Any:
    """What a field is without being given; the only required one that is looked at holds data sets."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return () if field.default is dataclasses.MISSING else field.default
