"""Where rays of one image pass through another: by projection, and in the closed form for orbits."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.geometry.projection import project, unproject
from manyview.geometry.sweep import HALF_RANGE, orbit_sweep_grid, sweep_depths, sweep_grid
from manyview.geometry.trajectories import orbit, sphere_cameras

CELLS = 8


def test_depths_reach_through_an_object() -> None:
    assert_close(sweep_depths(1.5, 3), torch.tensor([1.5 - HALF_RANGE, 1.5, 1.5 + HALF_RANGE]))


@pytest.mark.parametrize("elevation", [-10.0, 0.0, 30.0, 85.0])
def test_orbits_by_projection(elevation: float) -> None:
    cameras = orbit(16, elevation, size=CELLS)
    depths = sweep_depths(1.5, 5)
    closed = orbit_sweep_grid(torch.arange(16) * 22.5, torch.full((16,), elevation), 1.5, depths, CELLS)
    assert_close(closed, sweep_grid(cameras, cameras[[0]], depths), atol=1e-4, rtol=0)
    # Seen by itself a cell is where it is, at every depth: cell 3's middle is 3.5 of 8.
    assert_close(closed[0, :, 3, 0], torch.tensor([[-0.875, -0.125]]).expand(5, 2), atol=1e-5, rtol=0)


def test_targets_and_sources_in_pairs() -> None:
    targets, sources = sphere_cameras([0, 90], [0, 30], size=CELLS), sphere_cameras([20, 80], 10, size=16)
    grid = sweep_grid(targets, sources, torch.tensor([1.4]))
    point = unproject(torch.tensor([[[2.5, 4.5]]]), torch.tensor([[1.4]]), targets[1])
    seen, _ = project(point, sources[1])
    assert_close(grid[1, 0, 4, 2], seen[0, 0] / 8 - 1, atol=1e-5, rtol=0)


def test_half_precision_around_it_does_not_coarsen_it() -> None:
    told = (torch.tensor([45.0]), torch.tensor([20.0]), 1.5, sweep_depths(1.5, 3), CELLS)
    with torch.autocast("cpu", torch.bfloat16):
        inside = orbit_sweep_grid(*told)
    assert torch.equal(inside, orbit_sweep_grid(*told))
