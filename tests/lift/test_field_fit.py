"""Tiny fits of radiance fields, the visual hull, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.lift.field.answers import Field
from manyview.lift.field.box import make_box
from manyview.lift.field.fit import FieldOptions, fit_field
from manyview.lift.field.hull import find_hull, signed_mask
from manyview.lift.field.pixels import PixelSource
from manyview.lift.field.region import find_region
from manyview.lift.field.render import render_field
from manyview.lift.sdf.model import SdfField
from manyview.types import Cameras, Views

RADIUS = 0.4
SMALL = FieldOptions(encoding="voxels", resolution=32, steps=60, rays=1024)


def ball_views(cameras: Cameras, similarity: Similarity | None = None) -> Views:
    """A ball of radius 0.4 at the origin, red above, blue below, ray traced exactly; cameras moved."""
    from manyview.geometry.rays import camera_rays

    origins, directions = camera_rays(cameras)
    along = -(origins * directions).sum(dim=-1)
    gap = (origins * origins).sum(dim=-1) - along**2
    hit = gap < RADIUS**2
    distance = along - (RADIUS**2 - gap).clamp_min(0).sqrt()
    up = (origins + distance[..., None] * directions)[..., 2] > 0
    colors = torch.where(up[..., None], torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.8]))
    images = (colors * hit[..., None]).permute(0, 3, 1, 2)
    moved = cameras if similarity is None else similarity.apply_to_cameras(cameras)
    return Views(images=images, masks=hit[:, None].float(), cameras=moved)


def small_orbit(count: int = 8) -> Cameras:
    elevation = torch.tensor([20.0, -30.0]).repeat((count + 1) // 2)[:count]
    return sphere_cameras(torch.arange(count) * 360.0 / count, elevation, 1.5, size=32)


def psnr(image: torch.Tensor, target: torch.Tensor) -> float:
    return float(-10 * ((image - target) ** 2).mean().log10())


@pytest.fixture(scope="module")
def fitted() -> Field:
    return fit_field(ball_views(small_orbit()), SMALL)


def test_voxels_show_a_view_that_was_held_out(fitted):
    target = ball_views(sphere_cameras([67.0], 10.0, 1.5, size=32))
    assert target.cameras is not None
    assert target.masks is not None
    seen = render_field(fitted, target.cameras)
    # White alone gives about 8 dB, the mean colour inside the right outline about 15.
    assert psnr(seen.images, target.over(1.0)) > 19
    # The middle pixel's ray meets the ball at 1.5 - 0.4; one colour inside leaves a soft front.
    assert 1.08 < float(seen.depths[0, 0, 16, 16]) < 1.25
    assert float(seen.alphas[0, 0, 0, 0]) == 0
    assert float(seen.depths[0, 0, 0, 0]) == 0


def test_with_masks_the_field_is_a_surface():
    field = fit_field(ball_views(small_orbit()), replace(SMALL, encoding="auto"))
    assert isinstance(field, SdfField)
    target = ball_views(sphere_cameras([67.0], 10.0, 1.5, size=32))
    assert target.cameras is not None
    seen = render_field(field, target.cameras)
    assert psnr(seen.images, target.over(1.0)) > 19
    colors = field.colors(torch.tensor([[0.0, 0.0, 0.39]]), directions=torch.tensor([[0.0, 0, -1]]))
    assert colors[0, 0] > colors[0, 2]


def test_a_view_of_little_weight_cuts_nothing_off():
    # The mask of view 0 misses half of the ball: the hull keeps the half only where the view counts little.
    views = ball_views(small_orbit(6))
    assert views.masks is not None
    masks = views.masks.clone()
    masks[0, :, :, :16] = 0
    weights = torch.ones(6)
    weights[0] = 0.2
    boxes = []
    for counted in (torch.ones(6), weights):
        given = replace(views, masks=masks)
        source = PixelSource(given, weights=counted, background=1.0, max_size=32)
        hull, _, _ = find_region(source)
        assert hull is not None
        # Camera 0 is at azimuth 0 on +x and looks along -x: its left half of the image is the side -y.
        boxes.append(hull.distances(torch.tensor([[0.0, -0.2, 0.0], [0.0, 0.2, 0.0]])) < 0)
    assert boxes[0].tolist() == [False, True]
    assert boxes[1].tolist() == [True, True]


def test_points_of_the_fitted_field(fitted):
    points = torch.tensor([[0.0, 0.0, 0.38], [0.0, 0.0, -0.38], [0.0, 0.0, 0.7]])
    density = fitted.densities(points)
    assert float(density[:2].min()) > 5
    assert float(density[2]) == 0
    colors = fitted.colors(points[:2], directions=torch.tensor([[0.0, 0, -1], [0, 0, 1.0]]))
    assert colors[0, 0] > colors[0, 2]
    assert colors[1, 2] > colors[1, 0]


def test_the_same_seed_gives_the_same_field():
    views = ball_views(small_orbit(4))
    options = replace(SMALL, steps=4)
    first, second = fit_field(views, options), fit_field(views, options)
    assert isinstance(first, torch.nn.Module)
    assert isinstance(second, torch.nn.Module)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_large_world_far_away(fitted):
    # A scene 1000 units across: the same picture, depth 1000 times as large.
    similarity = Similarity(1000.0, torch.eye(3), torch.tensor([3000.0, -500.0, 200.0]))
    views = ball_views(small_orbit(), similarity)
    field = fit_field(views, SMALL)
    camera = similarity.apply_to_cameras(sphere_cameras([67.0], 10.0, 1.5, size=32))
    seen = render_field(field, camera)
    before = render_field(fitted, sphere_cameras([67.0], 10.0, 1.5, size=32))
    assert psnr(seen.images, before.images) > 24
    depths = [float(answer.depths[0, 0, 16, 16]) for answer in (seen, before)]
    assert abs(depths[0] / 1000 - depths[1]) < 0.03


@pytest.mark.parametrize("encoding", ["hash", "dense"])
def test_neural_fields_learn(encoding):
    views = ball_views(small_orbit(4))
    options = FieldOptions(encoding=encoding, resolution=32, steps=80, rays=256)
    assert views.cameras is not None
    before = render_field(fit_field(views, replace(options, steps=1)), views.cameras)
    after = render_field(fit_field(views, options), views.cameras)
    assert psnr(after.images, views.over(1.0)) > psnr(before.images, views.over(1.0)) + 1.5


def test_without_masks_colour_says_where_the_object_is():
    views = ball_views(small_orbit())
    bare = Views(images=views.over(1.0), cameras=views.cameras)
    field = fit_field(bare, SMALL)
    assert views.cameras is not None
    seen = render_field(field, views.cameras)
    assert psnr(seen.images, bare.images) > 15


def test_hull_of_a_ball():
    views = ball_views(small_orbit(16))
    assert views.masks is not None
    assert views.cameras is not None
    hull, box = find_hull(views.masks, views.cameras)
    # The hull of a ball holds the ball; every direction is seen, so the box is little wider than it.
    assert all(low < -RADIUS for low in box.low)
    assert all(high > RADIUS for high in box.high)
    assert max(box.high[i] - box.low[i] for i in range(3)) < 2 * RADIUS * 1.6
    # At the middle: the outline's radius in the image, times depth over focal: 1.5 tan(asin(0.4 / 1.5)).
    inside = hull.distances(torch.zeros(1, 3))
    assert abs(float(inside) + 0.415) < 0.05


def test_signed_mask_knows_parts_of_pixels():
    # Columns 0 to 3 outside, 4 covered to three quarters, 5 on inside: the outline is at 4.25.
    mask = torch.zeros(6, 10)
    mask[:, 4], mask[:, 5:] = 0.75, 1
    signed = signed_mask(mask)[2]
    # Distances from pixel centres at k + 0.5 to 4.25; away from the outline whole pixels count.
    assert_close(signed[4], torch.tensor(-0.25))
    assert_close(signed[[2, 7]], torch.tensor([1.5, -3.5]))


def test_box_has_cubic_voxels_and_room():
    box = make_box((0.0, 0.0, 0.0), (2.0, 1.0, 0.55), 21)
    assert box.shape == (21, 11, 7)
    assert_close(torch.tensor(box.voxel), torch.tensor(0.1))
    # The third side grows by half a voxel, evenly: 6 voxels of 0.1 about 0.275.
    assert_close(torch.tensor([box.low[2], box.high[2]]), torch.tensor([-0.025, 0.575]))
    assert_close(box.to_grid(box.nodes())[-1], torch.tensor([20.0, 10.0, 6.0]))


def test_pixels_come_with_their_rays_and_weights():
    views = ball_views(small_orbit(4))
    observed = torch.tensor([True, True, False, True])
    source = PixelSource(
        replace(views, observed=observed),
        weights=torch.tensor([1.0, 3.0, 9.0, 2.0]),
        background=0.5,
        max_size=16,
    )
    assert len(source) == 3
    assert source.images.shape[2:] == (16, 16)
    batch = source.draw(30, torch.Generator().manual_seed(0))
    # Weights of the observed views have mean 1: (1, 3, 2) / 2, ten pixels from each.
    assert_close(batch.weights, torch.tensor([0.5, 1.5, 1.0]).repeat_interleave(10))
    assert views.cameras is not None
    assert_close(batch.origins[0], views.cameras.centers[0])
    assert_close(batch.directions.norm(dim=1), torch.ones(30))
    outside = batch.masks == 0
    assert_close(batch.colors[outside], torch.full((int(outside.sum()), 3), 0.5))


def test_unusable_views():
    views = ball_views(small_orbit(4))
    assert views.masks is not None
    assert views.cameras is not None
    empty = views.masks.clone()
    empty[2] = 0
    apart = torch.zeros_like(views.masks)
    apart[:2, :, :6, :6], apart[2:, :, -6:, -6:] = 1, 1
    twins = views[[0, 0]]
    cases = {
        "views.cameras": Views(images=views.images),
        "at least two views": views[0],
        "one direction": twins,
        "views.masks[2]": replace(views, masks=empty),
        "no volume": replace(views, masks=apart),
        "views.observed": replace(views, observed=torch.zeros(4, dtype=torch.bool)),
    }
    for words, given in cases.items():
        with pytest.raises(InputError) as caught:
            fit_field(given, SMALL)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="weights"):
        fit_field(views, SMALL, weights=torch.zeros(4))
    with pytest.raises(InputError, match="resolution"):
        fit_field(views, replace(SMALL, resolution=2))


def test_orbits_of_other_lenses_need_no_settings():
    # Half the distance to a ball half as large is the same picture: the box follows.
    near = orbit(6, 20.0, 0.75, size=24)
    boxes = []
    for cameras, radius in ((near, RADIUS / 2), (orbit(6, 20.0, 1.5, size=24), RADIUS)):
        views = ball_views(orbit(6, 20.0, 1.5, size=24))
        assert views.masks is not None
        boxes.append((find_hull(views.masks, cameras)[1].voxel, radius))
    assert_close(boxes[0][0] / boxes[0][1], boxes[1][0] / boxes[1][1], rtol=1e-3, atol=0)
