"""A posed capture in any of the formats people have, as one table of frames.

    folder/transforms.json            nerfstudio's layout, or the Blender variant
    folder/transforms_train.json      the Blender variant in parts (train: given; val and test: not)
    folder/sparse/0 and images/       COLMAP; masks/<image name>.png or masks/<stem>.png where there are any
    category/sequence                 CO3D: beside it stands category/frame_annotations.jgz

Only cameras and names are read; `read_frame` reads one picture.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.co3d import read_co3d
from manyview.io.colmap import find_sparse, read_colmap
from manyview.io.cutout import read_mask
from manyview.io.frames import FrameTable
from manyview.io.images import read_image
from manyview.io.transforms import read_split, read_transforms, split_path
from manyview.types import Cameras, join_cameras

Kind = Literal["transforms", "colmap", "co3d"]
_PARTS = ("train", "val", "test")
_OBSERVED = ("train", "fewview_train", "known", "train_known", "test_known")
_ACCEPTED = (
    "expected a capture with cameras: a folder with transforms.json (nerfstudio, Blender), a COLMAP folder "
    "(sparse/0 and images), or a CO3D sequence"
)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """The frames of one capture."""

    folder: Path
    """What the table's paths are relative to."""
    kind: Kind
    table: FrameTable
    observed: Tensor
    """bool [V]: frames that are given, by the capture's split and by which image files there are."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def cameras(self) -> Cameras:
        """The V cameras."""
        return self.table.cameras

    @property
    def names(self) -> tuple[str, ...]:
        """The frames' file stems."""
        return tuple(Path(file).stem for file in self.table.files)


def open_capture(
    path: str | os.PathLike[str], *, split: int | None = None, argument: str = "INPUT"
) -> Capture:
    """The capture in a folder, or that a transforms file names.

    `split`: n of a train_test_split_<n>.json; frames in neither part are left out. Without it the format's
    own parts count where it has some, else all frames whose image is there. Raises `InputError` for anything
    that is no capture, and where no observed frame has an image.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(argument, str(path), "does not exist")
    if place.is_file():
        if place.suffix != ".json":
            raise InputError(argument, str(path), _ACCEPTED)
        folder, kind, table = place.parent, "transforms", read_transforms(place)
    else:
        folder, kind, table = _open_folder(place, argument)
    table = _with_split(table, folder, split, argument)
    there = torch.tensor([(folder / file).is_file() for file in table.files])
    observed = there
    if table.splits and any(part is not None for part in table.splits):
        observed = there & torch.tensor([part in _OBSERVED for part in table.splits])
        if not bool(observed.any()):  # parts of some other naming: they say nothing about what is given
            observed = there
    if not bool(observed.any()):
        named = folder / table.files[0]
        raise InputError(argument, str(path), f"has no image of its {len(table)} frames, such as {named}")
    return Capture(folder=folder, kind=kind, table=table, observed=observed)


def read_frame(capture: Capture, index: int, *, argument: str = "INPUT") -> tuple[Tensor, Tensor | None]:
    """Colour [3, H, W] and mask [1, H, W] of a frame: that of its mask file, else its alpha, else None.

    An alpha without any transparent pixel says nothing and counts as none. Raises `InputError` for broken
    files and where the picture's size is not its camera's.
    """
    table = capture.table
    file = capture.folder / table.files[index]
    image, mask = read_image(file, argument=argument)
    height, width = image.shape[-2:]
    expected = tuple(table.cameras.sizes[index].tolist())
    if (height, width) != expected:
        line = f"{width} x {height} pixels, but its camera has {expected[1]} x {expected[0]}"
        raise InputError(argument, str(file), line)
    name = table.mask_files[index] if table.mask_files else None
    if name is not None:
        mask = read_mask(capture.folder / name, height, width, argument=argument)
    if mask is not None and float(mask.amin()) > 0.99:
        mask = None
    return image, mask


def _open_folder(folder: Path, argument: str) -> tuple[Path, Kind, FrameTable]:
    if (folder / "transforms.json").is_file():
        return folder, "transforms", read_transforms(folder)
    parts = [part for part in _PARTS if (folder / f"transforms_{part}.json").is_file()]
    if parts:
        tables = [read_transforms(folder / f"transforms_{part}.json") for part in parts]
        marked = [
            dataclasses.replace(table, splits=(part,) * len(table))
            for part, table in zip(parts, tables, strict=True)
        ]
        return folder, "transforms", _joined(marked)
    if (folder.parent / "frame_annotations.jgz").is_file():
        found = read_co3d(folder.parent, sequences=[folder.name])
        return folder.parent.parent, "co3d", found[folder.name].table
    try:
        model = find_sparse(folder)
    except InputError:
        raise InputError(argument, str(folder), _ACCEPTED) from None
    table = read_colmap(model).table
    root = next((up for up in (folder, *folder.parents[:2]) if (up / "images").is_dir()), folder)
    images = root / "images" if (root / "images").is_dir() else root
    files = tuple(str((images / name).relative_to(root)) for name in table.files)
    masks = tuple(_colmap_mask(root, name) for name in table.files)
    masks = masks if any(masks) else ()
    return root, "colmap", dataclasses.replace(table, files=files, mask_files=masks)


def _colmap_mask(root: Path, name: str) -> str | None:
    for folder in ("masks", "mask"):
        for file in (f"{name}.png", str(Path(name).with_suffix(".png"))):
            if (root / folder / file).is_file():
                return f"{folder}/{file}"
    return None


def _with_split(table: FrameTable, folder: Path, split: int | None, argument: str) -> FrameTable:
    if split is None:
        return table
    path = split_path(folder, split)
    if not path.is_file():
        raise InputError(argument, str(path), "no such split")
    chosen = read_split(path, len(table))
    order = sorted({*chosen.train_ids, *chosen.test_ids})
    parts = tuple("train" if index in chosen.train_ids else "test" for index in order)
    return dataclasses.replace(table.select(order), splits=parts)


def _joined(tables: Sequence[FrameTable]) -> FrameTable:
    def chain(name: str) -> tuple[str | None, ...]:
        found = [getattr(table, name) or (None,) * len(table) for table in tables]
        merged = tuple(value for values in found for value in values)
        return merged if any(merged) else ()

    return FrameTable(
        files=tuple(file for table in tables for file in table.files),
        cameras=join_cameras([table.cameras for table in tables]),
        mask_files=chain("mask_files"),
        depth_files=chain("depth_files"),
        splits=chain("splits"),
    )
