"""Asking every row every question of every scene, and scoring the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manyview.bench.orbit16_measure import bring_to
from manyview.bench.pair import PairScene, Question, answer_seed
from manyview.bench.pair_features import FeatureNet, pack
from manyview.bench.pair_rows import PairRow
from manyview.bench.partial import Partial, hash_options, hash_tensor
from manyview.bench.scoring import Metric, choose_metrics, score
from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.metrics.report import Skipped
from manyview.metrics.spectrum import high_frequency_power, radial_power
from manyview.progress import Progress
from manyview.types import Views

HF_POWER = "hf_power_025"
"""The variance of a view at frequencies above a quarter of a cycle per pixel."""
RINGS = 32
_PERCEPTUAL = ("stlpips_vgg", "lpips_vgg")


@dataclass(frozen=True)
class PairJob:
    """One run's questions to its rows."""

    rows: Sequence[PairRow]
    made: Mapping[Question, Tensor] | None
    """Answers made elsewhere, the first row's."""
    metrics: Mapping[str, Metric | Skipped]
    nets: Sequence[FeatureNet]
    size: int
    given_size: int
    perceptual_size: int
    seed: int

    def measure(
        self, scenes: Sequence[PairScene], partial: Partial, progress: Progress
    ) -> list[dict[str, Any]]:
        """One record a scene: {"scene", "questions", "truth": [one a question], "answers": {row: [one a
        question]}}. An answer has `views` (one number a target), `spectrum` (mean power over rings),
        `features` (packed, by network), `seconds`; the truth all but the seconds. Answers in `partial` are
        taken from there; a row that cannot answer a scene has none."""
        progress.start(sum(len(scene.questions) for scene in scenes) * len(self.rows), "answers")
        records = []
        try:
            for scene in scenes:
                records.append(self._measure_scene(scene, partial, progress))
        finally:
            progress.finish()
        return records

    def _measure_scene(self, scene: PairScene, partial: Partial, progress: Progress) -> dict[str, Any]:
        views = scene.read(self.given_size)
        assert views.cameras is not None, "the protocol reads posed scenes"
        over = views.over(1.0)
        small = resize_area(over, self.size, self.size)[0].clamp(0, 1)
        told = "".join(hash_tensor(p) for p in (over, views.cameras.world_from_cam, views.cameras.K))
        questions = [one for one in scene.questions if self.made is None or one in self.made]
        record: dict[str, Any] = {"scene": scene.name, "questions": questions, "truth": []}
        record["answers"] = {row.name: [] for row in self.rows}
        for question in questions:
            truth = small[list(question.targets)]
            record["truth"].append(self._describe(truth, truth))
            for place, row in enumerate(self.rows):
                if row.upright and scene.kind == "ordered":
                    progress.advance()
                    continue
                made = None if self.made is None or place else self.made[question]
                asked = {"reference": question.reference, "targets": question.targets}
                data = hash_options({"scene": told, **asked, "row": row.identity()})
                name = f"{question.name}/{row.name}"
                found = partial.find(name, data) if made is None else None
                if found is None:
                    found = {"scene": name, **self._answer(scene, views, question, truth, row, made)}
                    if made is None:
                        partial.add(found, data)
                record["answers"][row.name].append(found)
                progress.advance()
        return record

    def _answer(
        self,
        scene: PairScene,
        views: Views,
        question: Question,
        truth: Tensor,
        row: PairRow,
        made: Tensor | None,
    ) -> dict[str, Any]:
        assert views.cameras is not None, "the protocol reads posed scenes"
        if row.source is not None:
            row.source.begin_answer()
            row.source.begin_question(scene.capture.category)
        started, images = time.perf_counter(), made
        if images is None:
            given = replace(views[question.reference], names=())
            targets, seed = views.cameras[list(question.targets)], answer_seed(question, self.seed)
            if row.oracle is not None:
                images = row.oracle(given, targets, seed, truth)
            else:
                assert row.answer is not None, "rows without an answer are read from results"
                images = row.answer(given, targets, seed)
        seconds = time.perf_counter() - started + (row.source.saved_seconds if row.source else 0.0)
        images = images.detach().float().cpu()
        if images.ndim != 4 or len(images) != len(truth) or images.shape[-1] != images.shape[-2]:
            line = f"answered {tuple(images.shape)}, expected {[len(truth), 3, 'R', 'R']}"
            raise InputError("TARGET", row.name, line)
        return {**self._describe(bring_to(images, self.size), truth), "seconds": round(seconds, 3)}

    def _describe(self, images: Tensor, truth: Tensor) -> dict[str, Any]:
        _, power = radial_power(images, min(RINGS, self.size // 2))
        seen = images if self.perceptual_size == self.size else bring_to(images, self.perceptual_size)
        return {
            "views": score(images, truth, self.metrics),
            "spectrum": power.mean(dim=0).tolist(),
            "features": {net.name: pack(net(seen)) for net in self.nets},
        }


def pair_metrics(
    perceptual: bool, size: int, perceptual_size: int, device: torch.device | str
) -> dict[str, Metric | Skipped]:
    """Those of every table, the perceptual ones at a size of their own, and the power of fine detail."""
    chosen = dict(choose_metrics(perceptual, size, device))
    if perceptual_size != size:
        theirs = choose_metrics(perceptual, perceptual_size, device)
        for name in _PERCEPTUAL:
            metric = theirs[name]
            chosen[name] = metric if isinstance(metric, Skipped) else _resized(metric, perceptual_size)
    chosen[HF_POWER] = lambda images, _: high_frequency_power(images).float()
    return chosen


def _resized(metric: Metric, size: int) -> Metric:
    return lambda images, targets: metric(bring_to(images, size), bring_to(targets, size))
