"""Points and a mesh of a sweep, directly: its depths and cameras are known.

The paper hands thirty views to COLMAP, which finds cameras and points anew; `colmap_points` does the same
where pycolmap is installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from manyview.errors import InputError, MissingDependency
from manyview.geometry.pixels import inside_image, pixel_centers, sample_images
from manyview.geometry.projection import project, unproject
from manyview.io.images import to_uint8, write_png
from manyview.lift.mesh.baking import bake_texture
from manyview.lift.mesh.cleaning import largest_component
from manyview.lift.mesh.extraction import extract_mesh
from manyview.methods.refiner.coarse_pose import round_depth
from manyview.types import Cameras, Views

TOLERANCE = 0.04
"""Of depths that count as the same, relative."""
_OUTLINES = 0.25
"""Share of the views off whose object a place has to be to be empty."""
_SMOOTHED = 10


def fuse_points(
    views: Views, *, tolerance: float = TOLERANCE, min_views: int = 2, cell: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points [N, 3] in the world and their colours [N, 3] uint8, of views with masks, depths and cameras.

    Every pixel of an object is a point where at least `min_views` views, its own among them, see a surface at
    that depth (within `tolerance`, relative). With `cell` only one point a cube of that side is left, the
    mean of those in it. Raises `InputError` for views without depths, masks or cameras, and where no point is
    left.
    """
    cameras, depths, masks = _known(views)
    height, width = views.size
    grid = pixel_centers(height, width)
    points = unproject(grid[None], depths[:, 0], cameras)
    solid = (masks[:, 0] > 0.5) & (depths[:, 0] > 0)
    agreeing = torch.zeros_like(depths[:, 0])
    for other in range(len(views)):
        seen, there = _seen(points, cameras[other], depths[[other]], masks[[other]])
        agreeing += seen & ((there[0] - there[1]).abs() <= tolerance * there[0].clamp_min(1e-6))
    chosen = solid & (agreeing >= min(min_views, len(views)))
    if not bool(chosen.any()):
        raise InputError("views", "no two agree on a point", "expected views whose depths fit together")
    places = points[chosen].numpy()
    colors = views.over(1.0).permute(0, 2, 3, 1)[chosen].numpy()
    if cell is not None:
        places, colors = _thinned(places, colors, cell)
    return places.astype(np.float32), to_uint8(torch.from_numpy(np.ascontiguousarray(colors))).numpy()


def fuse_mesh(views: Views, *, resolution: int = 64, texture_size: int = 256) -> trimesh.Trimesh:
    """A closed, textured mesh of views with masks, depths and cameras.

    Truncated distances to the views' surfaces along their rays are averaged (Curless and Levoy 1996) and cut
    where a quarter of the outlines says so, for a generator's outlines do not all fit together. The back,
    which a narrow sweep does not show, is made up: each view's object ends where a round one of its outline
    would, and those ends are averaged too. Then the surface is smoothed. Raises `InputError` as
    `fuse_points`.
    """
    cameras, depths, masks = _known(views)
    points, _ = fuse_points(views, min_views=1)
    backs = _back_depths(cameras, depths, masks)
    rear = unproject(pixel_centers(*views.size)[None], backs[:, 0], cameras)[masks[:, 0] > 0.5].numpy()
    ends = torch.cat([depths, backs], dim=1)
    both = np.concatenate([points, rear])
    low, high = np.quantile(both, 0.005, axis=0), np.quantile(both, 0.995, axis=0)
    margin = 0.06 * float((high - low).max())
    bounds = np.stack([low - margin, high + margin])
    reach = 3 * float((bounds[1] - bounds[0]).max()) / resolution

    def distances(places: Tensor) -> Tensor:
        total, weight = torch.zeros(len(places)), torch.zeros(len(places))
        outside, behind = torch.zeros(len(places)), torch.zeros(len(places))
        for index in range(len(views)):
            inside, (ahead, front, back) = _seen(places, cameras[index], ends[[index]], masks[[index]])
            near = inside & (front - ahead > -reach)
            total += torch.where(near, (front - ahead).clamp(-reach, reach), 0.0)
            weight += near
            outside += ~inside
            behind += torch.where(inside, (ahead - back).clamp(-reach, reach), 0.0)
        averaged = torch.where(weight > 0, total / weight.clamp_min(1), torch.full_like(total, -reach))
        cut = torch.where(outside >= max(1.0, _OUTLINES * len(views)), reach, -reach)
        behind = behind / (len(views) - outside).clamp_min(1)
        return torch.maximum(torch.maximum(averaged, cut), behind)

    mesh = largest_component(extract_mesh(distances, bounds, resolution))
    trimesh.smoothing.filter_taubin(mesh, iterations=_SMOOTHED)
    weights = torch.ones(len(views))
    return bake_texture(mesh, views, weights=weights, size=texture_size)


def colmap_points(views: Views) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points and colours as COLMAP finds them in the pictures alone, in a frame and scale of its own.

    Raises `MissingDependency` without pycolmap, `InputError` where it finds no model.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise MissingDependency(
            "pycolmap", "not installed", "pip install pycolmap, or take the depths' points"
        )
    import pycolmap  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, image in enumerate(views.over(1.0)):
            write_png(folder / "images" / f"{number:03d}.png", image)
        database, images, models = folder / "matches.db", folder / "images", folder / "models"
        models.mkdir()
        pycolmap.extract_features(database, images)
        pycolmap.match_exhaustive(database)
        found = pycolmap.incremental_mapping(database, images, models)
        best = max(found.values(), key=lambda model: model.num_points3D(), default=None)
        if best is None or best.num_points3D() == 0:
            raise InputError("views", f"{len(views)} pictures", "COLMAP finds no points in them")
        points = list(best.points3D.values())
        places = np.stack([np.asarray(point.xyz) for point in points]).astype(np.float32)
        return places, np.stack([np.asarray(point.color) for point in points]).astype(np.uint8)


def _back_depths(cameras: Cameras, depths: Tensor, masks: Tensor) -> Tensor:
    """[V, 1, H, W] where round objects of the views' outlines would end, behind their surfaces."""
    middle = float(torch.linalg.vector_norm(cameras.centers, dim=1).mean())
    bulge = middle - round_depth(masks, middle, cameras.K[0, 0, 0])
    return depths + 2 * bulge


def _known(views: Views) -> tuple[Cameras, Tensor, Tensor]:
    for name in ("cameras", "depths", "masks"):
        if getattr(views, name) is None:
            raise InputError("views", f"no {name}", "expected views with cameras, depths and masks")
    assert views.cameras is not None, "checked"
    assert views.depths is not None, "checked"
    assert views.masks is not None, "checked"
    return views.cameras, views.depths.float(), views.masks.float()


def _seen(points: Tensor, camera: Cameras, depths: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a camera's object is where points [..., 3] fall, by its mask and the first of its depth maps
    [1, M, H, W]; and [1 + M, ...] depths: the points', the maps'."""
    pixels, ahead = project(points[None], camera)
    at = sample_images(depths, pixels, mode="nearest")[0]
    on = sample_images(mask, pixels, mode="nearest")[0, 0] > 0.5
    seen = inside_image(pixels, camera.sizes)[0] & (ahead[0] > 0) & on & (at[0] > 0)
    return seen, torch.cat([ahead, at])


def _thinned(
    points: NDArray[np.float32], colors: NDArray[np.float32], cell: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _, inverse, counts = np.unique(
        np.floor(points / cell).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    both = np.concatenate([points, colors], axis=1).astype(np.float64)
    sums = np.stack([np.bincount(inverse, weights=column) for column in both.T], axis=1)
    mean = sums / counts[:, None]
    return mean[:, :3], mean[:, 3:]
