"""Packed data sets: many rendered objects as a few uint8 arrays, for training at memory speed.

A folder holds `packed.json` (what the views are) and shards `views_<first>.npy`, each
[N, V, H, W, 3] uint8 sRGB composited over white. Shards appear atomically, so a killed run resumes. Where
depths were asked for, `depths_<first>.npy` [N, V, H, W] uint8 stands beside each (see `depth_codes`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from manyview.data.depth_codes import DepthCodes
from manyview.data.procedural import make_object, render_object
from manyview.data.render.fast import FastOptions, render_fast
from manyview.data.render.meshes import RenderMesh, UpAxis, load_mesh
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic, writing_file
from manyview.types import Cameras, Views

SHARD_OBJECTS = 20
"""Objects in a shard: what a stopped run loses at most, a process."""
DESCRIPTION_NAME = "packed.json"
# Every open memory map holds a file descriptor, of which a process has about a thousand.
_OPEN_SHARDS = 128


class PackedViews(ObjectViews):
    """Read access to a packed data set: `views[i]` is [V, H, W, 3] uint8, memory-mapped.

    Raises `InputError` naming `argument` when the folder is not one, has no shard, or has shards of
    different sizes.
    """

    def __init__(self, folder: Path, argument: str = "--data") -> None:
        description = folder / DESCRIPTION_NAME
        if not description.is_file():
            raise InputError(
                argument, str(folder), f"expected a packed data set (a folder with {DESCRIPTION_NAME})"
            )
        self.folder = folder
        self.description: dict = json.loads(description.read_text())
        self._paths = sorted(folder.glob("views_*.npy"))
        if not self._paths:
            raise InputError(argument, str(folder), "holds no finished shard; run the rendering again")
        shapes = [_shard_shape(path) for path in self._paths]
        if len({shape[1:] for shape in shapes}) != 1:
            raise InputError(argument, str(folder), "its shards differ in the number or size of the views")
        self._item_shape = shapes[0][1:]
        self._starts = np.cumsum([0] + [shape[0] for shape in shapes])
        self._shard = functools.lru_cache(_OPEN_SHARDS)(self._open)
        self._depth_shard = functools.lru_cache(_OPEN_SHARDS)(self._open_depths)
        self._argument = argument

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        shard, place = self._place(index)
        return self._shard(shard)[place]

    @property
    def depth_codes(self) -> DepthCodes:
        """What the bytes of `depths` stand for. Raises `InputError` for a set rendered without depths."""
        limits = self._depth_limits()
        return DepthCodes(near=float(limits["near"]), far=float(limits["far"]))

    def depths(self, index: int) -> NDArray[np.uint8]:
        """[V, H, W] codes of an object's depths, memory-mapped. Raises `InputError` as `depth_codes`, which
        says what they stand for."""
        self._depth_limits()
        shard, place = self._place(index)
        return self._depth_shard(shard)[place]

    @property
    def num_views(self) -> int:
        """Views of one object."""
        return self._item_shape[0]

    @property
    def identity(self) -> str:
        """A hash of the views' bytes in their order, however they are cut into shards."""
        return self._identity

    @functools.cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256(repr(self._item_shape).encode())
        for number in range(len(self._paths)):
            digest.update(self._shard(number).data)
        return digest.hexdigest()

    def _depth_limits(self) -> dict[str, float]:
        limits = self.description.get("depths")
        if limits is None:
            accepted = "holds no depths; render it with them (manyview render --packed --depths)"
            raise InputError(self._argument, str(self.folder), accepted)
        return limits

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of an object, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _open(self, number: int) -> NDArray[np.uint8]:
        return np.load(self._paths[number], mmap_mode="r")

    def _open_depths(self, number: int) -> NDArray[np.uint8]:
        return np.load(_depth_path(self._paths[number]), mmap_mode="r")


def _shard_shape(path: Path) -> tuple[int, ...]:
    # The header alone is read. The map is closed at once, as there may be thousands of shards.
    return np.load(path, mmap_mode="r").shape


def write_shard(
    folder: Path,
    first: int,
    images: NDArray[np.uint8],
    argument: str = "--out",
    depths: NDArray[np.uint8] | None = None,
) -> None:
    """Put one shard in place atomically. Raises `InputError` naming `argument` where it cannot be written."""
    path = _shard_path(folder, first)
    if depths is not None:
        # Before the views, for a shard counts as finished once its views are there.
        with writing_file(_depth_path(path), argument=argument) as temporary:
            np.save(temporary, depths)
    with writing_file(path, argument=argument) as temporary:
        np.save(temporary, images)


def has_shard(folder: Path, first: int, count: int) -> bool:
    """Whether the shard is there with at least `count` objects; one with fewer is of a run asked for less."""
    path = _shard_path(folder, first)
    return path.is_file() and _shard_shape(path)[0] >= count


def _shard_path(folder: Path, first: int) -> Path:
    return folder / f"views_{first:08d}.npy"


def _depth_path(shard: Path) -> Path:
    return shard.with_name(shard.name.replace("views_", "depths_", 1))


def describe(folder: Path, description: dict, force: bool = False, argument: str = "--out") -> None:
    """Create the folder, or check that it was begun with the same options.

    With `force` a packed data set of other options is deleted. Raises `InputError` where the options
    differ and where the folder holds something else.
    """
    path = folder / DESCRIPTION_NAME
    text = json.dumps(description, indent=1, sort_keys=True)
    if path.is_file():
        if force:
            for shard in [*folder.glob("views_*.npy"), *folder.glob("depths_*.npy")]:
                shard.unlink()
        elif path.read_text() != text:
            raise InputError(
                argument, str(folder), "was begun with other options; choose another folder or give --force"
            )
        else:
            return
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            argument, str(folder), f"holds something else (no {DESCRIPTION_NAME}); choose another folder"
        )
    write_text_atomic(path, text, argument=argument)


def pack_procedural(
    folder: Path,
    first_seed: int,
    num_objects: int,
    cameras: Cameras,
    workers: int = 1,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    *,
    supersample: int = 2,
    depths: bool = False,
    force: bool = False,
) -> None:
    """Render the objects of consecutive seeds into a packed data set; finished shards are kept.

    `supersample`: samples along a side of a pixel. `depths`: keep the views' depths too. `progress` is called
    with the number of objects each finished shard adds. `force` deletes what an earlier run left. Raises
    `InputError` as `describe`.
    """
    description = {
        "source": "procedural",
        "first_seed": first_seed,
        "shard_objects": SHARD_OBJECTS,
        "supersample": supersample,
        **_rig_description(cameras, depths),
    }
    describe(folder, description, force)
    end = first_seed + num_objects
    counts = {seed: min(SHARD_OBJECTS, end - seed) for seed in range(first_seed, end, SHARD_OBJECTS)}
    jobs = [
        _SeedJob(folder, seed, count, cameras, device, supersample, depths)
        for seed, count in counts.items()
        if not has_shard(folder, seed, count)
    ]
    _run(jobs, workers, progress)


def pack_meshes(
    folder: Path,
    meshes: list[Path],
    cameras: Cameras,
    turns: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    *,
    workers: int = 1,
    supersample: int = 2,
    up: UpAxis | None = None,
    keep_going: bool = False,
    depths: bool = False,
    force: bool = False,
) -> tuple[str, ...]:
    """Render mesh files with the fast engine into a packed data set, one shard a mesh.

    With `turns` > 0 every mesh is seen in that many random placements (two thirds upright with a random
    yaw, the rest turned freely, half of them mirrored), which makes many examples of few real objects.
    `up` overrides the up axis of the file format; the rest as in `pack_procedural`. Raises `InputError`
    for a mesh that cannot be read; with `keep_going` such meshes are left out, and a line about each is
    returned.
    """
    description = {
        "source": [path.stem for path in meshes],
        "turns": turns,
        "seed": seed,
        "up": up or "by file format",
        "supersample": supersample,
        **_rig_description(cameras, depths),
    }
    describe(folder, description, force)
    jobs = [
        _MeshJob(folder, number, path, cameras, turns, seed, supersample, up, keep_going, depths)
        for number, path in enumerate(meshes)
        if not has_shard(folder, number, max(turns, 1))
    ]
    return _run(jobs, workers, progress)


def _rig_description(cameras: Cameras, depths: bool) -> dict:
    height, width = (int(value) for value in cameras.sizes[0])
    codes = DepthCodes.around_objects(cameras)
    return {
        **({"depths": {"near": codes.near, "far": codes.far}} if depths else {}),
        "world_from_cam": cameras.world_from_cam.tolist(),
        "K": cameras.K.tolist(),
        "size": [height, width],
    }


def _pixels(views: Views) -> NDArray[np.uint8]:
    """[V, H, W, 3] over white."""
    return (views.over(1.0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class _Shard:
    """Rendered objects as the bytes that are kept of them."""

    def __init__(self, depths: bool) -> None:
        self._images: list[NDArray[np.uint8]] = []
        self._depths: list[NDArray[np.uint8]] | None = [] if depths else None

    def add(self, views: Views) -> None:
        self._images.append(_pixels(views))
        if self._depths is not None:
            assert views.cameras is not None, "renderers give cameras"
            assert views.depths is not None, "renderers give depths"
            self._depths.append(DepthCodes.around_objects(views.cameras).encode(views.depths[:, 0]))

    def write(self, folder: Path, first: int) -> None:
        depths = None if self._depths is None else np.stack(self._depths)
        write_shard(folder, first, np.stack(self._images), depths=depths)


@dataclass(frozen=True)
class _Done:
    """The end of a job: the objects it dealt with, and a line where they could not be rendered."""

    count: int
    failure: str = ""


@dataclass(frozen=True)
class _SeedJob:
    """One shard of procedural objects."""

    folder: Path
    first: int
    count: int
    cameras: Cameras
    device: str
    supersample: int
    depths: bool

    def __call__(self) -> _Done:
        """Write the shard."""
        cameras = self.cameras.to(self.device)
        shard = _Shard(self.depths)
        for seed in range(self.first, self.first + self.count):
            shard.add(render_object(make_object(seed).to(self.device), cameras, self.supersample))
        shard.write(self.folder, self.first)
        return _Done(self.count)


@dataclass(frozen=True)
class _MeshJob:
    """One shard: a mesh in all its placements."""

    folder: Path
    number: int
    path: Path
    cameras: Cameras
    turns: int
    seed: int
    supersample: int
    up: UpAxis | None
    keep_going: bool
    depths: bool

    def __call__(self) -> _Done:
        """Write the shard, or tell why not."""
        count = max(self.turns, 1)
        try:
            mesh = load_mesh(self.path, self.up)
        except (InputError, OSError) as error:
            if not self.keep_going:
                raise
            return _Done(count, " ".join(str(error).split()))
        rng = np.random.default_rng([self.seed, self.number])
        options = FastOptions(samples=self.supersample)
        shard = _Shard(self.depths)
        for turn in range(count):
            placed = mesh if self.turns == 0 else _turned(mesh, rng, upright=turn % 3 != 2)
            shard.add(render_fast(placed, self.cameras, options))
        shard.write(self.folder, self.number)
        return _Done(count)


def _run(
    jobs: Iterable[Callable[[], _Done]], workers: int, progress: Callable[[int], None] | None
) -> tuple[str, ...]:
    """Do the jobs, in this process or in `workers` others; the lines of those that failed."""
    failures = []
    with closing(_done_in_any_order(jobs, workers)) as ends:
        for done in ends:
            if done.failure:
                failures.append(done.failure)
            if progress is not None:
                progress(done.count)
    return tuple(sorted(failures))


def _done_in_any_order(jobs: Iterable[Callable[[], _Done]], workers: int) -> Generator[_Done, None, None]:
    if workers <= 1:
        for job in jobs:
            yield job()
        return
    with _pool(workers) as pool:
        for future in as_completed([pool.submit(_run_alone, job) for job in jobs]):
            ended = future.result()
            if not isinstance(ended, _Done):
                raise InputError(*ended)
            yield ended


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that ends at once when the block raises: shards are whole or absent, so nothing is lost."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _begin_worker() -> None:
    torch.set_num_threads(1)  # one process a core; threads inside would only contend
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others


def _run_alone(job: Callable[[], _Done]) -> _Done | tuple[str, object, str]:
    """Do a job in a process of its own. An `InputError`, which cannot be pickled, comes back as its parts."""
    try:
        return job()
    except InputError as error:
        return error.argument, error.value, error.accepted


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
