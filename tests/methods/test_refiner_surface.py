"""Points and meshes of sweeps with known depths and cameras."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from tiny_refiner import ToyGenerator

from manyview.errors import InputError, MissingDependency
from manyview.methods.refiner.pose import PoseEstimator
from manyview.methods.refiner.surface import colmap_points, fuse_mesh, fuse_points
from manyview.types import Views


@pytest.fixture(scope="module")
def sweep() -> Views:
    """A known scene from five sides, source first, with its true depths."""
    scene = ToyGenerator(64)
    camera = PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8)
    yaws = torch.tensor([0.0, -24.0, -12.0, 12.0, 24.0])
    code = scene.sample([2])
    meant = torch.zeros(5, scene.w_dim)
    meant[:, 0] = yaws / 24
    with torch.no_grad():
        look = scene.render(code + (meant @ scene.meaning)[:, None])
    return Views(
        images=look.images.clamp(0, 1),
        masks=(look.depths > 0).float(),
        depths=look.depths,
        cameras=camera.cameras(camera.turn(yaws), 64, 64),
    )


def radius_of(scene: ToyGenerator, directions: torch.Tensor) -> torch.Tensor:
    """How far the body reaches in object directions [N, 3] of the scene's own frame."""
    code = scene.sample([2])
    heights = scene._heights(scene.says(code))[0]
    bumps = torch.exp(7 * (directions @ scene.centers.T - 1))
    return 0.36 * (1 + (bumps * heights).sum(dim=1))


def test_points_lie_on_the_body(sweep: Views) -> None:
    points, colors = fuse_points(sweep)
    assert len(points) == len(colors) > 1000
    assert colors.dtype == np.uint8
    scene = ToyGenerator(64)
    # World (x towards the camera, y right, z up) to the scene's camera frame (x right, y down, z away), and
    # from there by the code's own yaw to its object's.
    camera_frame = torch.from_numpy(points)[:, [1, 2, 0]] * torch.tensor([1.0, -1.0, -1.0])
    yaw = torch.deg2rad(scene.yaw_deg(scene.sample([2])))
    c, s = float(yaw.cos()), float(yaw.sin())
    back = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    own = camera_frame @ back.T
    length = own.norm(dim=1)
    off = (length - radius_of(scene, own / length[:, None])).abs()
    assert float(off.median()) < 0.004
    assert float(off.quantile(0.95)) < 0.03


def test_points_that_views_disagree_on_are_left_out(sweep: Views) -> None:
    from dataclasses import replace

    assert sweep.depths is not None
    wrong = sweep.depths.clone()
    wrong[0] = torch.where(wrong[0] > 0, wrong[0] - 0.3, 0.0)
    few, _ = fuse_points(replace(sweep, depths=wrong), min_views=3)
    all_points, _ = fuse_points(sweep, min_views=3)
    assert len(few) < len(all_points)
    alone = replace(sweep, depths=wrong)[[0, 1]]
    cut, _ = fuse_points(alone, min_views=1)
    thinned, _ = fuse_points(alone, min_views=1, cell=0.05)
    assert len(thinned) < 0.3 * len(cut)


def test_a_mesh_is_closed_and_lies_on_the_body_in_front(sweep: Views) -> None:
    mesh = fuse_mesh(sweep, resolution=28, texture_size=64)
    merged = mesh.copy()
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    assert merged.is_watertight
    points, _ = fuse_points(sweep)
    vertices = np.asarray(mesh.vertices)
    front = vertices[vertices[:, 0] > 0.12]
    nearest = np.sqrt(((front[:, None] - points[None, ::7]) ** 2).sum(-1)).min(axis=1)
    assert np.median(nearest) < 0.025
    assert 0.5 < np.ptp(vertices[:, 2]) < 1.2


def test_what_is_missing_is_named(sweep: Views) -> None:
    with pytest.raises(InputError, match="views: no depths"):
        fuse_points(Views(images=sweep.images, masks=sweep.masks, cameras=sweep.cameras))
    empty = Views(
        images=sweep.images,
        masks=torch.zeros(5, 1, 64, 64),
        depths=torch.zeros(5, 1, 64, 64),
        cameras=sweep.cameras,
    )
    with pytest.raises(InputError, match="no two agree"):
        fuse_points(empty)


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is not None, reason="pycolmap is installed")
def test_without_pycolmap_one_line_says_so(sweep: Views) -> None:
    with pytest.raises(MissingDependency, match="pycolmap: not installed"):
        colmap_points(sweep)
