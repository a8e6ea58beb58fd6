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
from numpy.lib.format import open_memmap
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic, writing_folder
from manyview.io.scene import list_scenes, read_scene
from manyview.progress import Progress, silent

SPLITS_NAME = "splits.json"
_FORMAT = 1


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


class SceneArrays:
    """All views of a data set's scenes as uint8 arrays, composited over a grey level and resized by area.

    Nothing is read before `images` or `masks` is asked for. Then the arrays are made once and kept as
    memory maps in a cache folder whose name is a hash of the files' contents and of size and background, so
    that a changed file, another choice of scenes or another size never meets old arrays.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int,
        background: float = 1.0,
        names: Sequence[str] | None = None,
        cache: Path | str | None = None,
        progress: Progress = silent,
    ) -> None:
        """`names`: the scenes wanted, in this order (default: all, in natural order). `cache`: where the
        arrays go, default `.arrays` in the data set. Raises `InputError` for no scenes, unknown names, a
        size below 1, a background outside [0, 1].
        """
        if size < 1:
            raise InputError("size", size, "expected at least 1 pixel")
        if not 0 <= background <= 1:
            raise InputError("background", background, "expected a grey level from 0 to 1")
        self.folder = Path(folder)
        self.size = size
        self.background = background
        scenes = {scene.name: scene for scene in list_scenes(self.folder)}
        unknown = [name for name in names or () if name not in scenes]
        if unknown or (names is not None and not names):
            raise InputError("names", unknown, f"expected names of scenes in {self.folder}")
        self.names = tuple(scenes) if names is None else tuple(names)
        self._scenes = [scenes[name] for name in self.names]
        self._cache = self.folder / ".arrays" if cache is None else Path(cache)
        self._progress = progress

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """[V, 3, H, W] float in [0, 1], the composited views of one scene."""
        return torch.from_numpy(self.images[index].astype(np.float32) / 255)

    @property
    def images(self) -> np.ndarray:
        """[S, V, 3, H, W] uint8 sRGB, read-only. Raises `InputError` where view counts differ."""
        return self._arrays[0]

    @property
    def masks(self) -> np.ndarray:
        """[S, V, 1, H, W] uint8, 255 = object, read-only; 255 everywhere in scenes without masks."""
        return self._arrays[1]

    @functools.cached_property
    def identity(self) -> str:
        """A hash of what the arrays hold: file contents, order of scenes, size and background."""
        digest = hashlib.sha256(json.dumps([_FORMAT, self.size, self.background]).encode())
        for scene in self._scenes:
            for path in sorted(p for p in scene.rglob("*") if p.is_file() and _counts(p.relative_to(scene))):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{scene.name}/{path.relative_to(scene).as_posix()}={content}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        folder = self._cache / self.identity[:24]
        if not folder.is_dir():
            with writing_folder(folder, argument="cache") as temporary:
                self._fill(temporary)
        return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "masks.npy", mmap_mode="r")

    def _fill(self, folder: Path) -> None:
        images = masks = None
        self._progress.start(len(self), f"reading {self.folder.name}")
        try:
            for number, scene in enumerate(self._scenes):
                views = read_scene(scene, size=self.size, argument="data")
                if images is None or masks is None:
                    shape = (len(self), len(views), 3, self.size, self.size)
                    images = open_memmap(folder / "images.npy", "w+", np.uint8, shape)
                    masks = open_memmap(folder / "masks.npy", "w+", np.uint8, (*shape[:2], 1, *shape[3:]))
                elif len(views) != images.shape[1]:
                    line = f"has {len(views)} views, expected {images.shape[1]} as in {self.names[0]}"
                    raise InputError("data", str(scene), line)
                images[number] = _bytes(views.over(self.background))
                masks[number] = 255 if views.masks is None else _bytes(views.masks)
                self._progress.advance()
        finally:
            self._progress.finish()
        for array in (images, masks):
            assert array is not None, "list_scenes gives at least one scene"
            array.flush()


def _counts(path: Path) -> bool:
    # What the arrays are made of: cameras (they name the files), images, masks; not depth, mesh or hidden
    # files.
    return path.parts[0] not in ("depth", "mesh.glb") and not any(part.startswith(".") for part in path.parts)


def _bytes(values: Tensor) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
