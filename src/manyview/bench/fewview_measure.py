"""Asking every row for every scene and number of inputs, and scoring the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.fewview import Deal, answer_seed, read_frames
from manyview.bench.fewview_rows import Row
from manyview.bench.partial import Partial, hash_options, hash_tensor
from manyview.bench.scoring import Metric, score
from manyview.errors import InputError
from manyview.metrics.report import Skipped
from manyview.progress import Progress
from manyview.types import Views


@dataclass(frozen=True)
class FewviewJob:
    """One run's questions to its rows."""

    rows: Sequence[Row]
    made: Mapping[str, Mapping[int, Tensor]] | None
    """Scene -> number of inputs -> answers made elsewhere, the first row's; the others are asked the same."""
    metrics: Mapping[str, Metric | Skipped]
    counts: Sequence[int]
    size: int
    seed: int

    def measure(
        self, folders: Sequence[Path], deals: Mapping[str, Deal], partial: Partial, progress: Progress
    ) -> list[dict[str, Any]]:
        """One record a scene: as `scoring.Record`, with `seconds` [one a number of inputs] of every row, the
        `counts` asked for, and `failed`: what was refused. Answers in `partial` are taken from there."""
        progress.start(len(folders) * len(self.counts) * len(self.rows), "answers")
        records = []
        try:
            for folder in folders:
                views = read_frames(folder, self.size)
                records.append(self._measure_scene(folder.name, views, deals[folder.name], partial, progress))
        finally:
            progress.finish()
        return records

    def _measure_scene(
        self, scene: str, views: Views, deal: Deal, partial: Partial, progress: Progress
    ) -> dict[str, Any]:
        assert views.cameras is not None, "the protocol has checked"
        parts = [views.over(1.0), views.cameras.world_from_cam, views.cameras.K]
        told = "".join(hash_tensor(part) for part in parts)
        made = None if self.made is None else self.made[scene]
        counts = [count for count in self.counts if made is None or count in made]
        record: dict[str, Any] = {"scene": scene, "counts": counts, "references": [], "failed": []}
        record |= {
            "rows": {row.name: {} for row in self.rows},
            "seconds": {row.name: [] for row in self.rows},
        }
        for count in counts:
            record["references"] += [count] * len(deal.scored)
            for place, row in enumerate(self.rows):
                asked = {"inputs": deal.inputs(count), "scored": deal.scored, "row": row.identity()}
                data = hash_options({"views": told, **asked})
                name = f"{scene}/{count}/{row.name}"
                answers = None if made is None or place else made[count]
                found = partial.find(name, data) if answers is None else None
                if found is None:
                    found = {"scene": name, **self._answer(scene, views, deal, count, row, answers)}
                    if answers is None:
                        partial.add(found, data)
                for metric, values in found["scores"].items():
                    record["rows"][row.name].setdefault(metric, []).extend(values)
                record["seconds"][row.name].append(found["seconds"])
                if "failed" in found:
                    why = {"row": row.name, "scene": scene, "inputs": count, "reason": found["failed"]}
                    record["failed"].append(why)
                progress.advance()
        return record

    def _answer(
        self, scene: str, views: Views, deal: Deal, count: int, row: Row, answers: Tensor | None
    ) -> dict[str, Any]:
        """{"scores", "seconds", perhaps "failed"} of one row's answer to one question."""
        assert views.cameras is not None, "the protocol has checked"
        truth = views.over(1.0)[list(deal.scored)]
        found: dict[str, Any] = {}
        started = time.perf_counter()
        if answers is None:
            given, targets = views[list(deal.inputs(count))], views.cameras[list(deal.scored)]
            try:
                answers = row.answer(given, targets, answer_seed(scene, count, self.seed))
            except InputError as error:
                if not row.may_fail:
                    raise
                answers, found["failed"] = torch.ones_like(truth), str(error)
        seconds = time.perf_counter() - started
        answers = answers.detach().float().cpu().clamp(0, 1)
        if answers.shape != truth.shape:
            line = f"answered {tuple(answers.shape)}, expected {tuple(truth.shape)}"
            raise InputError("TARGET", row.name, line)
        return {**found, "scores": score(answers, truth, self.metrics), "seconds": round(seconds, 3)}
