"""`manyview train tunet`: options of its own, and its tasks built from folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from manyview.cli.flags import check_range, check_readable
from manyview.errors import InputError
from manyview.progress import Progress
from manyview.training.config import TrainConfig

if TYPE_CHECKING:
    import torch

    from manyview.data.datasets import SceneArrays
    from manyview.data.packed import PackedViews
    from manyview.methods.tunet.examples import PosedLatents
    from manyview.training.task import Task

Stage = Literal["tunet", "base"]
STAGES: tuple[Stage, ...] = ("tunet", "base")
COMPACT: dict[str, TrainConfig] = {
    "tunet": TrainConfig(steps=6_000, batch_size=4, lr=1e-3, optimizer="muon"),
    "base": TrainConfig(steps=6_000, batch_size=32, lr=1e-3, optimizer="muon"),
}
# 450 epochs of about 35 300 scenes with ten pairs each, 32 pairs a step. The authors' cycle never left its
# warm-up; what the paper says is a cyclic rate that falls.
PAPER = TrainConfig(steps=4_960_000, batch_size=32, lr=1e-5, schedule="cyclic")
Split = Literal["all", "90-5-5", "1-of-99"]
Ablation = Literal["full", "no-cross-attention", "concat"]


@dataclass(frozen=True, kw_only=True)
class TunetRecipe:
    """What only TUNet's stages look at."""

    base: Path | None = None
    """The trained base (an export, or a folder in diffusers' layout), for the stage tunet."""
    t_star: int = 600
    mean_steps: int = 10
    targets_each: int = 4
    ablation: Ablation = "full"
    class_drop: float = 0.1
    min_snr: float = 0.0
    split: Split = "all"


UNASKED = TunetRecipe()
_ONLY_FOR_STAGE = {
    "base": "tunet",
    "t_star": "tunet",
    "mean_steps": "tunet",
    "targets_each": "tunet",
    "ablation": "tunet",
    "min_snr": "base",
}


class TunetAsked(Protocol):
    """Of a `Recipe` what is looked at here."""

    @property
    def tunet(self) -> TunetRecipe: ...
    @property
    def target(self) -> str: ...
    @property
    def chosen_stage(self) -> str | None: ...
    @property
    def preset(self) -> Literal["compact", "paper"]: ...
    @property
    def data(self) -> tuple[Path, ...]: ...
    @property
    def validation(self) -> Path | None: ...
    @property
    def shares(self) -> tuple[float, ...]: ...
    @property
    def prediction(self) -> Any: ...
    @property
    def time_exponent(self) -> float: ...
    @property
    def initial(self) -> Path | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def resolution(self) -> int: ...


def check_tunet(recipe: TunetAsked) -> None:
    """Raise `InputError` for options of TUNet that are wrong, or that another target or stage has no use
    for."""
    asked, stage = recipe.tunet, recipe.chosen_stage
    for field in fields(asked):
        value, flag = getattr(asked, field.name), "--" + field.name.replace("_", "-")
        if value == field.default:
            continue
        if recipe.target != "tunet":
            raise InputError(flag, value, f"is not for {recipe.target}, only for tunet")
        wanted = _ONLY_FOR_STAGE.get(field.name, stage)
        if stage != wanted:
            raise InputError(flag, value, f"is for the stage {wanted}, not for {stage}")
    if recipe.target != "tunet":
        return
    check_range("--t-star", asked.t_star, 1, 999)
    check_range("--mean-steps", asked.mean_steps, 1, asked.t_star)
    check_range("--targets-each", asked.targets_each, 1, 1000)
    check_range("--class-drop", asked.class_drop, 0, 1)
    check_range("--min-snr", asked.min_snr, 0, 1000)
    if stage == "base" and recipe.preset == "paper":
        line = "has no stage base: the paper's is Stable Diffusion 1.5 as it is, which --base names"
        raise InputError("--preset", "paper", line)
    if stage == "tunet":
        if asked.base is None:
            raise InputError(
                "--base", "not given", "the stage tunet needs a trained base (--stage base first)"
            )
        check_readable("--base", asked.base)
        for flag, value, usual in (
            ("--prediction", recipe.prediction, "v_prediction"),
            ("--time-exponent", recipe.time_exponent, 1.0),
        ):
            if value != usual:
                raise InputError(flag, value, "is for the stage base, not for tunet")


def tunet_task(
    recipe: TunetAsked,
    open_source: Callable[[Path, str], PackedViews | SceneArrays],
    cache_of: Callable[[Path], Path],
    vae: Any,
    device: torch.device,
    progress: Progress,
) -> Task:
    """The task of a stage. `cache_of`: where a data set's latents are kept, by its folder.

    Data sets are packed ones, folders of scenes, or MVImgNet's tree; of trees the training part of the split
    is used, and where there is no `--validation` the validation part for that.
    """
    from manyview.data.captures import is_capture_tree
    from manyview.io.manifest import read_json
    from manyview.methods.tunet.base_files import check_base

    channels = int(vae.config["latent_channels"])
    if recipe.tunet.base is not None:
        found = read_json(check_base(recipe.tunet.base) / "config.json", "--base").get("in_channels")
        if found != channels:
            line = f"reads {found} latent channels, the codec gives {channels}"
            raise InputError("--base", str(recipe.tunet.base), line)
    if recipe.preset == "paper" and channels != 4:
        line = "expected 4 for the preset paper (Stable Diffusion's codec)"
        raise InputError("--vae", f"{channels} latent channels", line)
    trees = [folder for folder in recipe.data if is_capture_tree(folder)]
    if recipe.tunet.split != "all" and len(trees) != len(recipe.data):
        raise InputError(
            "--split", recipe.tunet.split, "is for data sets of ordered captures (MVImgNet's tree)"
        )
    classes = _categories(trees)

    def encoded(folder: Path, flag: str, part: str) -> PosedLatents:
        from manyview.methods.tunet.examples import encode_captures, encode_orbits

        root, shared = cache_of(folder), {"device": device, "progress": progress}
        if not is_capture_tree(folder):
            return encode_orbits(open_source(folder, flag), root, vae, argument=flag, **shared)
        captures = _captures(folder, recipe.tunet.split, part)
        return encode_captures(captures, recipe.resolution, root, vae, classes=classes, **shared)

    sets = [encoded(folder, "--data", "train") for folder in recipe.data]
    validation = None
    if recipe.validation is not None:
        validation = encoded(recipe.validation, "--validation", "val")
    elif recipe.tunet.split == "90-5-5":
        validation = encoded(trees[0], "--data", "val")
    shared: dict[str, Any] = {
        "classes": classes,
        "shares": recipe.shares,
        "seed": recipe.seed,
        "initial": recipe.initial,
        "data_name": ",".join(str(folder) for folder in recipe.data),
    }
    if recipe.chosen_stage == "base":
        return _base_task(recipe, sets, validation, shared)
    return _tunet_task(recipe, sets, validation, shared, cache_of, device, progress)


def _base_task(
    recipe: TunetAsked, sets: list[PosedLatents], validation: PosedLatents | None, shared: dict[str, Any]
) -> Task:
    from manyview.methods.tunet.train_base import BaseTraining, TunetBaseTask

    options = BaseTraining(
        prediction=recipe.prediction,
        time_exponent=recipe.time_exponent,
        min_snr=recipe.tunet.min_snr,
        class_drop=recipe.tunet.class_drop,
    )
    return TunetBaseTask(sets, options=options, validation=validation, **shared)


def _tunet_task(
    recipe: TunetAsked,
    sets: list[PosedLatents],
    validation: PosedLatents | None,
    shared: dict[str, Any],
    cache_of: Callable[[Path], Path],
    device: torch.device,
    progress: Progress,
) -> Task:
    from manyview.methods.tunet.base_files import open_base
    from manyview.methods.tunet.means import MeanOptions, cache_estimates
    from manyview.methods.tunet.train import TunetTask, TunetTraining

    asked = recipe.tunet
    assert asked.base is not None, "checked with the recipe"
    base = open_base(asked.base, device)
    means = MeanOptions(t_star=asked.t_star, steps=asked.mean_steps)
    levels = means.levels(base.scheduler)

    def estimated(posed: PosedLatents, folder: Path) -> PosedLatents:
        work: dict[str, Any] = {"device": device, "progress": progress}
        return cache_estimates(posed, cache_of(folder), base.network, base.model, levels, means, **work)

    estimates = [estimated(*pair) for pair in zip(sets, recipe.data, strict=True)]
    held_out = None
    if validation is not None:
        held_out = estimated(validation, recipe.validation or recipe.data[0])
    options = TunetTraining(targets=asked.targets_each, class_drop=asked.class_drop, ablation=asked.ablation)
    alpha = levels.alpha(asked.t_star)
    shared |= {"preset": recipe.preset, "validation": held_out}
    return TunetTask(estimates, means, alpha, options=options, **shared)


def _captures(folder: Path, split: str, part: str) -> list[Any]:
    from manyview.data.captures import list_captures, split_names

    captures = list_captures(folder)
    kept = set(split_names([one.name for one in captures], split, part))
    return [one for one in captures if one.name in kept]


def _categories(trees: list[Path]) -> tuple[str, ...]:
    """The categories of all trees, sorted; their places are the class ids."""
    return tuple(sorted({path.parents[2].name for tree in trees for path in tree.glob("*/*/sparse/0")}))
