"""The protocol `fewview`: a few posed views of an object given, others of it asked for.

As SparseFusion asks (Zhou and Tulsiani 2023, section 4), without what its released script lets through: it
scores the given frames as well. Here every scene deals its frames once, by the seed and the scene's name: the
first k of one order are the inputs for k, and the scored frames are inputs for no k, so that all k are
compared on the same frames.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from manyview.bench.draws import number_of, shuffled
from manyview.bench.fewview_options import COUNTS, NUM_SCORED
from manyview.errors import InputError
from manyview.geometry.matching import match_cameras
from manyview.io.scene import list_splits, read_scene
from manyview.io.transforms import read_split, read_transforms, split_path
from manyview.types import Cameras, Views


@dataclass(frozen=True)
class Deal:
    """Which frames of a scene are given and which are scored."""

    order: tuple[int, ...]
    """As many frames as the largest number of inputs."""
    scored: tuple[int, ...]
    """Ascending."""

    def inputs(self, count: int) -> tuple[int, ...]:
        """The given frames when `count` are given, ascending."""
        return tuple(sorted(self.order[:count]))


def deal_frames(
    scene: str,
    cameras: Cameras,
    candidates: Sequence[int] | None = None,
    *,
    counts: Sequence[int] = COUNTS,
    num_scored: int | None = NUM_SCORED,
    seed: int = 0,
    argument: str = "--data",
) -> Deal:
    """The deal of a scene with these cameras; inputs are drawn from `candidates` (all frames when None).

    A pure function of the seed, the scene's name and the numbers of frames. `num_scored` None scores all that
    is left, as do scenes with fewer left. A frame with the camera of an input is never scored. Raises
    `InputError` for scenes with too few frames.
    """
    most, chosen = max(counts), range(len(cameras)) if candidates is None else candidates
    order = shuffled(chosen, f"fewview/{seed}/{scene}/given")[:most]
    if len(order) < most:
        raise InputError(argument, scene, f"{len(order)} frames to give, fewview needs {most}")
    same = match_cameras(cameras, cameras[list(order)])
    left = [frame for frame in range(len(cameras)) if same[frame] < 0 and frame not in order]
    if not left:
        raise InputError(argument, scene, f"no frame is left to score beside the {most} given ones")
    scored = shuffled(left, f"fewview/{seed}/{scene}/scored")[:num_scored]
    return Deal(order=tuple(order), scored=tuple(sorted(scored)))


def answer_seed(scene: str, count: int, seed: int) -> int:
    """The number that decides an answer's noise, from these alone: other scenes do not matter."""
    return number_of(f"fewview/{seed}/{scene}/{count}/answer") >> 16


def deal_scene(
    folder: Path,
    *,
    counts: Sequence[int] = COUNTS,
    num_scored: int | None = NUM_SCORED,
    seed: int = 0,
    argument: str = "--data",
) -> tuple[Deal, Cameras]:
    """The deal of a scene on disk and its cameras, read without any image.

    Where the scene has one split that holds frames out and gives enough of them, inputs are drawn from its
    train frames (the 16 even ones of orbit32). Raises `InputError` as `deal_frames`, and for a scene without
    cameras.
    """
    if not (folder / "transforms.json").is_file():
        raise InputError(argument, str(folder), "has no cameras (transforms.json), which fewview needs")
    cameras = read_transforms(folder).cameras
    candidates = None
    splits = list_splits(folder)
    if len(splits) == 1:
        split = read_split(split_path(folder, splits[0]), len(cameras))
        if split.test_ids and len(split.train_ids) >= max(counts):
            candidates = split.train_ids
    options = {"counts": counts, "num_scored": num_scored, "seed": seed, "argument": argument}
    return deal_frames(folder.name, cameras, candidates, **options), cameras


def read_frames(scene: str | os.PathLike[str], size: int, argument: str = "--data") -> Views:
    """All views of a scene, square, `size` pixels a side, averaged by area; all count as observed."""
    views = read_scene(scene, size=size, argument=argument)
    return Views(
        images=views.images.clamp(0, 1),
        masks=views.masks,
        cameras=views.cameras,
        observed=torch.ones(len(views), dtype=torch.bool),
        names=views.names,
    )
