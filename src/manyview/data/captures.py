"""Ordered captures: scenes filmed in one go, whose frames come one after the other, with their cameras.

A data set is either MVImgNet's tree, `<category>/<object>/` with `images/` and `sparse/0`, or a folder of
scenes (transforms.json). Frames are cut square around the middle and averaged down, lens distortion taken
out, so that every view has a pinhole camera of the same size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.datasets import Splits
from manyview.errors import InputError
from manyview.geometry.reframing import reframe
from manyview.io.frames import FrameTable
from manyview.io.framing import composite_over, crop_square, resize_area
from manyview.io.images import natural_key, read_image
from manyview.io.mvimgnet import read_mvimgnet
from manyview.io.scene import fit_cameras, list_scenes
from manyview.io.transforms import read_transforms
from manyview.types import Cameras

SPLITS = ("all", "90-5-5", "1-of-99")
"""What of a data set is trained on and what is scored: everything, or one of TUNet's two printed rules."""


@dataclass(frozen=True, kw_only=True)
class OrderedCapture:
    """One scene, nothing of it read but its cameras."""

    folder: Path
    category: str
    """The first folder of its name where the data set has categories, else empty."""
    table: FrameTable
    """Frames in the order they were filmed; paths relative to `folder`."""

    @property
    def name(self) -> str:
        """`category/object`, or the folder's name."""
        return f"{self.category}/{self.folder.name}" if self.category else self.folder.name

    def __len__(self) -> int:
        return len(self.table)

    def cameras(self, size: int) -> Cameras:
        """[V] pinhole cameras of the square views of `size` pixels a side that `read` gives."""
        return fit_cameras(replace(self.table.cameras, distortion=None), size, "crop")

    def read(self, index: int, size: int, argument: str = "--data") -> Tensor:
        """[3, size, size] in [0, 1]: one frame, over white where it is transparent.

        Raises `InputError` for a broken file, and for one whose size is not its camera's.
        """
        file = self.folder / self.table.files[index]
        image, alpha = read_image(file, argument=argument)
        camera = self.table.cameras[index]
        height, width = image.shape[-2:]
        if (height, width) != tuple(camera.sizes[0].tolist()):
            expected = camera.sizes[0].tolist()
            line = f"{width} x {height} pixels, but its camera has {expected[1]} x {expected[0]}"
            raise InputError(argument, str(file), line)
        if camera.distortion is not None and bool((camera.distortion != 0).any()):
            wanted = self.cameras(size)[index]
            # A lens taken out moves the border a little: what lies outside repeats it.
            return reframe(composite_over(image, alpha), camera, wanted)[0]
        square, mask = crop_square(composite_over(image, alpha), None)
        return resize_area(square, size, size, mask)[0].clamp(0, 1)

    def bytes(self, size: int) -> NDArray[np.uint8]:
        """[V, size, size, 3] uint8: all frames."""
        frames = [self.read(index, size) for index in range(len(self))]
        return (torch.stack(frames) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def list_captures(root: Path, argument: str = "--data") -> list[OrderedCapture]:
    """All captures of a data set, sorted by category and name.

    Raises `InputError` for a folder that holds none, and for cameras that cannot be read.
    """
    if not root.is_dir():
        raise InputError(argument, str(root), "expected an existing folder of captures")
    objects = sorted((path.parents[1] for path in root.glob("*/*/sparse/0")), key=natural_key)
    if objects:
        return [
            OrderedCapture(folder=folder, category=folder.parent.name, table=read_mvimgnet(folder).table)
            for folder in objects
        ]
    found = []
    for folder in list_scenes(root, argument=argument):
        if not (folder / "transforms.json").is_file():
            raise InputError(argument, str(folder), "has no cameras (transforms.json, or sparse/0)")
        found.append(OrderedCapture(folder=folder, category="", table=read_transforms(folder)))
    return found


def is_capture_tree(root: Path) -> bool:
    """Whether a folder holds MVImgNet's tree."""
    return root.is_dir() and next(root.glob("*/*/sparse/0"), None) is not None


def captures_identity(captures: Sequence[OrderedCapture], size: int) -> str:
    """A hash of the captures' names, image sizes on disk and cameras, and of the size of their views.

    Of the images names and lengths count, not contents: a data set may hold millions.
    """
    digest = hashlib.sha256(f"captures 1 {size}".encode())
    for capture in captures:
        digest.update(capture.name.encode())
        for file in capture.table.files:
            digest.update(f" {file} {(capture.folder / file).stat().st_size}".encode())
        cameras = capture.table.cameras
        for values in (cameras.world_from_cam, cameras.K, cameras.distortion):
            if values is not None:
                digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def capture_batches(captures: Sequence[OrderedCapture], size: int) -> Iterator[Tensor]:
    """[V, size, size, 3] uint8 of one capture after the other, each with as many frames as it has."""
    for capture in captures:
        yield torch.from_numpy(capture.bytes(size))


def ninety_five_five(names: Iterable[str]) -> Splits:
    """Of every category the first 90 of 100 names in lexicographic order for training, the next 5 for
    validation, the last 5 for test (TUNet's three-class model, after GIBR).

    A category's edges are rounded down, at 0.9 n and 0.95 n, so that it has at least one test scene. The
    category is what stands before the last `/`.
    """
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for group in _by_category(names):
        first, second = 90 * len(group) // 100, 95 * len(group) // 100
        parts["train"] += group[:first]
        parts["val"] += group[first:second]
        parts["test"] += group[second:]
    return Splits(**{name: tuple(part) for name, part in parts.items()})


def one_of_99(names: Iterable[str]) -> Splits:
    """Of every category the first of each 99 names in lexicographic order for test, the others for training
    (TUNet's 167-class model, which has 360 test scenes).

    Where in the 99 it stands, and what happens to smaller categories, is not printed; so every category has a
    test scene.
    """
    train: list[str] = []
    test: list[str] = []
    for group in _by_category(names):
        test += group[::99]
        train += [name for number, name in enumerate(group) if number % 99]
    return Splits(train=tuple(train), test=tuple(test))


def split_names(names: Iterable[str], rule: str, part: str) -> tuple[str, ...]:
    """The names of one part (`train`, `val`, `test`) of a data set under a rule of `SPLITS`.

    Raises `InputError` for another rule, and where the part is empty.
    """
    if rule not in SPLITS:
        raise InputError("--split", rule, f"expected one of {', '.join(SPLITS)}")
    if rule == "all":
        return tuple(names)
    splits = ninety_five_five(names) if rule == "90-5-5" else one_of_99(names)
    chosen: tuple[str, ...] = getattr(splits, part)
    if not chosen:
        raise InputError("--split", rule, f"leaves no scene for {part}; expected more scenes")
    return chosen


def _by_category(names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    return list(groups.values())
