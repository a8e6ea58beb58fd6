"""Everything a scene or result folder holds that can be looked at, read once for both viewers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.io.glb import read_glb
from manyview.io.images import list_images, read_image
from manyview.io.manifest import MANIFEST_NAME, read_json
from manyview.io.scene import has_image, list_scenes, list_splits, read_scene
from manyview.io.splat_files import SplatArrays, read_splats
from manyview.types import Views
from manyview.viewer.truth import Truth, match_truth

if TYPE_CHECKING:
    import trimesh

Status = Literal["observed", "generated", "held out", "missing"]

POINTS_NAME = "points.ply"
"""The file in which a neural field lies as coloured points."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """N coloured points in the world."""

    positions: np.ndarray
    """[N, 3] float32."""
    colors: np.ndarray
    """[N, 3] uint8 sRGB."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the content lies, so that a camera can be put in front of it."""

    center: tuple[float, float, float]
    radius: float
    """Of a ball about `center` that holds the object, in world units."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What there is to see. Parts that the folder does not have are None."""

    title: str
    views: Views | None = None
    statuses: tuple[Status, ...] = ()
    """One a view: given to the method, made by it, real but not given, or without an image."""
    truth: Truth | None = None
    spread: Tensor | None = None
    """[V, 1, H, W] standard deviation over seeds."""
    splats: SplatArrays | None = None
    points: Points | None = None
    mesh: trimesh.Trimesh | None = None
    """World coordinates, +Z up."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Empty for a scene that no command of this package wrote."""
    metrics: Mapping[str, Any] = field(default_factory=dict)


def load_contents(
    path: str | os.PathLike[str], truth: str | os.PathLike[str] | None = None, *, argument: str = "DIR"
) -> Contents:
    """Read a scene, a result, or a folder with only `splats.ply`, `points.ply` or `mesh.glb` in it.

    `truth`: a scene with real images of some or all of the views, see `match_truth`. Raises `InputError`
    for a folder with nothing to see (naming a scene where it is a data set) and for broken files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(argument, str(folder), "expected an existing scene or result folder")
    manifest, metrics = (
        read_json(folder / name, argument) if (folder / name).is_file() else {}
        for name in (MANIFEST_NAME, "metrics.json")
    )
    has_images = (folder / "transforms.json").is_file() or _holds_images(folder)
    shapes = [folder / name for name in ("splats.ply", POINTS_NAME, "mesh.glb")]
    splats_file, points_file, mesh_file = (file if file.is_file() else None for file in shapes)
    if not has_images and not (splats_file or points_file or mesh_file):
        raise InputError(argument, str(folder), _what_instead(folder))
    views = _read_views(folder, argument) if has_images else None
    if truth is not None and views is None:
        raise InputError("--truth", os.fspath(truth), "the folder to look at has no views to compare with")
    return Contents(
        title=folder.resolve().name,
        views=views,
        statuses=() if views is None else _statuses(views, made="generated" if manifest else "held out"),
        truth=None if truth is None or views is None else match_truth(views, truth),
        spread=None if views is None else _read_spread(folder / "spread", views, argument),
        splats=None if splats_file is None else read_splats(splats_file, argument=argument),
        points=None if points_file is None else _read_points(points_file, argument),
        mesh=None if mesh_file is None else read_glb(mesh_file, argument=argument),
        manifest=manifest,
        metrics=metrics,
    )


def frame_contents(contents: Contents) -> Frame:
    """The ball to look at: about the mesh, splats or points; else where the cameras look.

    A few stray splats do not count: their outermost hundredth is left out.
    """
    clouds = []
    if contents.mesh is not None:
        clouds.append(np.asarray(contents.mesh.vertices))
    if contents.splats is not None and len(contents.splats):
        clouds.append(_middle(contents.splats.means))
    if contents.points is not None and len(contents.points.positions):
        clouds.append(_middle(contents.points.positions))
    if clouds:
        corners = np.array([[cloud.min(axis=0), cloud.max(axis=0)] for cloud in clouds])
        low, high = corners[:, 0].min(axis=0), corners[:, 1].max(axis=0)
        center = (low + high) / 2
        return _frame(center, float(np.linalg.norm(high - low)) / 2)
    cameras = None if contents.views is None else contents.views.cameras
    if cameras is None:
        return Frame(center=(0.0, 0.0, 0.0), radius=1.0)
    centers = cameras.centers.double().numpy()
    try:
        center = focus_point(cameras).double().numpy()
    except InputError:
        # Parallel axes meet nowhere: look along them from the middle.
        center = centers.mean(axis=0) + cameras.world_from_cam[0, :3, 2].double().numpy()
    return _frame(center, float(np.linalg.norm(centers - center, axis=1).mean()) / 2)


def _frame(center: np.ndarray, radius: float) -> Frame:
    x, y, z = (float(value) for value in center)
    return Frame(center=(x, y, z), radius=radius if np.isfinite(radius) and radius > 0 else 1.0)


def _middle(positions: np.ndarray) -> np.ndarray:
    return np.quantile(positions.astype(np.float64), [0.01, 0.99], axis=0)


def _holds_images(folder: Path) -> bool:
    try:
        list_images(folder / "images" if (folder / "images").is_dir() else folder)
    except InputError:
        return False
    # A folder of 3D files may hold pictures beside them that are no views.
    return (folder / "images").is_dir() or not (folder / MANIFEST_NAME).is_file()


def _what_instead(folder: Path) -> str:
    nothing = "holds nothing to see; expected a scene or a result"
    try:
        scenes = list_scenes(folder)
    except InputError:
        return nothing
    return f"is a data set; choose one of its {len(scenes)} scenes, for example {scenes[0].name}"


def _read_views(folder: Path, argument: str) -> Views:
    splits = list_splits(folder)
    # With several splits none is meant more than another: then all frames are just given.
    return read_scene(folder, split=splits[0] if len(splits) == 1 else None, argument=argument)


def _statuses(views: Views, made: Literal["generated", "held out"]) -> tuple[Status, ...]:
    found: list[Status] = []
    for given, known in zip(views.observed.tolist(), has_image(views).tolist(), strict=True):
        found.append("observed" if given else made if known else "missing")
    return tuple(found)


def _read_spread(folder: Path, views: Views, argument: str) -> Tensor | None:
    if not folder.is_dir():
        return None
    maps = [read_image(folder / f"{name}.png", argument=argument)[0][:1] for name in views.names]
    if any(values.shape[-2:] != views.size for values in maps):
        raise InputError(argument, str(folder), f"expected maps of {views.size[1]} x {views.size[0]} pixels")
    return torch.stack(maps)


def _read_points(path: Path, argument: str) -> Points:
    import trimesh

    try:
        cloud: Any = trimesh.load(path, process=False)
    except Exception as error:
        # trimesh raises whatever its parser stumbles over.
        raise InputError(argument, str(path), f"broken ply ({type(error).__name__})") from error
    positions = np.asarray(getattr(cloud, "vertices", np.zeros((0, 3))), dtype=np.float32)
    if len(positions) == 0 or not np.isfinite(positions).all():
        raise InputError(argument, str(path), "expected a ply of finite points")
    colors = np.asarray(getattr(cloud, "colors", np.zeros((0, 4))))
    if len(colors) != len(positions):
        colors = np.full((len(positions), 3), 96)
    return Points(positions=positions, colors=colors[:, :3].astype(np.uint8))
