"""What a method gives back, and the folder it becomes: a scene plus everything about how it came to be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic, writing_folder
from manyview.io.glb import read_glb, write_glb
from manyview.io.images import list_images, read_image, write_png, write_png16
from manyview.io.manifest import MANIFEST_NAME, read_json, write_json, write_manifest
from manyview.io.scene import fill_scene, frame_names, list_splits, read_scene
from manyview.io.sheet import draw_sheet
from manyview.io.video import write_mp4
from manyview.types import Views

if TYPE_CHECKING:
    import trimesh

VIDEO_FPS = 8.0


@runtime_checkable
class WritesPly(Protocol):
    """Splats that can write themselves as a .ply file."""

    def write_ply(self, path: Path) -> None:
        """Write to `path`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """Views, what was lifted from them, and how they were made. Raises `InputError` for shapes that do not
    fit."""

    views: Views
    """Given and made views together; `views.observed` tells which were given."""
    spread: Tensor | None = None
    """[V, 1, H, W] standard deviation of each pixel over seeds, or None where one sample was drawn."""
    splats: object | None = None
    """Gaussians (anything with `write_ply`); not read back by `load`."""
    mesh: trimesh.Trimesh | None = None
    """In world coordinates, +Z up."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """See `manyview.io.manifest.build_manifest`."""
    metrics: Mapping[str, Any] | None = None
    samples: Tensor | None = None
    """[S, V, 3, H, W] all samples drawn, or None."""

    def __post_init__(self) -> None:
        count, (height, width) = len(self.views), self.views.size
        if self.spread is not None and tuple(self.spread.shape) != (count, 1, height, width):
            raise InputError("spread", tuple(self.spread.shape), f"expected {[count, 1, height, width]}")
        if self.samples is not None and tuple(self.samples.shape[1:]) != (count, 3, height, width):
            raise InputError(
                "samples", tuple(self.samples.shape), f"expected [S, {count}, 3, {height}, {width}]"
            )

    def save(
        self,
        path: str | os.PathLike[str],
        force: bool = False,
        *,
        video: bool = True,
        also: Callable[[Path], None] | None = None,
    ) -> None:
        """Write the folder, all or nothing: a scene (see io/scene.py) and, where there is such a thing,

        - `manifest.json`, `metrics.json`, `mesh.glb`, `splats.ply`,
        - `sheet.png`: all views at a glance,
        - `video.mp4`: the views in order over white, 8 a second (not for a single view),
        - `spread/<name>.png`: 16-bit grey, 65535 = 1, and `samples/<s>/<name>.png`.

        `also` gets the folder before it takes its place, to write more into it. Raises `InputError` for a
        filled folder without `force`, a full disk, and splats that cannot write
        themselves.
        """
        if self.splats is not None and not isinstance(self.splats, WritesPly):
            raise InputError("splats", type(self.splats).__name__, "expected an object with write_ply(path)")
        with writing_folder(path, force) as folder:
            fill_scene(self.views, folder)
            write_manifest(folder, self.manifest)
            names = frame_names(self.views)
            if self.spread is not None:
                for name, values in zip(names, self.spread, strict=True):
                    write_png16(folder / "spread" / f"{name}.png", values)
            if self.samples is not None:
                for number, sample in enumerate(self.samples):
                    for name, image in zip(names, sample, strict=True):
                        write_png(folder / "samples" / f"{number:03d}" / f"{name}.png", image)
            buffer = io.BytesIO()
            draw_sheet(self.views, self.spread).save(buffer, "PNG")
            write_bytes_atomic(folder / "sheet.png", buffer.getvalue())
            if video and len(self.views) > 1:
                write_mp4(self.views.over(1.0), folder / "video.mp4", VIDEO_FPS)
            if self.mesh is not None:
                write_glb(folder / "mesh.glb", self.mesh)
            if isinstance(self.splats, WritesPly):
                self.splats.write_ply(folder / "splats.ply")
            if self.metrics is not None:
                write_json(folder / "metrics.json", self.metrics)
            if also is not None:
                also(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read a folder that `save` wrote; images come back rounded to 8 bits. Splats stay in their file.

        Raises `InputError` for a folder without manifest and for broken parts.
        """
        folder = Path(path)
        if not (folder / MANIFEST_NAME).is_file():
            raise InputError("INPUT", str(folder), f"expected a result: a folder with {MANIFEST_NAME}")
        splits = list_splits(folder)
        if len(splits) != 1:
            raise InputError("INPUT", str(folder), f"{len(splits)} train_test_split files; a result has one")
        views = read_scene(folder, split=splits[0])
        metrics = folder / "metrics.json"
        mesh = folder / "mesh.glb"
        return cls(
            views=views,
            spread=_read_stack(folder / "spread", views.names, 1),
            mesh=read_glb(mesh) if mesh.is_file() else None,
            manifest=read_json(folder / MANIFEST_NAME),
            metrics=read_json(metrics) if metrics.is_file() else None,
            samples=_read_samples(folder / "samples", views.names),
        )


def _read_stack(folder: Path, names: tuple[str, ...], channels: int) -> Tensor | None:
    """[V, channels, H, W] the images of the named views in a folder, or None where there is no such
    folder."""
    if not folder.is_dir():
        return None
    found = {path.stem: path for path in list_images(folder)}
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError("INPUT", str(folder), f"misses {', '.join(missing)}")
    return torch.stack([read_image(found[name])[0][:channels] for name in names])


def _read_samples(folder: Path, names: tuple[str, ...]) -> Tensor | None:
    numbers = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    stacks = [_read_stack(number, names, 3) for number in numbers]
    present = [stack for stack in stacks if stack is not None]
    return torch.stack(present) if present else None
