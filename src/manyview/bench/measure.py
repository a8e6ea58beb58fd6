"""Asking every entry all questions about every scene, and scoring the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manyview.bench.entries import Entry
from manyview.bench.orbit4 import NUM_VIEWS, Question, all_questions, observed_slots, read_orbit
from manyview.bench.partial import Partial, hash_tensor
from manyview.bench.predictors import GuidedPredictor, Predictor
from manyview.bench.results import read_answers
from manyview.bench.scoring import Metric, score, spread
from manyview.metrics.report import Skipped
from manyview.progress import Progress
from manyview.types import Cameras


@dataclass(frozen=True)
class Job:
    """One run's questions to its entries."""

    entries: list[Entry]
    metrics: Mapping[str, Metric | Skipped]
    results: Path | None
    size: int
    batch_size: int

    def measure(
        self, folders: Sequence[Path], orbits: Mapping[str, Cameras], partial: Partial, progress: Progress
    ) -> list[dict[str, Any]]:
        """The records of all scenes, those in `partial` taken from there."""
        count = len(all_questions()) * sum(entry.num_answers for entry in self.entries)
        progress.start(len(folders) * count, "view sets")
        records = []
        try:
            for folder in folders:
                images = read_orbit(folder, self.size)
                data = hash_tensor(images)
                record = partial.find(folder.name, data)
                if record is None:
                    record = self._measure_scene(folder.name, images, orbits[folder.name], progress)
                    partial.add(record, data)
                else:
                    progress.advance(count)
                records.append(record)
        finally:
            progress.finish()
        return records

    def _measure_scene(
        self, scene: str, orbit: Tensor, cameras: Cameras, progress: Progress
    ) -> dict[str, Any]:
        started = time.perf_counter()
        made: Tensor | None = None
        questions = all_questions()
        if self.results is not None:
            questions, made = read_answers(self.results, scene, cameras, self.size)
        truth = torch.stack([orbit[list(question.azimuths)] for question in questions])
        observed = observed_slots(questions)
        asked = ~observed
        rows: dict[str, dict[str, list[float]]] = {}
        for entry in self.entries:
            if made is not None and entry is self.entries[0]:
                progress.advance(len(questions))
                rows[entry.name] = score(made[asked], truth[asked], self.metrics)
                continue
            first: dict[float | None, Tensor] = {}
            for guidance in entry.candidates or (None,):
                first[guidance] = self._ask(entry, scene, questions, truth, guidance, 0, progress)
                rows[entry.row(guidance)] = score(first[guidance][asked], truth[asked], self.metrics)
            if entry.num_samples > 1:
                samples = [_choose(entry, questions, first)[asked]]
                for sample in range(1, entry.num_samples):
                    samples.append(self._ask_chosen(entry, scene, questions, truth, sample, progress)[asked])
                drawn = torch.stack(samples)
                rows[entry.mean_row] = score(drawn.mean(dim=0), truth[asked], self.metrics)
                rows[entry.spread_row] = {"pixel_std": spread(drawn)}
        references = [question.num_references for question in questions for _ in question.missing]
        seconds = time.perf_counter() - started
        return {"scene": scene, "references": references, "rows": rows, "seconds": round(seconds, 3)}

    def _ask(
        self,
        entry: Entry,
        scene: str,
        questions: Sequence[Question],
        truth: Tensor,
        guidance: float | None,
        sample: int,
        progress: Progress,
    ) -> Tensor:
        """[Q, 4, 3, H, W] one answer to every question."""
        answers = []
        for start in range(0, len(questions), self.batch_size):
            part = tuple(questions[start : start + self.batch_size])
            observed = observed_slots(part)
            true = truth[start : start + self.batch_size]
            # Zeroed, so that no predictor can look at what it is asked for.
            given = torch.where(observed[:, :, None, None, None], true, 0.0)
            items = [question.item(scene, sample) for question in part]
            if guidance is None:
                answers.append(cast(Predictor, entry.predictor)(given, observed, items))
            else:
                answers.append(cast(GuidedPredictor, entry.predictor)(given, observed, items, guidance))
            progress.advance(len(part))
        return torch.cat(answers)

    def _ask_chosen(
        self,
        entry: Entry,
        scene: str,
        questions: Sequence[Question],
        truth: Tensor,
        sample: int,
        progress: Progress,
    ) -> Tensor:
        """As `_ask`, each question at the guidance that counts for it."""
        if not entry.chosen:
            return self._ask(entry, scene, questions, truth, None, sample, progress)
        answers = torch.empty_like(truth)
        for count in range(1, NUM_VIEWS):
            where = [i for i, question in enumerate(questions) if question.num_references == count]
            chosen = entry.chosen[count - 1]
            part = [questions[i] for i in where]
            answers[where] = self._ask(entry, scene, part, truth[where], chosen, sample, progress)
        return answers


def _choose(entry: Entry, questions: Sequence[Question], answers: Mapping[float | None, Tensor]) -> Tensor:
    """Of the answers at every guidance those at the one that counts."""
    if not entry.chosen:
        return answers[None]
    return torch.stack(
        [answers[entry.chosen[question.num_references - 1]][i] for i, question in enumerate(questions)]
    )
