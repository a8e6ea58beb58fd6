"""Answers under `fewview` made elsewhere, read from a folder of results.

    RESULTS/<scene>/                    one result, or
    RESULTS/<scene>/<any name>/ ...     one result a number of inputs

A result is what `manyview synth` writes: images, transforms.json and one train_test_split_<n>.json, whose
train frames are the inputs and whose test frames the answers. Frames are matched to the true ones by their
cameras, in the world of the data set. The inputs must be those that the protocol deals for their number (a
report lists them under `frames`); every scored frame must be among the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from manyview.bench.fewview import Deal
from manyview.bench.results import ARGUMENT, answer_rows, find_results, read_frames
from manyview.errors import InputError
from manyview.geometry.matching import match_cameras
from manyview.io.scene import read_scene
from manyview.types import Cameras


def read_answers(
    root: Path, scene: str, deal: Deal, cameras: Cameras, counts: Sequence[int], size: int
) -> dict[int, Tensor]:
    """Number of inputs -> [T, 3, size, size] answers over white for the scored frames, in their order.

    `cameras`: of all frames of the true scene. Raises `InputError` for results that do not fit the protocol,
    lack a scored frame, or answer a question twice.
    """
    answers: dict[int, Tensor] = {}
    for folder in find_results(root, scene):
        count, images = _read_result(folder, deal, cameras, counts, size)
        if count in answers:
            raise InputError(ARGUMENT, str(folder), f"answers for {count} inputs a second time")
        answers[count] = images
    return dict(sorted(answers.items()))


def _read_result(
    folder: Path, deal: Deal, cameras: Cameras, counts: Sequence[int], size: int
) -> tuple[int, Tensor]:
    table, split, number = read_frames(folder)
    frames = match_cameras(table.cameras, cameras)
    given = tuple(sorted(frames[index] for index in split.train_ids))
    if len(given) not in counts or given != deal.inputs(len(given)):
        shown = ", ".join("none" if frame < 0 else str(frame) for frame in given)
        wanted = " or ".join(str(deal.inputs(count)) for count in counts)
        raise InputError(ARGUMENT, str(folder), f"was given the true frames {shown}, expected {wanted}")
    rows = answer_rows(folder, table, split, frames, deal.scored)
    views = read_scene(folder, size=size, split=number, argument=ARGUMENT)
    return len(given), views.over(1.0)[torch.tensor(rows)].clamp(0, 1)
