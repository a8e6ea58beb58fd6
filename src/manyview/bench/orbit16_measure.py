"""Asking every row about every scene and input, and scoring the answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyview.bench.lift_scores import score_mesh
from manyview.bench.orbit16 import SCORED, Question, TrueOrbit, answer_seed, read_orbit16
from manyview.bench.orbit16_results import Made
from manyview.bench.orbit16_rows import OrbitRow
from manyview.bench.orbit16_scores import PER_MESH, score_turning
from manyview.bench.partial import Partial, hash_options, hash_tensor
from manyview.bench.scoring import Metric, score, spread
from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.glb import read_glb
from manyview.io.manifest import sha256_of_file
from manyview.methods.hi3d.degradation import enlarge
from manyview.metrics.report import Skipped
from manyview.progress import Progress


@dataclass(frozen=True)
class Orbit16Job:
    """One run's questions to its rows."""

    rows: Sequence[OrbitRow]
    made: Mapping[Question, Made] | None
    """Answers made elsewhere, the first row's."""
    metrics: Mapping[str, Metric | Skipped]
    size: int
    given_size: int
    seed: int

    def measure(
        self,
        folders: Sequence[Path],
        questions: Mapping[str, Sequence[Question]],
        partial: Partial,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """One record a scene: {"scene", "truth": [one a question: how the true views turn], "answers": {row:
        [one a question]}}. An answer has `views`, `mean`, `spread` (one number a scored view), `pairs` (one a
        pair of neighbours), `orbit`, `mesh`, as far as the row gives them, `seconds`, and `failed`: what was
        refused. Answers in `partial` are taken from there."""
        progress.start(sum(map(len, questions.values())) * len(self.rows), "answers")
        records = []
        try:
            for folder in folders:
                asked = questions[folder.name]
                records.append(self._measure_scene(folder, asked, partial, progress))
        finally:
            progress.finish()
        return records

    def _measure_scene(
        self, folder: Path, questions: Sequence[Question], partial: Partial, progress: Progress
    ) -> dict[str, Any]:
        orbit = read_orbit16(folder, self.size, self.given_size)
        told = self._hash(orbit)
        record: dict[str, Any] = {"scene": folder.name, "truth": []}
        record["answers"] = {row.name: [] for row in self.rows}
        for question in questions:
            truth = orbit.truth[question.order]
            record["truth"].append(score_turning(truth, truth))
            for place, row in enumerate(self.rows):
                data = hash_options({"scene": told, "input": question.place, "row": row.identity()})
                name = f"{question.name}/{row.name}"
                made = None if self.made is None or place else self.made[question]
                found = partial.find(name, data) if made is None else None
                if found is None:
                    found = {"scene": name, **self._answer(orbit, truth, question, row, made)}
                    if made is None:
                        partial.add(found, data)
                record["answers"][row.name].append(found)
                progress.advance()
        return record

    def _hash(self, orbit: TrueOrbit) -> dict[str, str]:
        views = orbit.views
        assert views.cameras is not None, "the protocol has checked"
        parts = [views.over(1.0), views.cameras.world_from_cam, views.cameras.K]
        told = {"views": "".join(hash_tensor(part) for part in parts)}
        has_mesh = any(row.mesh for row in self.rows) and orbit.mesh_file.is_file()
        return {**told, "mesh": sha256_of_file(orbit.mesh_file)} if has_mesh else told

    def _answer(
        self, orbit: TrueOrbit, truth: Tensor, question: Question, row: OrbitRow, made: Made | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if row.source is not None:
            row.source.begin_answer()
        started = time.perf_counter()
        images, mesh = (None, None) if made is None else (made.images, made.mesh)
        try:
            if row.oracle is not None:
                images = row.oracle(truth)
            elif made is None:
                given, targets = orbit.ask(question)
                seed = answer_seed(question, self.seed)
                if row.answer is not None:
                    images = row.answer(given, targets, seed)
                if row.mesh is not None and orbit.mesh_file.is_file():  # else there is nothing to compare
                    mesh = row.mesh(given, targets, seed)
        except InputError as error:
            if not row.may_fail:
                raise
            found["failed"] = str(error)
            if row.answer is not None:
                images = torch.ones(row.num_samples, *truth[1:].shape)
        seconds = time.perf_counter() - started + (row.source.saved_seconds if row.source else 0.0)
        found["seconds"] = round(seconds, 3)
        if images is not None:
            found |= self._score_views(images, truth, row)
        if mesh is not None and orbit.mesh_file.is_file():
            scores = score_mesh(mesh, read_glb(orbit.mesh_file, argument="--data"), names=PER_MESH)
            found["mesh"] = {name: value["mean"] for name, value in scores.items()}
        return found

    def _score_views(self, images: Tensor, truth: Tensor, row: OrbitRow) -> dict[str, Any]:
        samples = images.detach().float().cpu()
        samples = samples[None] if samples.ndim == 4 else samples
        expected = (row.num_samples, len(SCORED), 3)
        side = samples.shape[-1]
        if samples.ndim != 5 or tuple(samples.shape[:3]) != expected or samples.shape[-2] != side:
            line = f"answered {tuple(images.shape)}, expected {[*expected, 'R', 'R']}"
            raise InputError("TARGET", row.name, line)
        samples = bring_to(samples, self.size)
        wanted = truth[1:]
        found: dict[str, Any] = {"views": score(samples[0], wanted, self.metrics)}
        if row.num_samples > 1:
            found["mean"] = score(samples.mean(dim=0), wanted, self.metrics)
            found["spread"] = {"pixel_std": spread(samples)}
        turning = score_turning(torch.cat([truth[:1], samples[0]]), truth)
        found["pairs"] = {"neighbour_mae": turning.pop("neighbour_mae")}
        return {**found, "orbit": turning}


def bring_to(images: Tensor, size: int) -> Tensor:
    """[..., 3, size, size] in [0, 1]: square images averaged by area, or enlarged bicubically (as
    orbits are for Hi3D's refiner)."""
    side = images.shape[-1]
    if side >= size:
        return resize_area(images, size, size)[0].clamp(0, 1)
    return enlarge(images.flatten(0, -4), size, size).unflatten(0, images.shape[:-3])
