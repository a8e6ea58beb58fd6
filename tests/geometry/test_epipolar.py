from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.epipolar import (
    epipolar_lines,
    epipolar_samples,
    fundamental_matrices,
    line_distances,
    spaced_depths,
)
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import project
from manyview.geometry.trajectories import orbit


def test_epipolar_lines_contain_the_projections(make_cameras, world_points):
    source, target = make_cameras(3, seed=1), make_cameras(3, seed=2)
    fundamental = fundamental_matrices(source, target)
    there, _ = project(world_points[None], source)
    here, _ = project(world_points[None], target)
    lines = epipolar_lines(there, fundamental)
    assert_close(line_distances(here, lines), torch.zeros_like(here[..., 0]), atol=1e-9, rtol=0)
    # Not trivially zero: another point's projection is off the line.
    assert line_distances(here.roll(1, dims=1), lines).abs().mean() > 0.5
    # The epipole (the source centre seen by the target) is on every line, and F has rank 2.
    epipole, _ = project(source.centers[:, None], target)
    assert_close(line_distances(epipole, lines), torch.zeros_like(here[..., 0]), atol=1e-8, rtol=0)
    assert torch.linalg.det(fundamental).abs().max() < 1e-15


def test_swapping_the_views_transposes_the_matrix(make_cameras):
    source, target = make_cameras(2, seed=3), make_cameras(2, seed=4)
    forward = fundamental_matrices(source, target)
    backward = fundamental_matrices(target, source)
    assert_close(forward, backward.mT)


@pytest.mark.parametrize("along", ["z", "ray"])
def test_samples_lie_on_the_query_rays_and_their_epipolar_lines(make_cameras, along):
    query, context = make_cameras(2, seed=5), make_cameras(3, seed=6)
    pixels = pixel_centers(3, 4, dtype=torch.float64).reshape(1, 12, 2) * 8
    depths = spaced_depths(5, 2.0, 6.0, dtype=torch.float64)
    samples = epipolar_samples(pixels, query, context, depths, along=along)
    assert samples.points.shape == (2, 12, 5, 3)
    assert samples.pixels.shape == (2, 3, 12, 5, 2)
    own, depth = project(samples.points, query)
    assert_close(own, pixels[:, :, None].expand_as(own))
    measured = depth if along == "z" else (samples.points - query.centers[:, None, None]).norm(dim=-1)
    assert_close(measured, depths.expand_as(measured))
    for q in range(2):
        fundamental = fundamental_matrices(query[[q, q, q]], context)
        lines = epipolar_lines(pixels, fundamental)[:, :, None].expand(3, 12, 5, 3)
        distances = line_distances(samples.pixels[q], lines)[samples.depths[q] > 0]
        assert_close(distances, torch.zeros_like(distances), atol=1e-8, rtol=0)


def test_validity_means_in_front_and_inside():
    # Two opposite cameras of an orbit: the query's ray through the image centre passes the origin (depth 1.5)
    # and the other camera (depth 3), behind which nothing is seen.
    pair = orbit(2, elevation_deg=0.0, size=64)
    depths = torch.tensor([1.0, 1.5, 2.9, 3.1])
    samples = epipolar_samples(torch.tensor([[[32.0, 32.0]]]), pair[0], pair[1], depths)
    assert samples.valid[0, 0, 0].tolist() == [True, True, True, False]
    assert_close(samples.depths[0, 0, 0], 3 - depths, atol=1e-5, rtol=0)
    # A corner's ray leaves the other image near that camera.
    corner = epipolar_samples(torch.tensor([[[0.5, 0.5]]]), pair[0], pair[1], torch.tensor([0.5, 2.5]))
    assert corner.valid[0, 0, 0].tolist() == [True, False]
    # With a border of 32 pixels nothing of a 64 pixel image is left but its very centre.
    assert not epipolar_samples(
        torch.tensor([[[0.5, 0.5]]]), pair[0], pair[1], torch.tensor([0.5]), margin=32
    ).valid.any()


def test_depth_spacing():
    assert_close(spaced_depths(3, 1.0, 3.0), torch.tensor([1.0, 2.0, 3.0]))
    # Halfway between 1/1 and 1/3 is 2/3, so the middle depth is 1.5.
    assert_close(spaced_depths(3, 1.0, 3.0, spacing="inverse"), torch.tensor([1.0, 1.5, 3.0]))
    with pytest.raises(InputError, match="near, far"):
        spaced_depths(3, 2.0, 1.0)


def test_distorted_cameras_are_refused(make_cameras):
    with pytest.raises(InputError, match="distortion"):
        fundamental_matrices(make_cameras(1), make_cameras(1, lens=0.1))
