"""Objects into a data set: a folder with one scene an object and `dataset.json`, which lists them.

dataset.json:
    {"format": 1, "options": {...},                          how every scene in the folder was rendered
     "scenes": {"mug": {"source": "mug.glb", "sha256": ...}}}  which are finished, and from which file
A scene counts as finished once it stands there. Each is written whole or not at all, so a run that was
stopped goes on where it was; a scene whose mesh file has changed since is rendered again. The source of a
procedural object is its seed, as in `procedural:7`.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import trimesh

from manyview.data.procedural import make_object, render_object, to_trimesh
from manyview.data.render.cycles import CyclesOptions, render_cycles, require_cycles
from manyview.data.render.fast import FastOptions, render_fast
from manyview.data.render.meshes import MESH_SUFFIXES, RenderMesh, UpAxis, load_mesh, unit_glb_bytes
from manyview.data.render.protocols import (
    ELEVATION_DEG,
    ProtocolName,
    check_protocol,
    held_out,
    protocol_cameras,
)
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic, writing_folder
from manyview.io.images import natural_key
from manyview.io.scene import fill_scene
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

EngineName = Literal["fast", "cycles"]
INDEX_NAME = "dataset.json"
_FORMAT = 1
# glTF stands on +Y, our objects on +Z: (x, y, z) becomes (x, z, -y).
_Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, kw_only=True)
class RenderSummary:
    """What a run did, by scene name."""

    rendered: tuple[str, ...]
    kept: tuple[str, ...]
    """Finished by an earlier run."""
    failed: tuple[str, ...]
    """One line for each mesh that could not be rendered."""


def render_dataset(
    meshes: Iterable[Path | str],
    out: Path | str,
    *,
    protocol: ProtocolName = "orbit16",
    size: int = 256,
    engine: EngineName = "fast",
    samples: int | None = None,
    seed: int = 0,
    num_views: int = 16,
    elevation_deg: float = ELEVATION_DEG,
    up: UpAxis | None = None,
    with_depth: bool = True,
    with_mesh: bool = True,
    progress: Progress = silent,
    force: bool = False,
) -> RenderSummary:
    """Render mesh files into a data set of RGBA scenes, one after the other.

    `meshes` are files, folders (searched at any depth) and glob patterns. `samples` is in rays a pixel and
    must be a square number for the engine fast (default 4; cycles 128). `up` overrides the up axis of the
    file format. `with_depth` adds depth/, `with_mesh` the mesh itself as mesh.glb, in the scene's
    coordinates. A folder begun with the same options is gone on with. With `force` the scenes an earlier
    run left there are deleted first. A mesh that cannot be rendered costs its own scene only and is named
    in the result. Raises `InputError` before any rendering for unusable options, no mesh, a folder that
    holds something else or was begun with other options; and after it if not one scene came out.
    """
    out = Path(out)
    render, engine_options = _engine(engine, samples, seed)
    check_protocol(protocol, num_views)
    if up not in (None, "y", "z"):
        raise InputError("up", up, "expected y or z")
    protocol_cameras(protocol, size, num_views=num_views, elevation_deg=elevation_deg)
    options = {
        "engine": engine,
        "engine_options": engine_options,
        "protocol": protocol,
        "num_views": num_views,
        "size": size,
        "seed": seed,
        "up": up or "by file format",
        "with_depth": with_depth,
        "with_mesh": with_mesh,
        **_told_elevation(elevation_deg),
    }
    items = [
        _mesh_item(name, source, render, up, with_mesh)
        for name, source in scene_sources(find_meshes(meshes, outside=out)).items()
    ]

    def cameras_of(name: str) -> Cameras:
        more: dict[str, Any] = {"num_views": num_views, "elevation_deg": elevation_deg}
        return protocol_cameras(protocol, size, name=name, seed=seed, **more)

    return _render_items(items, out, options, cameras_of, with_depth, progress, force)


def render_procedural(
    first_seed: int,
    num_objects: int,
    out: Path | str,
    *,
    protocol: ProtocolName = "orbit16",
    size: int = 256,
    samples: int | None = None,
    seed: int = 0,
    num_views: int = 16,
    elevation_deg: float = ELEVATION_DEG,
    progress: Progress = silent,
    force: bool = False,
) -> RenderSummary:
    """Render the procedural objects of consecutive seeds into a data set of RGBA scenes with depth and mesh.

    Scenes are named by their object's seed; `seed` is that of the cameras of the protocol random. `samples`
    is in samples a pixel, a square number (default 4). The mesh lacks the baked shading of the views. The
    rest, and what is raised, as in `render_dataset`.
    """
    check_protocol(protocol, num_views)
    protocol_cameras(protocol, size, num_views=num_views, elevation_deg=elevation_deg)
    side = samples_side(samples)
    options = {
        "engine": "procedural",
        "engine_options": {"samples": side},
        "protocol": protocol,
        "num_views": num_views,
        "size": size,
        "seed": seed,
        **_told_elevation(elevation_deg),
    }
    items = [_procedural_item(number, side) for number in range(first_seed, first_seed + num_objects)]

    def cameras_of(name: str) -> Cameras:
        more: dict[str, Any] = {"num_views": num_views, "elevation_deg": elevation_deg}
        return protocol_cameras(protocol, size, name=name, seed=seed, **more)

    return _render_items(items, Path(out), options, cameras_of, True, progress, force)


def _told_elevation(degrees: float) -> dict[str, float]:
    """Only where it differs, so that data sets begun before there was a choice are gone on with."""
    return {} if degrees == ELEVATION_DEG else {"elevation_deg": degrees}


def samples_side(samples: int | None) -> int:
    """Samples along a side of a pixel, of so many in all (default 4). Raises `InputError` unless a square."""
    rays = 4 if samples is None else samples
    side = math.isqrt(max(rays, 0))
    if not 1 <= rays <= 256 or side**2 != rays:
        line = "the engine fast casts a square number of rays a pixel: 1, 4, 9 ... 256"
        raise InputError("samples", rays, line)
    return side


@dataclass(frozen=True)
class _Item:
    """One object to render."""

    name: str
    source: str
    digest: Callable[[], str]
    """What tells whether the object is still the same."""
    render: Callable[[Cameras], tuple[Views, bytes | None]]
    """Its views, and its mesh as glb in glTF's axes."""


def _mesh_item(
    name: str, path: Path, render: Callable[[RenderMesh, Cameras], Views], up: UpAxis | None, with_mesh: bool
) -> _Item:
    def views_and_mesh(cameras: Cameras) -> tuple[Views, bytes | None]:
        mesh = load_mesh(path, up)
        views = render(mesh, cameras)
        return views, unit_glb_bytes(path, mesh) if with_mesh else None

    return _Item(name, str(path), lambda: hashlib.sha256(path.read_bytes()).hexdigest(), views_and_mesh)


def _procedural_item(seed: int, supersample: int) -> _Item:
    def views_and_mesh(cameras: Cameras) -> tuple[Views, bytes | None]:
        made = make_object(seed)
        scene = trimesh.Scene(to_trimesh(made))
        scene.apply_transform(_Y_UP_FROM_Z_UP)
        exported: Any = scene.export(file_type="glb")
        return render_object(made, cameras, supersample), bytes(exported)

    source = f"procedural:{seed}"
    return _Item(f"{seed:06d}", source, lambda: hashlib.sha256(source.encode()).hexdigest(), views_and_mesh)


def _render_items(
    items: Sequence[_Item],
    out: Path,
    options: dict[str, Any],
    cameras_of: Callable[[str], Cameras],
    with_depth: bool,
    progress: Progress,
    force: bool,
) -> RenderSummary:
    index = _open_index(out, options, force)
    rendered, kept, failed = [], [], []
    progress.start(len(items), "objects")
    try:
        for item in items:
            name = item.name
            try:
                digest = item.digest()
                if index.is_finished(name, digest):
                    kept.append(name)
                else:
                    views, mesh = item.render(cameras_of(name))
                    unseen = held_out(options["protocol"], len(views)).to(views.observed.device)
                    views = dataclasses.replace(views, observed=~unseen)
                    # Where a scene stands already, it is of another version of the mesh, or not in the index.
                    with writing_folder(out / name, force=True) as folder:
                        fill_scene(views if with_depth else dataclasses.replace(views, depths=None), folder)
                        if mesh is not None:
                            (folder / "mesh.glb").write_bytes(mesh)
                    index.add(name, Path(item.source).name, digest)
                    rendered.append(name)
            except (InputError, RuntimeError, OSError) as error:
                if isinstance(error, InputError) and error.argument == "--out":
                    raise
                failed.append(_one_line(item.source, error))
            progress.advance()
    finally:
        progress.finish()
    if failed and not rendered and not kept:
        raise InputError("meshes", f"none of {len(failed)} could be rendered", failed[0])
    return RenderSummary(rendered=tuple(rendered), kept=tuple(kept), failed=tuple(failed))


def find_meshes(inputs: Iterable[Path | str], outside: Path | None = None) -> list[Path]:
    """The mesh files that files, folders and glob patterns stand for, each once, in natural order.

    Hidden files and folders are passed over, and what is in the folder `outside`. Raises `InputError` for an
    input that gives none.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [p for p in path.rglob("*") if _is_mesh(p) and not _is_hidden(p.relative_to(path))]
        elif path.exists():
            files = [path]
        else:
            files = [p for p in map(Path, glob.glob(str(given), recursive=True)) if _is_mesh(p)]
        if outside is not None:
            files = [p for p in files if outside.resolve() not in p.resolve().parents]
        if not files:
            wanted = "expected a mesh file, a folder or a pattern that holds some: " + ", ".join(
                MESH_SUFFIXES
            )
            raise InputError("meshes", str(given), wanted)
        found.update(dict.fromkeys(sorted(files, key=natural_key)))
    if not found:
        raise InputError("meshes", "none given", "expected one or more mesh files")
    return list(found)


def scene_sources(meshes: Sequence[Path]) -> dict[str, Path]:
    """A scene name for each mesh file: its stem, or where stems repeat, its path below the common folder.

    `a/mug.glb` and `b/mug.glb` become `a__mug` and `b__mug`; a suffix is added where even those repeat.
    """
    repeated = {stem for stem, count in Counter(path.stem.casefold() for path in meshes).items() if count > 1}
    resolved = [path.resolve() for path in meshes]
    folders = [path.parent.parts for path in resolved]
    shared = 0
    while all(len(parts) > shared for parts in folders) and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    names = []
    for path in resolved:
        below = path.parts[shared:]
        names.append("__".join((*below[:-1], path.stem)) if path.stem.casefold() in repeated else path.stem)
    again = {name for name, count in Counter(name.casefold() for name in names).items() if count > 1}
    finished = [
        name + path.suffix.replace(".", "_") if name.casefold() in again else name
        for name, path in zip(names, resolved, strict=True)
    ]
    return dict(zip((name.lstrip(".") for name in finished), meshes, strict=True))


def _is_mesh(path: Path) -> bool:
    return path.suffix.lower() in MESH_SUFFIXES and path.is_file()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _engine(
    engine: str, samples: int | None, seed: int
) -> tuple[Callable[[RenderMesh, Cameras], Views], dict[str, Any]]:
    """The engine as a function of mesh and cameras, and its resolved options."""
    if engine not in get_args(EngineName):
        raise InputError("engine", engine, "expected " + " or ".join(get_args(EngineName)))
    if engine == "fast":
        fast = FastOptions(samples=samples_side(samples))
        return (lambda mesh, cameras: render_fast(mesh, cameras, fast)), dataclasses.asdict(fast)
    cycles = CyclesOptions(samples=128 if samples is None else samples, seed=seed)
    require_cycles(cycles)
    recorded = dataclasses.asdict(cycles)
    # Neither changes the pictures.
    del recorded["python"], recorded["threads"]
    return (lambda mesh, cameras: render_cycles(mesh, cameras, cycles)), recorded


@dataclass
class _Index:
    folder: Path
    options: dict[str, Any]
    scenes: dict[str, dict[str, str]]

    def is_finished(self, name: str, digest: str) -> bool:
        known = self.scenes.get(name)
        return (
            known is not None
            and known["sha256"] == digest
            and (self.folder / name / "transforms.json").is_file()
        )

    def add(self, name: str, source: str, digest: str) -> None:
        self.scenes[name] = {"source": source, "sha256": digest}
        self.write()

    def write(self) -> None:
        content = {"format": _FORMAT, "options": self.options, "scenes": self.scenes}
        write_text_atomic(self.folder / INDEX_NAME, json.dumps(content, indent=1) + "\n")


def _open_index(out: Path, options: dict[str, Any], force: bool) -> _Index:
    path = out / INDEX_NAME
    begun = out.exists() and (not out.is_dir() or any(out.iterdir()))
    index = _Index(out, options, {})
    if begun:
        if not path.is_file():
            raise InputError(
                "--out", str(out), f"holds something else (no {INDEX_NAME}); choose another folder"
            )
        old = _read_index(path)
        if force:
            for name in old.scenes:
                shutil.rmtree(out / name, ignore_errors=True)
        elif old.options != options:
            changed = [key for key in options if options[key] != old.options.get(key)]
            line = (
                f"was begun with other options ({', '.join(changed)}); choose another folder or give --force"
            )
            raise InputError("--out", str(out), line)
        else:
            index = old
    index.write()
    return index


def _read_index(path: Path) -> _Index:
    try:
        content = json.loads(path.read_text())
        scenes, options = content["scenes"], content["options"]
        # Names are used as paths below, also to delete: they must be plain.
        plain = all(Path(name).name == name and set(entry) >= {"sha256"} for name, entry in scenes.items())
        if content["format"] == _FORMAT and plain and isinstance(options, dict):
            return _Index(path.parent, options, scenes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError("--out", str(path), "is not an index that manyview render wrote; choose another folder")


def _one_line(source: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if source in reason else f"{source}: {reason}"
