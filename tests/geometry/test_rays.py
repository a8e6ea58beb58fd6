from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.pixels import pixel_centers, sample_images
from manyview.geometry.projection import project
from manyview.geometry.rays import camera_rays, harmonic_embedding, pixel_rays, plucker
from manyview.types import Cameras


@pytest.mark.parametrize("lens", [0.0, 0.05])
def test_points_on_rays_project_to_their_pixel(make_cameras, lens):
    cameras = make_cameras(size=(6, 8), lens=lens)
    origins, directions = camera_rays(cameras)
    assert origins.shape == directions.shape == (3, 6, 8, 3)
    assert_close(directions.norm(dim=-1), torch.ones(3, 6, 8, dtype=torch.float64))
    for distance in (0.5, 7.0):
        pixels, depth = project(origins + distance * directions, cameras)
        centers = pixel_centers(6, 8, dtype=torch.float64)
        assert_close(pixels, centers.expand_as(pixels), atol=1e-9, rtol=0)
        assert (depth > 0).all()


def test_pixel_grid_is_half_pixel():
    grid = pixel_centers(2, 3)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[1, 2].tolist() == [2.5, 1.5]
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert_close(sample_images(image, grid[None]), image)


def test_coarse_grid_lies_between_the_fine_pixels(make_cameras):
    # The centre of a 2x2 block of pixels is the centre of one latent cell.
    cameras = make_cameras(size=(8, 8))
    coarse = camera_rays(cameras, 4, 4)[1]
    middle = pixel_rays(2 * pixel_centers(4, 4, dtype=torch.float64)[None], cameras)[1]
    assert_close(coarse, middle)


def test_mixed_sizes_need_an_explicit_grid(make_cameras):
    pair = make_cameras(2)
    sizes = torch.tensor([[24, 32], [12, 16]])
    mixed = Cameras(world_from_cam=pair.world_from_cam, K=pair.K, sizes=sizes)
    with pytest.raises(InputError, match=r"cameras.sizes\[1\]"):
        camera_rays(mixed)
    assert camera_rays(mixed, 3, 4)[1].shape == (2, 3, 4, 3)


def test_plucker_is_a_property_of_the_line(make_cameras):
    origins, directions = camera_rays(make_cameras(size=(4, 4)))
    coordinates = plucker(origins, directions)
    assert_close(plucker(origins + 2.7 * directions, directions), coordinates)
    # A line meets its own moment at a right angle, and the moment's length is the distance to the origin.
    direction, moment = coordinates.split(3, dim=-1)
    assert_close((direction * moment).sum(-1), torch.zeros(3, 4, 4, dtype=torch.float64))
    nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
    assert_close(moment.norm(dim=-1), nearest.norm(dim=-1))
    known = plucker(torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    assert known.tolist() == [0, 1, 0, 0, 0, 1]


def test_harmonic_embedding_layout_and_width():
    values = torch.tensor([0.1, -0.7], dtype=torch.float64)
    a, b = values.tolist()
    phases = torch.tensor([a, 2 * a, 4 * a, b, 2 * b, 4 * b], dtype=torch.float64)
    expected = torch.cat((phases.sin(), phases.cos(), values))
    assert_close(harmonic_embedding(values, 3), expected)
    assert_close(harmonic_embedding(values, 3, append_input=False), expected[:12])
    assert harmonic_embedding(torch.zeros(5, 6), 6).shape == (5, 78)
    assert harmonic_embedding(torch.zeros(5, 1), 6).shape == (5, 13)
