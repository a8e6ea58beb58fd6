"""The protocol `orbit4`: four views 90 degrees apart, every subset of one to three of them given.

As DiMViS reports it (Di Giacomo et al. 2024, section 4.2): 16 renders of an object at elevation 30 degrees
make four rigs ("phases"; azimuths k, k + 4, k + 8, k + 12 for k = 0 .. 3), each rig has 14 questions, and
only the missing views are scored: 28 image pairs a phase, 112 an object.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.scene import read_scene
from manyview.io.transforms import read_transforms
from manyview.types import Cameras

NUM_AZIMUTHS = 16
NUM_VIEWS = 4
NUM_PHASES = NUM_AZIMUTHS // NUM_VIEWS
STEP_DEG = 360.0 / NUM_AZIMUTHS
ELEVATION_DEG = 30.0
TOLERANCE_DEG = 1.0


@dataclass(frozen=True, order=True)
class Question:
    """One rig and what is given of it."""

    num_references: int
    phase: int
    references: tuple[int, ...]
    """Slots of the rig that are given, ascending."""

    @property
    def missing(self) -> tuple[int, ...]:
        """Slots asked for, ascending."""
        return tuple(slot for slot in range(NUM_VIEWS) if slot not in self.references)

    @property
    def azimuths(self) -> tuple[int, ...]:
        """Places on the orbit of the rig's slots."""
        return tuple(self.phase + NUM_PHASES * slot for slot in range(NUM_VIEWS))

    def item(self, scene: str, sample: int) -> int:
        """The number that decides the noise of an answer, from these names alone: other scenes, the order of
        the questions and their batches do not matter."""
        key = f"orbit4/{scene}/{self.phase}/{self.references}/{sample}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "little")


def all_questions() -> tuple[Question, ...]:
    """The 56 questions of an object, by number of references, then phase, then references."""
    return tuple(
        Question(count, phase, references)
        for count in range(1, NUM_VIEWS)
        for phase in range(NUM_PHASES)
        for references in itertools.combinations(range(NUM_VIEWS), count)
    )


def observed_slots(questions: tuple[Question, ...]) -> Tensor:
    """[N, 4] bool: which slots each question gives."""
    observed = torch.zeros(len(questions), NUM_VIEWS, dtype=torch.bool)
    for row, question in enumerate(questions):
        observed[row, list(question.references)] = True
    return observed


def orbit_order(
    cameras: Cameras,
    shown: str,
    argument: str = "--data",
    *,
    protocol: str = "orbit4",
    elevation_deg: float | None = ELEVATION_DEG,
) -> list[int]:
    """The index of the camera at each of the 16 azimuths, counter-clockwise from the first camera.

    Raises `InputError` (naming `shown` and `protocol`) unless the cameras are exactly such an orbit: 16 of
    them, 22.5 degrees apart, all at `elevation_deg` (None: at any one), both within 1 degree.
    """
    azimuth, elevation, _ = spherical_angles(cameras.centers.double())
    if len(cameras) != NUM_AZIMUTHS:
        raise InputError(argument, shown, f"{len(cameras)} views, {protocol} needs {NUM_AZIMUTHS}")
    low, high = float(elevation.min()), float(elevation.max())
    wanted = (low + high) / 2 if elevation_deg is None else elevation_deg
    if max(abs(low - wanted), abs(high - wanted)) > TOLERANCE_DEG:
        needed = "one for all" if elevation_deg is None else f"{elevation_deg:g}"
        raise InputError(
            argument,
            shown,
            f"elevations {low:.1f} to {high:.1f} degrees, {protocol} needs {needed} within {TOLERANCE_DEG:g}",
        )
    places = places_on_orbit(azimuth, float(azimuth[0]))
    if None in places or len(set(places)) != NUM_AZIMUTHS:
        found = ", ".join(f"{value:.1f}" for value in azimuth.tolist())
        raise InputError(
            argument, shown, f"azimuths {found}, {protocol} needs all multiples of {STEP_DEG} degrees apart"
        )
    return [places.index(place) for place in range(NUM_AZIMUTHS)]


def places_on_orbit(azimuth_deg: Tensor, start_deg: float) -> list[int | None]:
    """For each azimuth [V] its place 0 .. 15 on the orbit that begins at `start_deg`, None between places."""
    turn = (azimuth_deg - start_deg) / STEP_DEG
    error = (turn - turn.round()).abs() * STEP_DEG
    return [
        int(place) % NUM_AZIMUTHS if off <= TOLERANCE_DEG else None
        for place, off in zip(turn.round().tolist(), error.tolist(), strict=True)
    ]


def check_orbit(
    scene: str | os.PathLike[str],
    argument: str = "--data",
    *,
    protocol: str = "orbit4",
    elevation_deg: float | None = ELEVATION_DEG,
) -> Cameras:
    """The 16 cameras in the order of the orbit, read without any image. Raises as `orbit_order`, and
    for a scene without cameras."""
    folder = Path(scene)
    if not (folder / "transforms.json").is_file():
        raise InputError(argument, str(folder), f"has no cameras (transforms.json), which {protocol} needs")
    cameras = read_transforms(folder).cameras
    order = orbit_order(cameras, str(folder), argument, protocol=protocol, elevation_deg=elevation_deg)
    return cameras[order]


def read_orbit(scene: str | os.PathLike[str], size: int, argument: str = "--data") -> Tensor:
    """[16, 3, size, size] the views in the order of the orbit, composited over white, resized by area."""
    views = read_scene(scene, size=size, argument=argument)
    if views.cameras is None:
        raise InputError(argument, os.fspath(scene), "has no cameras (transforms.json), which orbit4 needs")
    return views.over(1.0)[orbit_order(views.cameras, os.fspath(scene), argument)].clamp(0, 1)
