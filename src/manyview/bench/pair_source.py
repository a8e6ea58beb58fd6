"""The views that TUNet draws for a question, each part once, however many rows of a table show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.pair_options import PairOptions
from manyview.bench.shared_parts import SharedParts
from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.methods.tunet.cameras import pair_cameras
from manyview.methods.tunet.model import TUNet
from manyview.methods.tunet.networks import CHOICES, Drawn
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.methods.tunet.select import Selection, lowest, pick
from manyview.types import Cameras, Views
from manyview.weights.packing import load_component

FUSIONS = {"fusion_a": "A:eps_t", "fusion_b": "B:latent_T"}
"""Rows and the candidates that they are; both are drawn whatever the weights record."""


class PairSource(SharedParts):
    """Views of one pipeline, and of the same with other translators."""

    def __init__(
        self,
        pipeline: TunetPipeline,
        options: PairOptions,
        variants: Mapping[str, TunetPipeline] | None = None,
    ) -> None:
        """Raises `InputError` for steps out of range."""
        super().__init__()
        self.pipeline, self.variants = pipeline, dict(variants or {})
        plan = pipeline.plan(mean_steps=options.num_steps)
        self.selection: Selection = plan.selection
        self.recorded = tuple(candidate.name for candidate in plan.candidates)
        """The candidates that the weights choose from."""
        self._asked: dict[str, Any] = {"mean_steps": options.num_steps}
        self.options: dict[str, Any] = plan.record
        """What beside the weights decides the headline's views."""
        classes = (pipeline.bundle.settings if pipeline.bundle else {}).get("classes", ())
        self._classes: list[str] = list(classes)
        self._category = ""

    def begin_question(self, category: str) -> None:
        """What the scene shows, where that is known; a category that the weights do not know counts as
        none."""
        self._category = category

    def drawn(self, given: Views, targets: Cameras, seed: int) -> tuple[Drawn, tuple[int, ...]]:
        """All candidates of the pipeline and both fusions, and which of them the weights choose from."""
        usable = [name for name in self.recorded if name != "mean"]
        names = list(dict.fromkeys([*usable, *FUSIONS.values()]))

        def make() -> Drawn:
            return self._predict(self.pipeline, given, targets, seed, names)

        return self.keep(given, seed, "drawn", make), tuple(range(len(usable)))

    def selected(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S] as the pipeline itself would answer."""
        if self.recorded == ("mean",):
            return self.mean(given, targets, seed)
        if "mean" in self.recorded:  # scored among the others by the pictures themselves

            def make() -> Drawn:
                return self._predict(self.pipeline, given, targets, seed, self.recorded)

            return self.keep(given, seed, "selected", make).images
        drawn, own = self.drawn(given, targets, seed)
        return pick(drawn.candidates[list(own)], lowest(drawn.scores[list(own)]))

    def fused(self, name: str, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S] of one candidate, whatever the selection."""
        drawn, _ = self.drawn(given, targets, seed)
        return drawn.candidates[drawn.names.index(name)]

    def mean(self, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S] what the translator tells, decoded, without noise and sampling."""

        def make() -> Drawn:
            return self._predict(self.pipeline, given, targets, seed, ["mean"])

        return self.keep(given, seed, "mean", make).images

    def variant(self, name: str, given: Views, targets: Cameras, seed: int) -> Tensor:
        """[T, 3, S, S] as `selected`, of another translator."""

        def make() -> Drawn:
            return self._predict(self.variants[name], given, targets, seed, self.recorded)

        return self.keep(given, seed, f"variant {name}", make).images

    def _predict(
        self, pipeline: TunetPipeline, given: Views, targets: Cameras, seed: int, names: Sequence[str]
    ) -> Drawn:
        assert given.cameras is not None, "the protocol gives posed views"
        size = pipeline.resolution
        image, _ = resize_area(given.over(1.0), size, size)
        pairs = pair_cameras(given.cameras, targets, focus=torch.zeros(3))
        known = self._category in self._classes
        return pipeline.predict(
            image,
            pairs,
            items=range(len(targets)),
            seed=seed,
            candidates=list(names),
            selection=self.selection,
            class_ids=torch.tensor([self._classes.index(self._category)]) if known else None,
            **self._asked,
        )


def with_translator(pipeline: TunetPipeline, folder: Path) -> TunetPipeline:
    """The pipeline with the translator in `folder` (an export, or a component) in place of its own.

    Raises `InputError` for one of other latents or another t*.
    """
    place = folder / "tunet" if (folder / "tunet").is_dir() else folder
    if not (place / "config.json").is_file():
        raise InputError("--variants", str(folder), "expected the export of a translator's training")
    own = pipeline.tunet
    network = load_component(TUNet, place, own.dtype, argument="--variants").to(own.device)
    told = network.options.latent_channels, network.options.t_star
    if told != (own.options.latent_channels, own.options.t_star):
        line = f"is for {told[0]} latent channels and t* {told[1]}"
        raise InputError("--variants", str(folder), line)
    chosen = {name: pipeline.config[name] for name in CHOICES}
    return TunetPipeline(**{**pipeline.components, "tunet": network}, **chosen)
