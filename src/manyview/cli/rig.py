"""What the user gave, as views and slots or target cameras of a method."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.errors import InputError

if TYPE_CHECKING:
    from manyview.types import Cameras, Views

_TARGETS = "expected orbit:16, yaw:-40:40:9, or a transforms.json"


def parse_grid(text: str) -> tuple[int, int]:
    """(rows, columns) of `2x2`. Raises `InputError` for anything else."""
    match = re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", text.strip().lower())
    if match is None or int(match[1]) * int(match[2]) < 2:
        raise InputError("--grid", text, "expected rows x columns with at least two views, such as 2x2")
    return int(match[1]), int(match[2])


def parse_slots(text: str | None) -> tuple[int, ...] | None:
    """Slot numbers of `0,2`; None stays None. Raises `InputError` for repeats and anything else."""
    if text is None:
        return None
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text) is None:
        raise InputError("--slots", text, "expected slot numbers such as 0,2")
    slots = tuple(int(part) for part in text.split(","))
    if len(set(slots)) != len(slots):
        raise InputError("--slots", text, "names a slot twice; expected different ones")
    return slots


def read_given(path: Path, size: int, split: int | None) -> Views:
    """The views of an image, a folder of images or a scene, square with `size` pixels a side, padded white.

    `split` names one of the scene's splits; without it the only one counts, if there is just one. Raises
    `InputError` as `read_scene`, and for several splits of which none was named.
    """
    from manyview.io.scene import read_scene

    return read_scene(path, size=size, split=choose_split(path, split))


def choose_split(folder: Path, split: int | None) -> int | None:
    """The named split, else the only one of a scene folder, else None.

    Raises `InputError` where the folder has several and none was named.
    """
    from manyview.io.scene import list_splits

    if split is not None or not folder.is_dir():
        return split
    splits = list_splits(folder)
    if len(splits) > 1:
        raise InputError("--split", "not given", f"the scene has several: {', '.join(map(str, splits))}")
    return splits[0] if splits else None


def choose_given(
    views: Views, slots: tuple[int, ...] | None, num_views: int
) -> tuple[Views, tuple[int, ...] | None]:
    """The views and the slots of the observed ones, None where the method reads them off the cameras.

    `num_views` images are the whole rig in order: `slots` says which of them count as observed, by default
    those of the scene's split. Otherwise `slots` says where the observed ones stand. Raises `InputError`
    for slots that do not fit, and where the whole rig is given and nothing says what to make.
    """
    import torch

    if slots is not None and max(slots) >= num_views:
        shown = ",".join(map(str, slots))
        raise InputError("--slots", shown, f"expected numbers from 0 to {num_views - 1}")
    if len(views) != num_views:
        count = int(views.observed.sum())
        if count >= num_views:
            raise InputError("INPUT", f"{count} given views", f"expected at most {num_views - 1}")
        if slots is not None and len(slots) != count:
            shown = ",".join(map(str, slots))
            raise InputError("--slots", shown, f"expected one for each given view, which are {count}")
        return views, slots
    if slots is not None:
        observed = torch.zeros(num_views, dtype=torch.bool)
        observed[list(slots)] = True
        views = replace(views, observed=observed)
    if bool(views.observed.all()):
        accepted = f"that is the whole rig; give --slots for fewer than {num_views} of them"
        raise InputError("INPUT", f"{num_views} given views", accepted)
    if slots is None and views.cameras is not None:
        return views, None
    return views, tuple(views.observed.nonzero()[:, 0].tolist())


def parse_targets(text: str, reference: Cameras | None, size: int) -> Cameras:
    """Cameras to draw, in the frame of the given view's camera.

    `orbit:N`: a circle through the given camera, which itself is left out. `yaw:FROM:TO:N`: turned from it
    by degrees, counter-clockwise seen from above. Otherwise a scene or its transforms.json. Circles keep
    elevation and distance of the given camera. Raises `InputError` for anything else.
    """
    if not text.startswith(("orbit:", "yaw:")):
        from manyview.io.transforms import read_transforms

        path = Path(text)
        if not path.exists():
            raise InputError("--targets", text, _TARGETS)
        return read_transforms(path).cameras.resized(size, size)
    if reference is None:
        raise InputError("INPUT", "no cameras", f"--targets {text} turns from the given view's camera")
    kind, *parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise InputError("--targets", text, _TARGETS) from None
    count = int(numbers[-1])
    if len(numbers) != (1 if kind == "orbit" else 3) or not 1 <= count <= 1000 or count != numbers[-1]:
        raise InputError("--targets", text, _TARGETS)

    from manyview.geometry.trajectories import orbit, spherical_angles, yaw_sweep

    azimuth, elevation, distance = (float(value[0]) for value in spherical_angles(reference.centers[:1]))
    if kind == "orbit":
        if count < 2:
            raise InputError("--targets", text, "expected at least two cameras on the circle")
        circle = orbit(count, elevation, distance, start_azimuth_deg=azimuth, size=size)[1:]
    else:
        circle = yaw_sweep(
            numbers[0],
            numbers[1],
            count,
            center_azimuth_deg=azimuth,
            elevation_deg=elevation,
            distance=distance,
            size=size,
        )
    lens = reference[0].resized(size, size).K.expand(len(circle), 3, 3)
    return replace(circle, K=lens.clone())
