"""Meshes of the orbits that Hi3D makes, each with another number of views between its own (the paper's
table 4): splats are fitted to the orbit and show the views between, a signed distance field is fitted to all.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.bench.orbit16_options import Orbit16Options, mesh_name
from manyview.bench.orbit16_rows import OrbitRow, pipeline_weights
from manyview.bench.orbit16_source import OrbitSource
from manyview.io.cutout import find_mask
from manyview.io.framing import resize_area
from manyview.lift.reconstruction import ReconstructOptions, Stages, reconstruct
from manyview.types import Cameras, Views, join_cameras

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True, kw_only=True)
class OrbitMeshMaker:
    """The lift package's mesh of a final orbit."""

    source: OrbitSource
    options: ReconstructOptions
    device: torch.device | str = "cpu"

    def __call__(self, given: Views, targets: Cameras, seed: int) -> trimesh.Trimesh:
        """In the world of the cameras. The splats are the same for every number of views between."""
        views = posed_orbit(self.source.final(given, seed), given, targets)
        stages = None
        if self.options.interpolate:
            splats = replace(self.options, to="splats", interpolate=0)

            def fit() -> tempfile.TemporaryDirectory[str]:
                folder = tempfile.TemporaryDirectory(prefix="manyview-orbit16-")
                reconstruct(views, splats, stages=Stages(Path(folder.name)), device=self.device)
                return folder

            folder = self.source.keep(given, seed, "splats", fit)
            stages = Stages(Path(folder.name), surfaces=False)
        made = reconstruct(views, self.options, stages=stages, device=self.device)
        assert made.mesh is not None, "a mesh was asked for"
        return made.mesh


def posed_orbit(images: Tensor, given: Views, targets: Cameras) -> Views:
    """The images [16, 3, S, S], the input first, with the true cameras and masks cut out of the white."""
    assert given.cameras is not None, "the protocol gives posed views"
    size = images.shape[-1]
    cameras = replace(join_cameras([given.cameras, targets]), distortion=None).resized(size, size)
    masks = torch.stack([_cut(image) for image in images])
    if given.masks is not None:
        masks[:1] = resize_area(given.masks, size, size)[0]
    return Views(images=images, masks=masks, cameras=cameras)


def _cut(image: Tensor) -> Tensor:
    """[1, S, S]: what stands on the plain background; where none is found, all that is not white."""
    found, _ = find_mask(image, None, "plain")
    return find_mask(image, None, "white")[0] if found is None else found  # pyright: ignore[reportReturnType]


def mesh_rows(
    source: OrbitSource, options: Orbit16Options, device: torch.device | str = "cpu"
) -> list[OrbitRow]:
    """A row for each number of views between that is asked for."""
    base = options.reconstruct or ReconstructOptions(to="mesh")
    rows = []
    for count in options.meshes:
        chosen = replace(base, to="mesh", interpolate=count)
        chosen.check()
        refining = {"refine": source.refiner.options} if source.refiner else {}
        rows.append(
            OrbitRow(
                name=mesh_name(count),
                mesh=OrbitMeshMaker(source=source, options=chosen, device=device),
                weights=pipeline_weights(source.pipeline),
                options={**source.options, **refining, "reconstruct": chosen},
                may_fail=True,
                source=source,
            )
        )
    return rows
