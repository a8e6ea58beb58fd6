"""Answers under `pair` made elsewhere, read from a folder of results.

    RESULTS/<scene>/                    one result, or
    RESULTS/<scene>/<any name>/ ...     one result a reference

A result is what `manyview synth` writes: images, transforms.json and one train_test_split_<n>.json, whose
train frame is the reference and whose test frames are the answers. Frames are matched to the true ones by
their cameras, in the world of the data set. The reference must be one that the protocol deals (a report lists
them under `questions`); every target must be among the answers, others are passed over.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from manyview.bench.pair import PairScene, Question
from manyview.bench.results import ARGUMENT, answer_rows, find_results, read_frames
from manyview.errors import InputError
from manyview.geometry.matching import match_cameras
from manyview.io.scene import read_scene


def read_answers(root: Path, scene: PairScene) -> dict[Question, Tensor]:
    """[T, 3, R, R] over white for some of a scene's questions.

    Raises `InputError` for results that do not fit the protocol, lack a target, or answer a question twice.
    """
    answers: dict[Question, Tensor] = {}
    for folder in find_results(root, scene.name):
        question, images = _read_result(folder, scene)
        if question in answers:
            line = f"answers for the reference {question.reference} a second time"
            raise InputError(ARGUMENT, str(folder), line)
        answers[question] = images
    return answers


def _read_result(folder: Path, scene: PairScene) -> tuple[Question, Tensor]:
    table, split, number = read_frames(folder)
    frames = match_cameras(table.cameras, scene.capture.table.cameras)
    given = [frames[index] for index in split.train_ids]
    asked = {question.reference: question for question in scene.questions}
    if len(given) != 1 or given[0] not in asked:
        shown = ", ".join("none" if frame < 0 else str(frame) for frame in given)
        wanted = " or ".join(str(reference) for reference in asked)
        raise InputError(ARGUMENT, str(folder), f"was given the true frames {shown}, expected {wanted}")
    question = asked[given[0]]
    rows = answer_rows(folder, table, split, frames, question.targets)
    side = int(table.cameras.sizes.max())
    views = read_scene(folder, size=side, split=number, argument=ARGUMENT)
    return question, views.over(1.0)[torch.tensor(rows)].clamp(0, 1)
