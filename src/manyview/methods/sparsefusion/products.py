"""What is made of a distilled field: a textured mesh, splats, a turn round it; and pictures of the attention.

Everything happens in the world of the field and the views that are passed, whatever its scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import trimesh
from torch import Tensor

from manyview.geometry.interpolation import turntable_cameras
from manyview.geometry.normalization import Similarity
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.reconstruction import ReconstructOptions, field_views, mesh_surface, reconstruct
from manyview.lift.sdf.model import SdfField
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.model import Splats
from manyview.lift.splats.options import SplatOptions
from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.pictures import epipolar_picture
from manyview.methods.sparsefusion.pipeline import join_views
from manyview.methods.sparsefusion.placement import rotation_to_z
from manyview.methods.sparsefusion.poses import distillation_cameras
from manyview.methods.sparsefusion.teacher import Teacher
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

RENDERS = 24
"""Views of the field, from all round, that splats and texture are made from beside the given ones."""
_RENDER_WEIGHT = 0.25
_SPLATS = SplatOptions(num_steps=1500, num_points=6000, most_splats=30_000)
_SURFACE = SdfOptions(steps=800, resolution=128)
_MESH = MeshOptions(resolution=160)


@dataclass(frozen=True)
class SeenField:
    """A field and views of it: what splats and meshes are fitted to."""

    field: Volume
    views: Views
    """The given views and RENDERS of the field, all observed, with masks."""
    weights: Tensor
    """[V] 1 for given views, less for renders."""


def look_around(field: Volume, given: Views, *, seed: int = 0) -> SeenField:
    """The field with the views that products are made from. `given`: square views with cameras."""
    assert given.cameras is not None, "given views have cameras"
    cameras = distillation_cameras(given.cameras, RENDERS, seed=seed, jitter=0.5, size=given.size[0])
    views = join_views(given, field_views(field, cameras))
    weights = torch.where(views.observed, 1.0, _RENDER_WEIGHT)
    return SeenField(field, replace(views, observed=torch.ones_like(views.observed), depths=None), weights)


def make_mesh(
    seen: SeenField, *, options: MeshOptions = _MESH, progress: Progress = silent, seed: int = 0
) -> trimesh.Trimesh:
    """The field's surface as a textured mesh (+Z up). Of a field that is no surface, one is fitted to the
    views. Raises `InputError` where there is no surface."""
    if isinstance(seen.field, SdfField):
        return mesh_surface(seen.field, seen.views, options, progress, weights=seen.weights)
    wanted = ReconstructOptions(to="mesh", sdf=replace(_SURFACE, seed=seed), mesh=options)
    made = reconstruct(seen.views, wanted, progress, weights=seen.weights)
    assert made.mesh is not None, "a mesh was asked for"
    return made.mesh


def make_splats(
    seen: SeenField, *, options: SplatOptions = _SPLATS, progress: Progress = silent, seed: int = 0
) -> Splats:
    """Splats fitted to the views."""
    wanted = ReconstructOptions(to="splats", splats=replace(options, seed=seed))
    made = reconstruct(seen.views, wanted, progress, weights=seen.weights)
    assert made.splats is not None, "splats were asked for"
    return made.splats


def turntable(
    field: Volume, cameras: Cameras, center: Tensor, up: Tensor, num_frames: int, progress: Progress = silent
) -> Tensor:
    """[N, 3, H, W] one turn about `center` [3] and `up` [3] over white, at the cameras' mean elevation and
    distance, with the first one's lens."""
    turn = Similarity(1.0, rotation_to_z(up), torch.zeros(3, dtype=torch.float64))
    upright = turn.apply_to_cameras(cameras.to(torch.float64))
    circle = turntable_cameras(upright, turn.apply_to_points(center.double()), num_frames)
    circle = turn.inverse().apply_to_cameras(circle).to(torch.float32)
    frames = []
    progress.start(num_frames, "frames")
    try:
        for index in range(num_frames):
            frames.append(field_views(field, circle[index]).over(1.0))
            progress.advance()
    finally:
        progress.finish()
    return torch.cat(frames)


@torch.no_grad()
def attention_pictures(teacher: Teacher, given: Views, query: Cameras) -> tuple[Tensor, Tensor]:
    """Where the epipolar attention of one camera looked, as pictures.

    [3, 3 R, K R]: the K given views side by side, in each row with the points of another ray of `query`
    (the object's middle, a third above it and a third below it); and [1, R, R] the attention's depth, near
    0 and far 1, 1 where the colours are white.
    """
    frames = teacher.frames(given)
    side, cells = teacher.resolution, teacher.cells
    context = teacher.read(given)
    answer = teacher.eft(context, query.resized(side, side), cells, cells, own="hide", attention=True)
    attention = answer.attention
    assert attention is not None, "it was asked for"
    middle = cells // 2
    rows = []
    for row in (middle, max(0, middle - cells // 6), min(cells - 1, middle + cells // 6)):
        drawn = epipolar_picture(frames.images.float(), attention, (row, middle))
        rows.append(torch.cat(list(drawn), dim=2))
    near, far = (float(value) for value in attention.depths[0, [0, -1]])
    depth = ((attention.depth_map[0, 0].float().cpu() - near) / (far - near)).clamp(0, 1)
    light = (1 - answer.colors[0, 0].float().cpu()).amax(dim=0, keepdim=True) < 0.1
    grown = torch.nn.functional.interpolate(torch.where(light, 1.0, depth)[None], (side, side))
    return torch.cat(rows, dim=1).clamp(0, 1), grown[0]
