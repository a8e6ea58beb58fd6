"""The protocol `orbit16`: one view of an object given, the 15 others of its orbit asked for.

As SyncDreamer and Hi3D score (Liu et al. 2023; Yang et al. 2024, section 4.1): 16 renders at azimuths 22.5
degrees apart and one elevation, any but the same for all. The input is drawn from the 16 by the scene's name
and the seed; where several are asked for they are asked about one after the other. The places of the orbit
are counted counter-clockwise from the scene's first frame, a question's views from its input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from manyview.bench.draws import number_of, shuffled
from manyview.bench.orbit4 import STEP_DEG, check_orbit, orbit_order
from manyview.bench.orbit16_options import NUM_AZIMUTHS
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles, spherical_transforms
from manyview.io.framing import resize_area
from manyview.io.scene import read_scene
from manyview.types import Cameras, Views

PROTOCOL = "orbit16"
_TOLERANCE_DEG = 1.0
_TOLERANCE_DISTANCE = 0.01
SCORED = range(1, NUM_AZIMUTHS)
"""Views of a question that are scored; view 0 is the input."""


@dataclass(frozen=True)
class Question:
    """A scene and which of its views is given."""

    scene: str
    place: int

    @property
    def order(self) -> list[int]:
        """Places of the question's 16 views, the input first, then counter-clockwise."""
        return [(self.place + step) % NUM_AZIMUTHS for step in range(NUM_AZIMUTHS)]

    @property
    def name(self) -> str:
        """Of the scene and the input."""
        return f"{self.scene}/{self.place}"


@dataclass(frozen=True, kw_only=True)
class TrueOrbit:
    """What is known of a scene."""

    views: Views
    """16 in the order of the orbit, at the size that inputs are given in."""
    truth: Tensor
    """[16, 3, S, S] the same over white, at the size of the comparison."""
    mesh_file: Path
    """Where its mesh is, if it has one."""

    def ask(self, question: Question) -> tuple[Views, Cameras]:
        """The given view, with its camera and its mask where there is one, and the cameras of the others."""
        views = self.views[question.order[:1]]
        assert self.views.cameras is not None, "the protocol has checked"
        return replace(views, depths=None), self.views.cameras[question.order[1:]]


def deal_inputs(scene: str, num_inputs: int = 1, seed: int = 0) -> tuple[int, ...]:
    """Places of the inputs, from the seed and the scene's name alone; the first of a larger number."""
    return tuple(shuffled(range(NUM_AZIMUTHS), f"orbit16/{seed}/{scene}/input")[:num_inputs])


def answer_seed(question: Question, seed: int) -> int:
    """The number that decides an answer's noise, from these alone: other scenes do not matter."""
    return number_of(f"orbit16/{seed}/{question.name}/answer") >> 16


def distance_deg(view: int) -> float:
    """How far view 0 .. 15 of a question is from its input on the orbit, 0 to 180 degrees."""
    return min(view, NUM_AZIMUTHS - view) * STEP_DEG


def check_scene(folder: Path, argument: str = "--data") -> Cameras:
    """The 16 cameras of a scene on disk in the order of the orbit, read without any image.

    Raises `InputError` unless they are on one circle about the vertical axis, 22.5 degrees apart, and look
    upright at the origin.
    """
    cameras = check_orbit(folder, argument, protocol=PROTOCOL, elevation_deg=None)
    azimuth, elevation, distance = spherical_angles(cameras.centers.double())
    if float(distance.max() / distance.min()) - 1 > _TOLERANCE_DISTANCE:
        shown = f"{float(distance.min()):.3f} to {float(distance.max()):.3f}"
        raise InputError(argument, str(folder), f"distances {shown}, {PROTOCOL} needs one for all")
    ideal = spherical_transforms(azimuth, elevation, distance)[:, :3, :3]
    trace = (ideal * cameras.world_from_cam[:, :3, :3].double()).sum(dim=(1, 2))
    turn = torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))
    if float(turn.max()) > _TOLERANCE_DEG:
        shown = f"cameras turned by up to {float(turn.max()):.1f} degrees away from the origin or upright"
        raise InputError(argument, str(folder), f"{shown}, {PROTOCOL} allows {_TOLERANCE_DEG:g}")
    return cameras


def read_orbit16(folder: Path, size: int, given_size: int, argument: str = "--data") -> TrueOrbit:
    """All views of a scene, square, by area: `given_size` pixels a side as inputs, `size` as truth."""
    views = read_scene(folder, size=given_size, argument=argument)
    assert views.cameras is not None, "the protocol has checked"
    order = orbit_order(views.cameras, str(folder), argument, protocol=PROTOCOL, elevation_deg=None)
    views = replace(views, images=views.images.clamp(0, 1), depths=None)[order]
    # Over white first: then averaging colours is right without weighing them by the mask.
    truth, _ = resize_area(views.over(1.0), size, size)
    return TrueOrbit(views=views, truth=truth.clamp(0, 1), mesh_file=folder / "mesh.glb")
