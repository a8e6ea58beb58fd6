"""Packed data sets: many rendered objects as a few uint8 arrays, for training at memory speed.

A folder holds `packed.json` (what the views are) and shards `views_<first>.npy`, each
[N, V, H, W, 3] uint8 sRGB composited over white. Shards appear atomically, so a killed run resumes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from manyview.data.procedural import make_object, render_object
from manyview.data.render.fast import render_fast
from manyview.data.render.meshes import RenderMesh, load_mesh
from manyview.errors import InputError
from manyview.types import Cameras

SHARD_OBJECTS = 50


class PackedViews:
    """Read access to a packed data set: `views[i]` is [V, H, W, 3] uint8, memory-mapped.

    Raises `InputError` when the folder is not one or has no shard.
    """

    def __init__(self, folder: Path) -> None:
        description = folder / "packed.json"
        if not description.is_file():
            raise InputError("--data", str(folder), "expected a packed data set (a folder with packed.json)")
        self.folder = folder
        self.description: dict = json.loads(description.read_text())
        self.shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("views_*.npy"))]
        if not self.shards:
            raise InputError("--data", str(folder), "holds no finished shard; run the rendering again")
        self._starts = np.cumsum([0] + [len(shard) for shard in self.shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[shard][index - self._starts[shard]]

    @property
    def num_views(self) -> int:
        """Views of one object."""
        return self.shards[0].shape[1]

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All objects in order, `size` at a time: [<= size, V, H, W, 3]."""
        for start in range(0, len(self), size):
            yield np.stack([self[i] for i in range(start, min(start + size, len(self)))])


def write_shard(folder: Path, first: int, images: NDArray[np.uint8]) -> None:
    """Put one shard in place atomically."""
    target = folder / f"views_{first:08d}.npy"
    temporary = folder / f".{target.name}.{os.getpid()}"
    with temporary.open("wb") as file:
        np.save(file, images)
    temporary.replace(target)


def describe(folder: Path, description: dict) -> None:
    """Create the folder, or check that it was begun with the same options (else `InputError`)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "packed.json"
    text = json.dumps(description, indent=1, sort_keys=True)
    if path.is_file() and path.read_text() != text:
        raise InputError("--out", str(folder), "was begun with other options; choose another folder")
    path.write_text(text)


def pack_procedural(
    folder: Path,
    first_seed: int,
    num_objects: int,
    cameras: Cameras,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Render the objects of consecutive seeds into a packed data set; finished shards are kept.

    `progress` is called with the number of objects each finished shard adds.
    """
    height, width = (int(value) for value in cameras.sizes[0])
    describe(
        folder,
        {
            "source": "procedural",
            "first_seed": first_seed,
            "world_from_cam": cameras.world_from_cam.tolist(),
            "K": cameras.K.tolist(),
            "size": [height, width],
        },
    )
    jobs = [
        (folder, seed, min(SHARD_OBJECTS, first_seed + num_objects - seed), cameras, device)
        for seed in range(first_seed, first_seed + num_objects, SHARD_OBJECTS)
        if not (folder / f"views_{seed:08d}.npy").is_file()
    ]
    if workers <= 1:
        for job in jobs:
            _pack_shard(job)
            if progress is not None:
                progress(job[2])
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_pack_shard, job): job[2] for job in jobs}
        for future in as_completed(futures):
            future.result()
            if progress is not None:
                progress(futures[future])


def _pack_shard(job: tuple[Path, int, int, Cameras, str]) -> None:
    folder, first, count, cameras, device = job
    if device == "cpu":
        torch.set_num_threads(1)  # one process a core; threads inside would only contend
    cameras = cameras.to(device)
    images = []
    for seed in range(first, first + count):
        views = render_object(make_object(seed).to(device), cameras)
        pixels = (views.over(1.0) * 255).round().to(torch.uint8)
        images.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
    write_shard(folder, first, np.stack(images))


def pack_meshes(
    folder: Path,
    meshes: list[Path],
    cameras: Cameras,
    turns: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Render mesh files with the fast engine into a packed data set, one shard a mesh.

    With `turns` > 0 every mesh is seen in that many random placements (two thirds upright with a random
    yaw, the rest turned freely, half of them mirrored), which makes many examples of few real objects.
    """
    height, width = (int(value) for value in cameras.sizes[0])
    names = [path.stem for path in meshes]
    describe(folder, {"source": names, "turns": turns, "seed": seed, "size": [height, width]})
    for number, path in enumerate(meshes):
        if (folder / f"views_{number:08d}.npy").is_file():
            continue
        mesh = load_mesh(path)
        rng = np.random.default_rng([seed, number])
        images = []
        for turn in range(max(turns, 1)):
            placed = mesh if turns == 0 else _turned(mesh, rng, upright=turn % 3 != 2)
            pixels = (render_fast(placed, cameras).over(1.0) * 255).round().to(torch.uint8)
            images.append(pixels.permute(0, 2, 3, 1).numpy())
        write_shard(folder, number, np.stack(images))
        if progress is not None:
            progress(max(turns, 1))


def _turned(mesh: RenderMesh, rng: np.random.Generator, upright: bool) -> RenderMesh:
    if upright:
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        linear = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    else:
        linear, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        linear *= np.sign(np.linalg.det(linear))
    mirrored = rng.random() < 0.5
    if mirrored:
        linear = linear @ np.diag([1.0, -1.0, 1.0])
    vertices = mesh.vertices.astype(np.float64) @ linear.T
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    faces = mesh.faces[:, ::-1].copy() if mirrored else mesh.faces
    return replace(mesh, vertices=vertices.astype(np.float32), faces=faces)
