"""Posed views into splats, a field, or a textured mesh: the steps in order, with what they share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import trimesh
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.interpolation import cameras_between
from manyview.lift.field.answers import Renderable
from manyview.lift.field.fit import FieldOptions, fit_field
from manyview.lift.field.render import render_field
from manyview.lift.mesh.baking import bake_texture
from manyview.lift.mesh.cleaning import largest_component, simplify_mesh
from manyview.lift.mesh.extraction import extract_mesh
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.mesh.rendering import render_mesh
from manyview.lift.sdf.fit import SdfOptions, fit_sdf
from manyview.lift.sdf.model import SdfField
from manyview.lift.splats.fit import SplatOptions, fit_splats
from manyview.lift.splats.model import Splats
from manyview.lift.splats.render import SplatRender, render_splats
from manyview.lift.volume_files import read_volume, write_volume
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views, join_cameras

Kind = Literal["splats", "field", "mesh"]


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """What is made of the views, and how."""

    to: Kind
    """splats, field, or mesh (an SDF fit, marching cubes, and a texture baked from the views)."""
    interpolate: int = 0
    """Mesh and field: also fit this many views that splats, fitted first, show between the given cameras."""
    interpolated_weight: float = 0.25
    """Weight of those views; that of a given view is 1."""
    splats: SplatOptions = dataclasses.field(default_factory=SplatOptions)
    """For splats, and for --interpolate."""
    field: FieldOptions = dataclasses.field(default_factory=FieldOptions)
    """For the field."""
    sdf: SdfOptions = dataclasses.field(default_factory=SdfOptions)
    """For the surface of the mesh."""
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    """From the surface to the textured mesh."""

    def check(self) -> None:
        """Raise `InputError` for values that no fit can work with."""
        if not 0 <= self.interpolate <= 1000:
            raise InputError("--interpolate", self.interpolate, "expected 0 to 1000")
        if self.interpolate and self.to == "splats":
            raise InputError("--interpolate", self.interpolate, "is for --to mesh and --to field")
        if not 0 < self.interpolated_weight <= 1:
            raise InputError("--interpolated-weight", self.interpolated_weight, "expected above 0, at most 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What came out, in the world of the views' cameras. Only what was asked for, and what led to it."""

    kind: Kind
    splats: Splats | None = None
    field: Renderable | None = None
    """A field, or the signed distances behind the mesh."""
    mesh: trimesh.Trimesh | None = None
    """Textured, +Z up."""
    cameras: Cameras
    """Of the views it was fitted to."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Wall time of each step that was run."""

    def render(self, cameras: Cameras) -> Views:
        """What the cameras see of the final product: straight colour, coverage as mask, depth."""
        if self.kind == "mesh":
            assert self.mesh is not None, "a mesh was asked for"
            return render_mesh(self.mesh, cameras)
        if self.kind == "field":
            assert self.field is not None, "a field was asked for"
            return field_views(self.field, cameras)
        assert self.splats is not None, "splats were asked for"
        seen = _draw(self.splats, cameras)
        return straight_views(seen.images, seen.alphas, seen.depths, cameras)


@dataclass(frozen=True)
class Stages:
    """A folder where finished steps are kept, so that a stopped run need not do them again; None: nowhere."""

    folder: Path | None = None
    surfaces: bool = True
    """Whether fitted surfaces are kept as well as splats."""

    def splats(self, make: Callable[[], Splats]) -> Splats:
        """The kept splats, else those of `make`, which are kept."""
        if self.folder is None:
            return make()
        path = self.folder / "splats.ply"
        if not path.is_file():
            made = make()
            made.write_ply(path)
        return Splats.read(path)

    def surface(self, make: Callable[[], SdfField]) -> SdfField:
        """The kept surface, else that of `make`, which is kept."""
        if self.folder is None or not self.surfaces:
            return make()
        path = self.folder / "surface.safetensors"
        if not path.is_file():
            write_volume(path, make())
        kept = read_volume(path)
        assert isinstance(kept, SdfField), "this file is only written from one"
        return kept


def reconstruct(
    views: Views,
    options: ReconstructOptions,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
    stages: Stages | None = None,
    device: torch.device | str = "cpu",
) -> Reconstruction:
    """Fit what `options.to` asks for to the observed views of `views`. Splats are fitted on `device`.

    `weights` [V]: how much each view counts (1 when not given). Raises `InputError` as `fit_splats`,
    `fit_field` and `fit_sdf`, and where `options.interpolate` finds no neighbouring cameras.
    """
    options.check()
    stages = Stages() if stages is None else stages
    seconds: dict[str, float] = {}
    if not bool(views.observed.any()):
        raise InputError("views.observed", "none", "expected at least one observed view")
    kept = views.observed.cpu().nonzero()[:, 0]
    views, weights = views[kept], None if weights is None else weights.cpu()[kept]
    if views.cameras is None:
        raise InputError("views.cameras", "none", "expected cameras (see `manyview reconstruct --help`)")
    cameras = views.cameras
    # Chosen first, so that what has no neighbours is refused before the long fit and not after it.
    between = cameras_between(cameras, options.interpolate) if options.interpolate else None
    splats = None
    if options.to == "splats" or between is not None:
        with _timed(seconds, "splats"):
            splats = stages.splats(lambda: _fit_splats_on(device, views, options.splats, progress, weights))
    if options.to == "splats":
        return Reconstruction(kind="splats", cameras=cameras, splats=splats, seconds=seconds)
    chosen, counted = views, weights
    if splats is not None and between is not None:
        chosen, counted = _with_interpolated(views, weights, splats, between, options.interpolated_weight)
    if options.to == "field":
        with _timed(seconds, "field"):
            made = fit_field(chosen, options.field, progress, weights=counted)
        return Reconstruction(kind="field", cameras=cameras, splats=splats, field=made, seconds=seconds)
    with _timed(seconds, "surface"):
        surface = stages.surface(lambda: fit_sdf(chosen, options.sdf, progress, weights=counted))
    with _timed(seconds, "mesh"):
        mesh = mesh_surface(surface, views, options.mesh, progress, weights=weights)
    return Reconstruction(
        kind="mesh", cameras=cameras, splats=splats, field=surface, mesh=mesh, seconds=seconds
    )


def mesh_surface(
    surface: SdfField,
    views: Views,
    options: MeshOptions,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
) -> trimesh.Trimesh:
    """The surface's largest part as a simplified mesh with a texture from the observed views.

    Where no view sees it the texture is filled as `options.unseen` says. Raises `InputError` where the
    surface is empty.
    """
    bounds = torch.tensor(surface.bounds)
    # A fitted distance is not exact; twice its slope leaves room.
    mesh = extract_mesh(surface.distances, bounds, options.resolution, lipschitz=2.0, progress=progress)
    mesh = simplify_mesh(largest_component(mesh), options.num_faces)

    def own_colors(points: Tensor, normals: Tensor) -> Tensor:
        with torch.no_grad():
            return surface.colors(points, normals)

    fallback = own_colors if options.unseen == "field" else None
    return bake_texture(
        mesh, views, weights=weights, fallback=fallback, size=options.texture_size, progress=progress
    )


def field_views(field: Renderable, cameras: Cameras) -> Views:
    """What cameras of one size see of a field: straight colour, coverage as mask, depth."""
    seen = render_field(field, cameras, background=0.0)
    return straight_views(seen.images, seen.alphas, seen.depths, cameras)


def straight_views(images: Tensor, alphas: Tensor, depths: Tensor, cameras: Cameras) -> Views:
    """Views of what was rendered over black: colour divided by its coverage."""
    colors = torch.where(alphas > 1e-3, images / alphas.clamp_min(1e-3), 1.0)
    return Views(
        images=colors.detach().clamp(0, 1),
        masks=alphas.detach().clamp(0, 1),
        cameras=cameras,
        depths=torch.where(alphas >= 0.5, depths, 0).detach(),
    )


def _fit_splats_on(
    device: torch.device | str,
    views: Views,
    options: SplatOptions,
    progress: Progress,
    weights: Tensor | None,
) -> Splats:
    moved = Views(
        images=views.images.to(device),
        masks=None if views.masks is None else views.masks.to(device),
        cameras=None if views.cameras is None else views.cameras.to(device),
        observed=views.observed.to(device),
    )
    return fit_splats(moved, options, progress, weights=weights).to("cpu")


def _draw(splats: Splats, cameras: Cameras) -> SplatRender:
    with torch.no_grad():
        return render_splats(splats, cameras, background=0.0)


def _with_interpolated(
    views: Views, weights: Tensor | None, splats: Splats, between: Cameras, weight: float
) -> tuple[Views, Tensor]:
    """The views and those the splats show to the cameras `between` them, and the weights of all."""
    assert views.cameras is not None, "fit_splats has checked"
    seen = _draw(splats, between)
    extra = straight_views(seen.images, seen.alphas, seen.depths, between)
    both = Views(
        images=torch.cat((views.images, extra.images.to(views.images))),
        masks=None if views.masks is None or extra.masks is None else torch.cat((views.masks, extra.masks)),
        cameras=replace(join_cameras([views.cameras, between]), distortion=None),
    )
    given = torch.ones(len(views)) if weights is None else weights.float().cpu()
    return both, torch.cat((given, given.mean() * torch.full((len(extra),), weight)))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begin, 2)
