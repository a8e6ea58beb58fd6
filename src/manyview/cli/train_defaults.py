"""Stages of every target of `manyview train`, and the steps, batches and rates they have by themselves."""

from __future__ import annotations

from typing import Literal

from manyview.cli import refiner_recipes, tunet_recipe
from manyview.training.config import TrainConfig

Preset = Literal["compact", "paper"]
_Hi3dStage = Literal["orbit", "refine", "depth", "elevation", "upscaler"]
_RefinerStage = Literal["refiner", "autoencoder", "generator", "depth", "yaw"]
Stage = Literal["joint", "eft", "vldm", "regressor", _Hi3dStage, tunet_recipe.Stage, _RefinerStage]

# The compact sizes on two CPU cores or one GPU.
DEFAULTS = {
    "vae": TrainConfig(steps=20_000, batch_size=16, lr=2e-3),
    "image_encoder": TrainConfig(steps=6_000, batch_size=64, lr=1e-3),
    "dimvis": TrainConfig(steps=20_000, batch_size=16, lr=1e-3, optimizer="muon"),
    "one2one": TrainConfig(steps=20_000, batch_size=16, lr=1e-3, optimizer="muon"),
    "sparsefusion": TrainConfig(steps=20_000, batch_size=4, lr=5e-4),
    "hi3d": TrainConfig(steps=20_000, batch_size=4, lr=1e-3, optimizer="muon"),
    "tunet": tunet_recipe.COMPACT["tunet"],
    "refiner": refiner_recipes.CONFIGS["refiner"],
}
# Target -> its stages, the first of which is meant when none is named.
STAGES = {
    "sparsefusion": ("joint", "eft", "vldm", "regressor"),
    "hi3d": ("orbit", "refine", "depth", "elevation", "upscaler"),
    "tunet": tunet_recipe.STAGES,
    "refiner": refiner_recipes.STAGES,
}
# Stages of hi3d that train a small network of their own, in one size.
SMALL_STAGES = {
    "depth": TrainConfig(steps=6_000, batch_size=32, lr=2e-3),
    "elevation": TrainConfig(steps=6_000, batch_size=64, lr=1e-3),
    "upscaler": TrainConfig(steps=6_000, batch_size=16, lr=1e-3),
}


def default_config(target: str, preset: Preset, stage: Stage | None = None) -> TrainConfig:
    """The published numbers of dimvis, sparsefusion or a stage of hi3d or tunet for `paper`, else ours."""
    if target == "tunet":
        if preset == "paper" and stage != "base":
            return tunet_recipe.PAPER
        return tunet_recipe.COMPACT["base" if stage == "base" else "tunet"]
    if target == "refiner":
        return refiner_recipes.CONFIGS.get(stage or "refiner", DEFAULTS[target])
    if target == "hi3d" and stage in SMALL_STAGES:
        return SMALL_STAGES[stage]
    if target == "hi3d" and preset == "paper":
        from manyview.methods.hi3d.spec import PAPER_TRAINING as by_stage

        numbers = by_stage["refine" if stage == "refine" else "orbit"]
        return TrainConfig(
            steps=int(numbers["steps"]), batch_size=int(numbers["batch_size"]), lr=float(numbers["lr"])
        )
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
