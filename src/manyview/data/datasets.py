"""A data set of scenes as arrays, and which scenes are for training, validation and test.

A data set is a folder of scenes (see io/scene.py) with the same number of views each, and optionally
`splits.json`: {"train": [names], "val": [names], "test": [names]}.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyview.data.packed import (
    DESCRIPTION_NAME,
    SHARD_OBJECTS,
    PackedViews,
    describe,
    has_shard,
    write_shard,
)
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.scene import list_scenes, read_scene
from manyview.progress import Progress, silent

SPLITS_NAME = "splits.json"
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Scene names by use. Raises `InputError` where a name stands in two of them."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in (*self.train, *self.val, *self.test):
            if name in seen:
                raise InputError("splits", name, "stands in two places; expected each scene once")
            seen.add(name)


def every_tenth(names: Iterable[str]) -> Splits:
    """Every tenth name in sorted order (the 10th, 20th, ...) for validation, the others for training."""
    ordered = sorted(set(names))
    val = tuple(ordered[9::10])
    return Splits(train=tuple(name for name in ordered if name not in set(val)), val=val)


def read_splits(folder: Path | str) -> Splits | None:
    """The splits of a data set, or None where it has no `splits.json`.

    Raises `InputError` for a broken file and for names that are no scenes of the folder.
    """
    path = Path(folder) / SPLITS_NAME
    if not path.is_file():
        return None
    wanted = "expected {train, val, test: lists of scene names}"
    try:
        content: Any = json.loads(path.read_text())
    except ValueError:
        raise InputError("splits", str(path), wanted) from None
    known = {field.name for field in fields(Splits)}
    lists = content.values() if isinstance(content, dict) and set(content) <= known else [None]
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in lists):
        raise InputError("splits", str(path), wanted)
    splits = Splits(**{key: tuple(part) for key, part in content.items()})
    missing = {*splits.train, *splits.val, *splits.test} - {scene.name for scene in list_scenes(folder)}
    if missing:
        raise InputError(
            "splits", str(path), f"names scenes that are not there: {', '.join(sorted(missing))}"
        )
    return splits


def write_splits(folder: Path | str, splits: Splits) -> None:
    """Write `splits.json` into a data set, in place of an older one."""
    content = {field.name: list(getattr(splits, field.name)) for field in fields(Splits)}
    write_text_atomic(Path(folder) / SPLITS_NAME, json.dumps(content, indent=1) + "\n")


class SceneArrays(ObjectViews):
    """All views of a data set's scenes as bytes, composited over a grey level and resized by area.

    `arrays[i]` is [V, H, W, 3] uint8 sRGB. Nothing is read before a view or their number is asked for. Then
    the scenes are packed, once, into a cache folder whose name is a hash of the files' contents and of size
    and background, so that a changed file, another choice of scenes or another size never meets old arrays.
    Packing that was stopped goes on.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int,
        background: float = 1.0,
        names: Sequence[str] | None = None,
        cache: Path | str | None = None,
        argument: str = "--data",
        progress: Progress = silent,
    ) -> None:
        """`names`: the scenes wanted, in this order (default: all, in natural order). `cache`: where the
        arrays go, default `.arrays` in the data set. `argument`: what errors about the data name. Raises
        `InputError` for no scenes, unknown names, a size below 1, a background outside [0, 1].
        """
        if size < 1:
            raise InputError("size", size, "expected at least 1 pixel")
        if not 0 <= background <= 1:
            raise InputError("background", background, "expected a grey level from 0 to 1")
        self.folder = Path(folder)
        self.size = size
        self.background = background
        scenes = {scene.name: scene for scene in list_scenes(self.folder, argument=argument)}
        unknown = [name for name in names or () if name not in scenes]
        if unknown or (names is not None and not names):
            raise InputError("names", unknown, f"expected names of scenes in {self.folder}")
        self.names = tuple(scenes) if names is None else tuple(names)
        self._scenes = [scenes[name] for name in self.names]
        self._cache = self.folder / ".arrays" if cache is None else Path(cache)
        self._argument = argument
        self._progress = progress

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.packed[index]

    @property
    def num_views(self) -> int:
        """Views of one scene."""
        return self.packed.num_views

    @property
    def identity(self) -> str:
        """A hash of what the arrays hold: file contents, order of scenes, size and background."""
        return self._identity

    @functools.cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256(json.dumps([_FORMAT, self.size, self.background]).encode())
        for scene in self._scenes:
            for path in sorted(p for p in scene.rglob("*") if p.is_file() and _counts(p.relative_to(scene))):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{scene.name}/{path.relative_to(scene).as_posix()}={content}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def packed(self) -> PackedViews:
        """The packed data set of the scenes in the cache, made where it is not there yet.

        Raises `InputError` for a scene that cannot be read and where numbers of views differ.
        """
        folder = self._cache / self.identity[:24]
        starts = range(0, len(self), SHARD_OBJECTS)
        missing = [i for i in starts if not has_shard(folder, i, min(SHARD_OBJECTS, len(self) - i))]
        if missing:
            description = {"source": list(self.names), "size": [self.size, self.size]}
            describe(folder, {**description, "background": self.background}, argument="--cache")
            self._progress.start(len(self), f"reading {self.folder.name}")
            try:
                self._progress.advance(len(self) - sum(min(SHARD_OBJECTS, len(self) - i) for i in missing))
                for first in missing:
                    scenes = self._scenes[first : first + SHARD_OBJECTS]
                    write_shard(folder, first, self._read(scenes), argument="--cache")
            finally:
                self._progress.finish()
        return PackedViews(folder, self._argument)

    def _read(self, scenes: Sequence[Path]) -> NDArray[np.uint8]:
        """[S, V, H, W, 3] of some scenes."""
        arrays: list[NDArray[np.uint8]] = []
        for scene in scenes:
            views = read_scene(scene, size=self.size, argument=self._argument)
            if len(views) != self._wanted_views:
                line = f"has {len(views)} views, expected {self._wanted_views} as in {self.names[0]}"
                raise InputError(self._argument, str(scene), line)
            pixels = (views.over(self.background).clamp(0, 1) * 255).round().to(torch.uint8)
            arrays.append(pixels.permute(0, 2, 3, 1).numpy())
            self._progress.advance()
        return np.stack(arrays)

    @functools.cached_property
    def _wanted_views(self) -> int:
        return len(read_scene(self._scenes[0], size=self.size, argument=self._argument))


def open_views(
    folder: Path,
    *,
    size: int,
    cache: Path | None = None,
    argument: str = "--data",
    progress: Progress = silent,
) -> PackedViews | SceneArrays:
    """A data set of either kind: packed (in its own size), or scenes, in views of `size` pixels a side.

    `cache`: where scenes are packed to (see `SceneArrays`). Raises `InputError` naming `argument` for a
    folder that is neither.
    """
    if (folder / DESCRIPTION_NAME).is_file():
        return PackedViews(folder, argument)
    return SceneArrays(folder, size=size, cache=cache, argument=argument, progress=progress)


def _counts(path: Path) -> bool:
    # What the arrays are made of: cameras (they name the files), images, masks; not depth, mesh or hidden
    # files.
    return path.parts[0] not in ("depth", "mesh.glb") and not any(part.startswith(".") for part in path.parts)
