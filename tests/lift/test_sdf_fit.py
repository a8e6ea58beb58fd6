"""Signed distance fields: rendering a known sphere, distances made true, regularisers, and a tiny fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import sphere_cameras
from manyview.lift.field.answers import Renderable
from manyview.lift.field.box import make_box
from manyview.lift.field.pixels import PixelSource
from manyview.lift.field.render import render_field
from manyview.lift.sdf.fit import SdfOptions, fit_sdf
from manyview.lift.sdf.model import SdfField, redistance
from manyview.lift.sdf.regularity import Regularity, settle, unseen_nodes
from manyview.types import Cameras, Views

RADIUS = 0.35
SMALL = SdfOptions(resolution=36, steps=90, rays=512, anneal_steps=20)


def ball_field(nodes: int = 41, sharpness: float = 6.0) -> SdfField:
    box = make_box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), nodes)
    distances = (box.nodes().norm(dim=1) - RADIUS).reshape(box.shape) / box.voxel
    return SdfField(box, distances, sharpness=sharpness).requires_grad_(False)


def ball_views(cameras: Cameras) -> Views:
    """A ball at the origin, exactly ray traced, its colour the position in it."""
    origins, directions = camera_rays(cameras)
    along = -(origins * directions).sum(dim=-1)
    gap = (origins * origins).sum(dim=-1) - along**2
    hit = gap < RADIUS**2
    distance = along - (RADIUS**2 - gap).clamp_min(0).sqrt()
    colors = (origins + distance[..., None] * directions) + 0.5
    images = (colors * hit[..., None]).permute(0, 3, 1, 2).clamp(0, 1)
    return Views(images=images, masks=hit[:, None].float(), cameras=cameras)


def unit_directions(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def around(count: int = 8, size: int = 32) -> Cameras:
    elevation = torch.tensor([25.0, -35.0]).repeat((count + 1) // 2)[:count]
    return sphere_cameras(torch.arange(count) * 360.0 / count, elevation, 1.5, size=size)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_depth_of_a_sphere(backend):
    field = ball_field()
    field.backend = backend
    cameras = around(2, 24)
    seen = render_field(field, cameras)
    origins, directions = camera_rays(cameras)
    along = -(origins * directions).sum(dim=-1)
    gap = (origins * origins).sum(dim=-1) - along**2
    # Rays that meet the sphere well inside its outline; depth along z is the way times the cosine.
    clear = gap < (0.85 * RADIUS) ** 2
    exact = along - (RADIUS**2 - gap).clamp_min(0).sqrt()
    forward = cameras.world_from_cam[:, None, None, :3, 2]
    exact = exact * (directions * forward).sum(dim=-1)
    error = (seen.depths[:, 0] - exact)[clear].abs()
    # Sections are 0.7 voxels of 0.025 long and their middle counts.
    assert float(error.max()) < 0.025
    assert float(error.mean()) < 0.008
    assert float(seen.alphas[:, 0][clear].min()) > 0.98
    assert float(seen.alphas[:, 0][gap > (1.2 * RADIUS) ** 2].max()) < 0.01


def test_queries_of_a_sphere():
    field = ball_field()
    assert isinstance(field, Renderable)
    points = torch.tensor([[0.35, 0, 0], [0, 0.1, 0], [0, 0, -0.45], [0.0, 2.5, 0.0]])
    # The last point is outside the box: the border's 0.15 plus the 2 to the border.
    expected = points.norm(dim=1) - RADIUS
    assert_close(field.distances(points), expected, atol=2e-3, rtol=0)
    assert_close(field.normals(points[:1]), torch.tensor([[1.0, 0, 0]]), atol=0.05, rtol=0)
    # No colour learned: the middle of the range.
    assert_close(field.colors(points[:1]), torch.full((1, 3), 0.5))
    # On the surface sigma = s (1 - sigmoid(0)) with s = 6 / 0.025 per world unit.
    assert_close(field.densities(points[:1]), torch.tensor([120.0]), rtol=0.1, atol=0)


def test_redistance_makes_distances_true():
    box = make_box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 41)
    true = ((box.nodes().norm(dim=1) - 0.6) / box.voxel).reshape(box.shape)
    # The same surface with a slope that is wrong everywhere.
    found = redistance(true * (1.5 + 0.5 * torch.sin(true)))
    # Half a voxel at worst, where the nearest node on the surface is across a corner.
    assert float((found - true)[true.abs() < 2].abs().max()) < 0.6
    assert float((found - true)[true.abs() < 2].abs().mean()) < 0.15
    assert float((found - true)[true > -9].abs().max()) < 0.7
    assert bool(((found < 0) == (true < 0)).all())
    # What is true already stays so.
    again = redistance(true)
    assert float((again - true)[true.abs() < 3].abs().max()) < 0.6
    assert float((again - true)[true.abs() < 3].abs().mean()) < 0.1
    everything = torch.ones(4, 4, 4)
    assert torch.equal(redistance(everything), everything)


def test_refinement_keeps_the_surface():
    field = ball_field(31)
    fine = field.refined(make_box(*field.bounds, 61))
    directions = unit_directions(200)
    assert float(fine.distances(RADIUS * directions).detach().abs().max()) < 0.004


def test_regularity_against_autograd():
    field = ball_field(15).requires_grad_(True)
    with torch.no_grad():
        field.geometry += 0.3 * torch.randn(field.geometry.shape, generator=torch.Generator().manual_seed(1))
    regularity = Regularity(field)
    field.geometry.grad = torch.zeros_like(field.geometry)
    regularity.add_gradient(field, 0.7, 0.3)

    grid = field.geometry.detach().double().requires_grad_(True)
    inner = grid[1:-1, 1:-1, 1:-1]
    sides = []
    for axis in range(3):
        spans = [[slice(1, -1)] * 3 for _ in range(2)]
        spans[0][axis], spans[1][axis] = slice(None, -2), slice(2, None)
        sides.append(tuple(grid[tuple(span)] for span in spans))
    slope = torch.stack([(high - low) / 2 for low, high in sides]).norm(dim=0)
    laplacian = sum((low + high for low, high in sides), -6 * inner)
    # The band the regulariser works in: nodes within 4 voxels of the surface.
    band = inner.detach().abs() < 4
    energy = 0.35 * (slope - 1)[band].square().mean() + 0.15 * laplacian[band].square().mean()
    energy.backward()
    assert grid.grad is not None
    # Nodes next to the band collect from it too in autograd, but are not in the list: they do not move.
    deep = torch.zeros_like(grid, dtype=torch.bool)
    deep[1:-1, 1:-1, 1:-1] = band
    assert_close(field.geometry.grad[deep].double(), grid.grad[deep], atol=1e-6, rtol=1e-3)


def test_flow_flattens_what_nobody_sees():
    # A ball that may flow everywhere shrinks: a radius r loses 2 / r a unit of time to its mean curvature.
    field = ball_field(41)
    settle(field, torch.ones(field.box.shape, dtype=torch.bool), 1)
    # r = 14 voxels, time 20 x 0.15 = 3: the radius falls by about 3 * 2 / 14 = 0.43 voxels.
    moved = float(field.distances(torch.tensor([[RADIUS, 0.0, 0.0]]))) / field.box.voxel
    assert 0.3 < moved < 0.55


def test_what_no_camera_sees():
    # Cameras at elevation 30 see the top of a ball and not its lowest point.
    cameras = sphere_cameras(torch.arange(6) * 60.0, 30.0, 1.5, size=32)
    field = ball_field(25, sharpness=3.0)
    unseen = unseen_nodes(field, PixelSource(ball_views(cameras), weights=None, background=1.0, max_size=32))
    nodes = (
        field.box.to_grid(torch.tensor([[0.0, 0, RADIUS], [RADIUS, 0, 0], [0, 0, -RADIUS]])).round().long()
    )
    assert unseen[tuple(nodes.mT)].tolist() == [False, False, True]


@pytest.mark.parametrize(("start", "scale"), [("hull", 1000.0), ("sphere", 1.0)])
def test_a_tiny_fit_finds_the_ball(start, scale):
    # In a world 1000 times as large and moved nothing else changes.
    similarity = Similarity(scale, torch.eye(3), scale * torch.tensor([2.0, -0.5, 0.3]))
    views = ball_views(around())
    assert views.cameras is not None
    moved = replace(views, cameras=similarity.apply_to_cameras(views.cameras))
    field = fit_sdf(moved, replace(SMALL, start=start))
    directions = unit_directions(300)
    points = similarity.apply_to_points(RADIUS * directions)
    error = field.distances(points).abs() / scale
    # One voxel is 0.022; a pixel of the views is 0.043 at the ball.
    assert float(error.mean()) < 0.02
    # Colour is position + 0.5.
    assert float((field.colors(points) - RADIUS * directions - 0.5).abs().mean()) < 0.1


def test_unusable_views():
    views = ball_views(around(4))
    with pytest.raises(InputError, match="at least two views"):
        fit_sdf(views[0], SMALL)
    with pytest.raises(InputError, match="cameras"):
        fit_sdf(Views(images=views.images, masks=views.masks), SMALL)
    with pytest.raises(InputError, match="start"):
        fit_sdf(views, replace(SMALL, start="cube"))  # type: ignore[arg-type]
