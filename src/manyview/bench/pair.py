"""The protocol `pair`: one view given, others asked for one by one.

As TUNet scores (Singh and Subramanyam 2025), on two kinds of data. An orbit of 16 renders: the reference is
drawn by the scene's name and the seed, all 15 others are targets, 22.5 to 180 degrees away. An ordered
capture (MVImgNet, or any scene whose frames were filmed in order): the paper's pairs, of frames 1 to 10 with
frames 15 to 25, ten of them, drawn by name and seed; captures of fewer than 10 frames are left out. How far
away a target of a capture is: the angle between both cameras as seen from the point that all of them look at,
counted to the next multiple of 22.5 degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.bench.draws import number_of, shuffled
from manyview.bench.orbit4 import STEP_DEG, orbit_order
from manyview.bench.orbit16 import check_scene, deal_inputs
from manyview.bench.orbit16_options import NUM_AZIMUTHS
from manyview.bench.pair_options import PairOptions
from manyview.data.captures import OrderedCapture, is_capture_tree, list_captures, split_names
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.io.scene import read_scene
from manyview.io.transforms import read_transforms
from manyview.methods.tunet.cameras import DISTANCE, scene_focus
from manyview.methods.tunet.pairs import draw_pairs
from manyview.types import Cameras, Views

PROTOCOL = "pair"


@dataclass(frozen=True)
class Question:
    """One reference of a scene and what is asked for from it."""

    scene: str
    reference: int
    """Number of the given frame."""
    targets: tuple[int, ...]
    """Numbers of the frames asked for."""
    steps: tuple[int, ...]
    """How far each is from the reference, in half degrees so that it is a whole number."""

    @property
    def name(self) -> str:
        """Of the scene and the reference."""
        return f"{self.scene}/{self.reference}"


@dataclass(frozen=True)
class PairScene:
    """A scene with its questions; no image of it is read yet."""

    name: str
    kind: Literal["orbit", "ordered"]
    capture: OrderedCapture
    questions: tuple[Question, ...]

    def read(self, size: int, argument: str = "--data") -> Views:
        """The frames of the scene, square, `size` pixels a side, with their cameras.

        Renders are made square by a white border, captures cut around the middle, as the paper cuts them.
        The world's origin is the point that the scene is about: a capture's world is moved there, and scaled
        so that its cameras stand 1.5 away on average.
        """
        if self.kind == "orbit":
            views = read_scene(self.capture.folder, size=size, argument=argument)
            return replace(views, images=views.images.clamp(0, 1), depths=None)
        capture = self.capture
        images = torch.stack([capture.read(frame, size, argument) for frame in range(len(capture))])
        return Views(images=images, cameras=self.cameras(size))

    def cameras(self, size: int) -> Cameras:
        """Those of `read`, without any image."""
        cameras = self.capture.cameras(size)
        if self.kind == "orbit":
            return cameras
        focus = scene_focus(cameras)
        away = torch.linalg.vector_norm(cameras.centers - focus, dim=1).mean()
        scale = DISTANCE / float(away)
        return Similarity(scale, torch.eye(3, dtype=focus.dtype), -scale * focus).apply_to_cameras(cameras)


def find_scenes(
    data: Path,
    options: PairOptions,
    names: Sequence[str] | None = None,
    limit: int | None = None,
    every: int = 1,
) -> tuple[list[PairScene], list[str]]:
    """The scenes asked about, and the names of captures that are too short.

    Of a data set the part that `options.split` scores; of these those named (all when None), every so many,
    the first. Raises `InputError` for scenes without cameras, names that are not there, and where none is
    left.
    """
    captures = {one.name: one for one in list_captures(data)}
    chosen = split_names(captures, options.split, "test")
    if names is not None:
        unknown = sorted(set(names) - set(chosen))
        if unknown or not names:
            raise InputError("scenes", ", ".join(unknown), f"expected names of scenes in {data}")
        chosen = tuple(name for name in chosen if name in set(names))
    chosen = chosen[::every][:limit]
    tree = is_capture_tree(data)
    found, short = [], []
    for name in chosen:
        scene = _open_scene(captures[name], options, tree)
        if scene.questions:
            found.append(scene)
        else:
            short.append(name)
    if not found:
        raise InputError("--data", str(data), "holds only captures of fewer than 10 frames")
    return found, short


def answer_seed(question: Question, seed: int) -> int:
    """The number that decides an answer's noise, from these alone: other scenes do not matter."""
    return number_of(f"pair/{seed}/{question.name}/answer") >> 16


def distances_deg(cameras: Cameras, reference: int) -> Tensor:
    """[V] the angle in degrees between every camera and the reference, seen from the point that the optical
    axes are nearest to."""
    away = F.normalize((cameras.centers - scene_focus(cameras)).double(), dim=1)
    return torch.rad2deg(torch.arccos((away @ away[reference]).clamp(-1, 1)))


def _open_scene(capture: OrderedCapture, options: PairOptions, tree: bool) -> PairScene:
    if options.pairing == "orbit" and tree:
        raise InputError(
            "--pairing", options.pairing, "captures of MVImgNet are no orbits of 16; expected ordered"
        )
    if options.pairing != "ordered" and not tree:
        try:
            check_scene(capture.folder)
        except InputError:
            if options.pairing == "orbit":
                raise
        else:
            return _open_orbit(capture, options)
    return _open_ordered(capture, options)


def _open_orbit(capture: OrderedCapture, options: PairOptions) -> PairScene:
    cameras = read_transforms(capture.folder).cameras
    order = orbit_order(cameras, str(capture.folder), protocol=PROTOCOL, elevation_deg=None)
    questions = []
    for place in deal_inputs(capture.name, options.num_inputs, options.seed):
        turned = [order[(place + step) % NUM_AZIMUTHS] for step in range(NUM_AZIMUTHS)]
        far = [min(step, NUM_AZIMUTHS - step) * STEP_DEG for step in range(1, NUM_AZIMUTHS)]
        steps = tuple(round(2 * degrees) for degrees in far)
        questions.append(Question(capture.name, turned[0], tuple(turned[1:]), steps))
    return PairScene(capture.name, "orbit", capture, tuple(questions))


def _open_ordered(capture: OrderedCapture, options: PairOptions) -> PairScene:
    key = f"pair/{options.seed}/{capture.name}"
    pairs = draw_pairs(len(capture), lambda items, what: shuffled(items, f"{key}/{what}"))
    questions = []
    for reference in dict.fromkeys(reference for reference, _ in pairs):
        targets = tuple(dict.fromkeys(target for one, target in pairs if one == reference))
        away = distances_deg(capture.table.cameras, reference)[list(targets)]
        steps = tuple(round(2 * STEP_DEG * round(degrees / STEP_DEG)) for degrees in away.tolist())
        questions.append(Question(capture.name, reference, targets, steps))
    return PairScene(capture.name, "ordered", capture, tuple(questions))
