"""Fitting a field on to other views, and outlines that carve in place of the masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from test_field_fit import RADIUS, SMALL, ball_views, psnr, small_orbit

from manyview.errors import InputError
from manyview.geometry.trajectories import sphere_cameras
from manyview.lift.field.fit import fit_field, refit_field
from manyview.lift.field.render import render_field
from manyview.lift.field.voxels import VoxelField
from manyview.lift.sdf.model import SdfField
from manyview.types import Views

FEW = replace(SMALL, steps=20, rays=600, resolution=24)


def swapped(views: Views) -> Views:
    """Red and blue change places."""
    return replace(views, images=views.images.flip(1))


def error(field: object, views: Views) -> float:
    assert views.cameras is not None
    return psnr(render_field(field, views.cameras).images, views.over(1.0))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("encoding", "gain"), [("voxels", 0.5), ("surface", 0.5), ("dense", 0.05)])
def test_a_field_goes_on_to_other_views(encoding: Literal["voxels", "surface", "dense"], gain: float):
    views = ball_views(small_orbit(6))
    options = replace(FEW, encoding=encoding, steps=12, rays=300, resolution=16)
    first = fit_field(views, options)
    kept = {name: value.clone() for name, value in first.state_dict().items()}  # pyright: ignore
    before = error(first, swapped(views))
    second = refit_field(first, swapped(views), options)
    assert type(second) is type(first)
    assert error(second, swapped(views)) > before + gain
    assert all(torch.equal(value, kept[name]) for name, value in first.state_dict().items())  # pyright: ignore
    assert not any(value.requires_grad for value in second.parameters())  # pyright: ignore
    again = refit_field(first, swapped(views), options)
    assert all(
        torch.equal(value, again.state_dict()[name])  # pyright: ignore
        for name, value in second.state_dict().items()  # pyright: ignore
    )


def test_the_box_stays_and_the_grid_may_grow():
    first = fit_field(ball_views(small_orbit(4)), replace(FEW, steps=4))
    second = refit_field(first, ball_views(small_orbit(4)), replace(FEW, steps=2, resolution=32))
    assert isinstance(first, VoxelField)
    assert isinstance(second, VoxelField)
    assert max(first.box.shape) == 24
    assert max(second.box.shape) == 32
    assert max(abs(a - b) for a, b in zip(first.box.low, second.box.low, strict=True)) < first.box.voxel


def test_a_surface_that_views_leave_nothing_of_is_refused():
    views = ball_views(small_orbit(4))
    options = replace(FEW, encoding="surface")
    first = fit_field(views, options)
    assert isinstance(first, SdfField)
    with torch.no_grad():
        first.geometry.clamp_(min=0.5)
    with pytest.raises(InputError, match="no surface"):
        refit_field(first, views, replace(options, steps=1))


def test_outlines_carve_in_place_of_the_masks():
    # Two views alone leave a long hull; the outlines of six make it a ball's.
    both, around = ball_views(sphere_cameras([0.0, 25.0], 0.0, 1.5, size=32)), ball_views(small_orbit(6))
    assert around.masks is not None
    assert around.cameras is not None
    one_step = replace(FEW, steps=3, rays=50)
    alone = fit_field(both, one_step)
    told = fit_field(both, one_step, outlines=(around.masks, around.cameras))
    assert isinstance(alone, VoxelField)
    assert isinstance(told, VoxelField)
    side = told.box.voxel * (max(told.box.shape) - 1)
    assert side < 1.4 * 2 * RADIUS
    assert alone.box.voxel * (max(alone.box.shape) - 1) > 1.3 * side


def test_other_fields_are_refused():
    class Fog:
        def render_rays(self, *arguments: object, **options: object) -> None: ...

    with pytest.raises(InputError, match="Fog"):
        refit_field(Fog(), ball_views(small_orbit(4)), FEW)  # pyright: ignore[reportArgumentType]
