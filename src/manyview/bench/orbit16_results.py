"""Answers under `orbit16` made elsewhere, read from a folder of results.

    RESULTS/<scene>/                    one result, or
    RESULTS/<scene>/<any name>/ ...     one result an input

A result is what `manyview synth` writes: images, transforms.json and one train_test_split_<n>.json, whose
train frame is the input and whose test frames are the answers; a mesh.glb beside them is scored too. Its
world may be turned about the vertical axis and scaled against the true one: frames are matched to the true
views by how far in azimuth they stand from the input, and the input by its picture, which has to be that of
an input the protocol deals (a report lists them under `inputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import trimesh
from torch import Tensor

from manyview.bench.orbit4 import STEP_DEG, places_on_orbit
from manyview.bench.orbit16 import SCORED, Question, read_orbit16
from manyview.bench.results import ARGUMENT, find_results, read_frames
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.framing import resize_area
from manyview.io.glb import read_glb
from manyview.io.scene import read_scene
from manyview.types import Cameras

_LOOK = 64
"""Pixels a side at which an input is recognised."""
_SAME_PICTURE = 0.03
_TIE = 0.002
"""Mean absolute differences: of the same picture at most, and of two that cannot be told apart."""


@dataclass(frozen=True)
class Made:
    """An answer made elsewhere."""

    images: Tensor
    """[15, 3, R, R] over white, in the order of the question."""
    mesh: trimesh.Trimesh | None
    """In the world of the data set."""


def read_answers(
    root: Path, folder: Path, cameras: Cameras, questions: Sequence[Question]
) -> dict[Question, Made]:
    """The answers to some of a scene's questions. `folder`: the true scene; `cameras`: its 16 in order.

    Raises `InputError` for results that do not fit the protocol, lack a view, or answer a question twice.
    """
    scene = folder.name
    true = read_orbit16(folder, _LOOK, _LOOK).truth
    answers: dict[Question, Made] = {}
    for result in find_results(root, scene):
        question, made = _read_result(result, true, cameras, questions)
        if question in answers:
            line = f"answers for the input at place {question.place} a second time"
            raise InputError(ARGUMENT, str(result), line)
        answers[question] = made
    return answers


def _read_result(
    folder: Path, true: Tensor, cameras: Cameras, questions: Sequence[Question]
) -> tuple[Question, Made]:
    table, split, number = read_frames(folder)
    if len(split.train_ids) != 1:
        raise InputError(
            ARGUMENT, str(folder), f"{len(split.train_ids)} train frames, expected the input alone"
        )
    azimuth, _, distance = spherical_angles(table.cameras.centers.double())
    first = split.train_ids[0]
    places = places_on_orbit(azimuth, float(azimuth[first]))
    order = sorted({*split.train_ids, *split.test_ids})
    rows = []
    for view in SCORED:
        here = [index for index in split.test_ids if places[index] == view]
        found = [index for index in here if (folder / table.files[index]).is_file()]
        if len(found) != 1:
            line = f"expected one image {view * STEP_DEG:g} degrees from its input, found {len(found)}"
            raise InputError(ARGUMENT, str(folder), line)
        rows.append(order.index(found[0]))
    side = int(table.cameras.sizes.max())
    images = read_scene(folder, size=side, split=number, argument=ARGUMENT).over(1.0).clamp(0, 1)
    question = _recognise(folder, images[order.index(first)], true, questions)
    mesh = None
    if (folder / "mesh.glb").is_file():
        mesh = read_glb(folder / "mesh.glb", argument=ARGUMENT)
        wanted = spherical_angles(cameras.centers[question.place].double())
        turn = torch.deg2rad(wanted[0] - azimuth[first])
        mesh.apply_transform(trimesh.transformations.rotation_matrix(float(turn), (0, 0, 1)))
        mesh.apply_scale(float(wanted[2] / distance[first]))
    return question, Made(images[torch.tensor(rows)], mesh)


def _recognise(folder: Path, image: Tensor, true: Tensor, questions: Sequence[Question]) -> Question:
    look, _ = resize_area(image, _LOOK, _LOOK)
    apart = (true - look).abs().mean(dim=(1, 2, 3))
    best = min(questions, key=lambda question: float(apart[question.place]))
    off = float(apart[best.place])
    if off > float(apart.min()) + _TIE or off > _SAME_PICTURE:
        dealt = " or ".join(str(question.place) for question in questions)
        line = f"its input is not the true view at place {dealt} of the orbit"
        raise InputError(ARGUMENT, str(folder), line)
    return best
