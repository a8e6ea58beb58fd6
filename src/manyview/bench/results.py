"""Answers made elsewhere, read from a folder of results so that they are scored like a method's own.

    RESULTS/<scene>/                    one result, or
    RESULTS/<scene>/<any name>/ ...     one result a question

`<scene>` is a scene's name in the data set. A result is what `manyview synth` writes: images,
transforms.json and one train_test_split_<n>.json, whose train frames are the references and whose test
frames the answers. Frames are matched to the true views by azimuth. The references must lie in one rig of
four, 90 degrees apart; the rig's other views must be among the test frames (all 16 may be there, only the
rig's are scored).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from manyview.bench.orbit4 import NUM_PHASES, NUM_VIEWS, STEP_DEG, Question, places_on_orbit
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.frames import FrameTable
from manyview.io.scene import list_splits, read_scene
from manyview.io.transforms import Split, read_split, read_transforms, split_path
from manyview.types import Cameras

ARGUMENT = "TARGET"


def find_results(root: Path, scene: str) -> list[Path]:
    """The result folders of a scene. Raises `InputError` where there is none."""
    folder = root / scene
    if (folder / "transforms.json").is_file():
        return [folder]
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [child for child in inner if (child / "transforms.json").is_file()]
    if not found:
        raise InputError(ARGUMENT, str(folder), f"holds no result of the scene {scene} (transforms.json)")
    return found


def read_answers(root: Path, scene: str, orbit: Cameras, size: int) -> tuple[tuple[Question, ...], Tensor]:
    """The questions answered for a scene, and [Q, 4, 3, size, size] answers over white.

    `orbit`: the true views' 16 cameras in order. Raises `InputError` for results that do not fit the
    protocol, lack an asked view, or answer a question twice.
    """
    answers: dict[Question, Tensor] = {}
    for folder in find_results(root, scene):
        question, images = _read_result(folder, orbit, size)
        if question in answers:
            raise InputError(ARGUMENT, str(folder), f"answers {question} a second time")
        answers[question] = images
    questions = tuple(sorted(answers))
    return questions, torch.stack([answers[question] for question in questions])


def read_frames(folder: Path) -> tuple[FrameTable, Split, int]:
    """A result's frames, what its one split says of them, and that split's number."""
    table = read_transforms(folder)
    splits = list_splits(folder)
    if len(splits) != 1:
        raise InputError(ARGUMENT, str(folder), f"{len(splits)} train_test_split files, expected one")
    return table, read_split(split_path(folder, splits[0]), len(table.files)), splits[0]


def answer_rows(
    folder: Path, table: FrameTable, split: Split, frames: Sequence[int], wanted: Sequence[int]
) -> list[int]:
    """Where, among the split's frames in ascending order, the answers to the true frames `wanted` stand.

    `frames`: for each of the result's frames the true frame at its camera, or -1. Raises `InputError` where a
    wanted one has not exactly one test frame with an image.
    """
    order = sorted({*split.train_ids, *split.test_ids})
    rows = []
    for frame in wanted:
        found = [
            index
            for index in split.test_ids
            if frames[index] == frame and (folder / table.files[index]).is_file()
        ]
        if len(found) != 1:
            line = f"expected one answer at the camera of frame {frame}, found {len(found)}"
            raise InputError(ARGUMENT, str(folder), line)
        rows.append(order.index(found[0]))
    return rows


def _read_result(folder: Path, orbit: Cameras, size: int) -> tuple[Question, Tensor]:
    table, split, number = read_frames(folder)
    start = float(spherical_angles(orbit.centers.double())[0][0])
    azimuth = spherical_angles(table.cameras.centers.double())[0]
    places = places_on_orbit(azimuth, start)
    given = sorted({-1 if (place := places[index]) is None else place for index in split.train_ids})
    phases = {place % NUM_PHASES for place in given}
    if -1 in given or len(phases) != 1 or not 1 <= len(given) < NUM_VIEWS:
        shown = ", ".join(f"{float(azimuth[index]):.1f}" for index in split.train_ids)
        raise InputError(
            ARGUMENT,
            str(folder),
            f"references at azimuths {shown}, expected 1 to 3 of the true ones, 90 degrees apart",
        )
    references = tuple(place // NUM_PHASES for place in given)
    question = Question(len(references), phases.pop(), references)
    order = sorted({*split.train_ids, *split.test_ids})
    rows = []
    for slot, place in enumerate(question.azimuths):
        wanted = split.train_ids if slot in references else split.test_ids
        here = [index for index in wanted if places[index] == place]
        found = [index for index in here if (folder / table.files[index]).is_file()]
        if len(found) != 1:
            line = f"expected one image at azimuth {(start + place * STEP_DEG) % 360:.1f}, found {len(found)}"
            raise InputError(ARGUMENT, str(folder), line)
        rows.append(order.index(found[0]))
    views = read_scene(folder, size=size, split=number, argument=ARGUMENT)
    return question, views.over(1.0)[rows].clamp(0, 1)
