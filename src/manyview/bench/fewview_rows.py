"""Who answers under `fewview`: SparseFusion in its three modes, the regressor, and what needs no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.bench.fewview_options import BASELINES, HEADLINE, REGRESSOR, FewviewOptions
from manyview.bench.rows import NamedRow, bundle_weights
from manyview.geometry.normalization import focus_point
from manyview.lift.reconstruction import Kind, ReconstructOptions, reconstruct
from manyview.methods.sparsefusion.pipeline import Mode, SparseFusionPipeline
from manyview.methods.sparsefusion.regressor import PixelRegressor
from manyview.methods.sparsefusion.teacher import object_center
from manyview.types import Cameras, Views, join_cameras
from manyview.weights import open_bundle
from manyview.weights.packing import load_component

MODES: dict[str, Mode] = {HEADLINE: "field", "eft": "eft", "vldm": "vldm"}


class Answerer(Protocol):
    """Anything that tells views at cameras from posed views."""

    def __call__(self, given: Views, targets: Cameras, seed: int, /) -> Tensor:
        """[T, 3, S, S] in [0, 1] over white, for T cameras of the size of the given views."""
        ...


@dataclass(frozen=True, kw_only=True)
class Row(NamedRow):
    """One row of the table. One that may fail answers white where it does."""

    answer: Answerer


@dataclass(frozen=True, kw_only=True)
class SparseFusionAnswerer:
    """One mode of the pipeline."""

    pipeline: SparseFusionPipeline
    mode: Mode
    options: dict[str, Any]
    """Of the call, beside views, targets, mode and seed."""

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S]"""
        made = self.pipeline(given, targets, mode=self.mode, seed=seed, **self.options).views
        return made[(~made.observed).nonzero()[:, 0]].over(1.0)


@dataclass(frozen=True, kw_only=True)
class RegressorAnswerer:
    """The regressor, one view after the other."""

    network: PixelRegressor
    rows: int
    """Rays a side; the answer is brought to the size of the views by linear interpolation."""

    @torch.inference_mode()
    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S]"""
        assert given.cameras is not None, "the protocol gives posed views"
        weight = next(self.network.parameters())
        images = given.over(1.0).to(weight.device, weight.dtype)[None]
        ranges = self.network.depth_range(given.cameras, object_center(given.cameras))[None].to(images)
        context = self.network.encode(images, given.cameras, ranges)
        told = [
            self.network(context, targets[view], self.rows, self.rows, own="hide").colors[:, 0]
            for view in range(len(targets))
        ]
        colors = torch.cat(told).float().cpu()
        if colors.shape[-2:] == given.size:
            return colors
        return F.interpolate(colors, given.size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class FitAnswerer:
    """A fit of the lift package to the given views alone, with its defaults."""

    options: ReconstructOptions
    device: torch.device | str = "cpu"

    def __call__(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S]"""
        made = reconstruct(given, self.options, device=self.device)
        return made.render(targets).over(1.0)


def copy_nearest(given: Views, targets: Cameras, seed: int) -> Tensor:
    """[T, 3, S, S]: for every target the given view nearest in angle, as seen from where all cameras look.

    Of two equally near the first.
    """
    assert given.cameras is not None, "the protocol gives posed views"
    middle = focus_point(join_cameras([given.cameras, targets]))
    from_middle = [
        F.normalize((cameras.centers - middle).double(), dim=1) for cameras in (targets, given.cameras)
    ]
    # Rounded, so that which of two equally near ones wins does not hang on the last digit.
    likeness = (from_middle[0] @ from_middle[1].mT * 1e6).round()
    return given.over(1.0)[likeness.argmax(dim=1)]


def mean_of_inputs(given: Views, targets: Cameras, seed: int) -> Tensor:
    """[T, 3, S, S]: for every target the mean of the given views."""
    return given.over(1.0).mean(dim=0).expand(len(targets), -1, -1, -1)


def sparsefusion_rows(
    pipeline: SparseFusionPipeline,
    weights: dict[str, str | None],
    options: FewviewOptions,
    names: Sequence[str] = tuple(MODES),
) -> list[Row]:
    """The three modes, or some; options that are None are those recorded with the weights."""
    solver, num_steps = pipeline.choose_sampler(options.solver, options.num_steps)
    recorded = float(pipeline.config["default_guidance"])
    guidance = recorded if options.guidance is None else options.guidance
    given: dict[Mode, dict[str, Any]] = {
        "field": {"options": options.distill or pipeline.default_distillation},
        "eft": {"rows": options.ray_rows},
        "vldm": {"num_steps": num_steps, "solver": solver, "guidance": guidance},
    }
    return [
        Row(
            name=name,
            answer=SparseFusionAnswerer(pipeline=pipeline, mode=MODES[name], options=given[MODES[name]]),
            weights=weights,
            options=given[MODES[name]],
            may_fail=MODES[name] == "field",
        )
        for name in names
    ]


def regressor_row(
    weights: str, ray_rows: int, device: torch.device | str, dtype: torch.dtype | None = None
) -> Row:
    """The regressor's row. Raises `InputError` where `weights` (compact, a folder, a hub id) hold none."""
    bundle = open_bundle(weights, REGRESSOR, "--regressor")
    folder = bundle.folders("regressor")["regressor"]
    network: Any = load_component(PixelRegressor, folder, dtype or torch.float32, argument="--regressor")
    answer = RegressorAnswerer(network=network.to(device), rows=ray_rows)
    return Row(name=REGRESSOR, answer=answer, weights=bundle_weights(bundle), options={"rows": ray_rows})


def baseline_rows(names: Sequence[str] = BASELINES, device: torch.device | str = "cpu") -> list[Row]:
    """The rows that need no network."""

    def fitted(kind: Kind) -> tuple[Answerer, dict[str, Any]]:
        options = ReconstructOptions(to=kind)
        return FitAnswerer(options=options, device=device), {"fit": options}

    makers: dict[str, Callable[[], tuple[Answerer, dict[str, Any]]]] = {
        "copy_nearest": lambda: (copy_nearest, {}),
        "mean_of_inputs": lambda: (mean_of_inputs, {}),
        "field_fit": lambda: fitted("field"),
        "splats_fit": lambda: fitted("splats"),
    }
    rows = []
    for name in names:
        answer, options = makers[name]()
        rows.append(Row(name=name, answer=answer, options=options, may_fail=name.endswith("_fit")))
    return rows
