"""MVImgNet: `<category>/<object>/` with `images/` and COLMAP's `sparse/0`; masks in a second tree."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from manyview.errors import InputError
from manyview.io.colmap import PointCloud, read_colmap
from manyview.io.frames import FrameTable


@dataclass(frozen=True)
class MVImgNetObject:
    """One object's frames in the order they were filmed. Paths are relative to the object's folder."""

    category_id: str
    object_id: str
    table: FrameTable
    points: PointCloud


def read_mvimgnet(
    folder: str | os.PathLike[str], *, mask_root: str | os.PathLike[str] | None = None
) -> MVImgNetObject:
    """The object in `folder`, whose last two parts are its category's and its own number.

    Only images registered in `sparse/0` appear (some scenes have a `sparse/1` in another frame, which is left
    alone). `mask_root` is the folder with `<category>/<object>/<image name>.png` masks; mask paths are then
    absolute and None where there is no mask. Raises `InputError` as `read_colmap`, and for missing images.
    """
    root = Path(folder).absolute()
    if not (root / "sparse" / "0").is_dir():
        raise InputError(str(folder), "has no sparse/0", "expected an MVImgNet object folder")
    model = read_colmap(root / "sparse" / "0")
    category_id, object_id = root.parent.name, root.name
    names = [Path(name).name for name in model.table.files]
    order = sorted(range(len(names)), key=lambda index: _frame_key(names[index]))
    table = model.table.select(order)
    ordered = [names[index] for index in order]
    masks: tuple[str | None, ...] = ()
    if mask_root is not None:
        places = [Path(mask_root).absolute() / category_id / object_id / f"{name}.png" for name in ordered]
        masks = tuple(str(place) if place.is_file() else None for place in places)
    table = replace(table, files=tuple(f"images/{name}" for name in ordered), mask_files=masks)
    replace(table, mask_files=()).require_files(root)
    return MVImgNetObject(category_id, object_id, table, model.points)


def _frame_key(name: str) -> tuple[int, str]:
    """Numbers in names order frames (9.jpg before 10.jpg); other names come last, by name."""
    stem = Path(name).stem
    return (int(stem), name) if stem.isdigit() else (1 << 62, name)
