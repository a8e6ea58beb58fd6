"""What the trained networks are asked: grids, devices, cameras, and that asking changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_sparsefusion import SIZE, scene_cameras, scene_images
from tiny_teacher import tiny_teacher
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.geometry.trajectories import orbit
from manyview.methods.sparsefusion.teacher import Teacher, coverage_of, object_center
from manyview.methods.sparsefusion.vldm import sample_latents
from manyview.nets.autoencoder import decode, encode
from manyview.types import Views

NUM_GIVEN = 2


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return tiny_teacher()  # 8 x 8 cells of two pixels a side


def given_views(observed: int = NUM_GIVEN, scale: int = 1) -> Views:
    """Five posed views of which the first are observed, `scale` times as large as the networks want."""
    cameras = scene_cameras(5)
    images = scene_images(5).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    seen = torch.arange(5) < observed
    return Views(images=images, cameras=cameras.resized(SIZE * scale, SIZE * scale), observed=seen)


def test_it_says_what_the_eft_says(teacher: Teacher):
    views, asked = given_views(), scene_cameras(5)[[3, 4]]
    told = teacher.look(views, asked, rows=4, depths=True)
    eft, context_cameras = teacher.eft, scene_cameras(5)[[0, 1]]
    ranges = eft.depth_range(context_cameras, center=focus_point(context_cameras))[None]
    with torch.no_grad():
        context = eft.encode(views.images[None, :NUM_GIVEN], context_cameras, ranges)
        on_cells, on_rays = eft(context, asked, 8, 8), eft(context, asked, 4, 4, attention=True)
    assert_close(told.features, on_cells.features[0].float())
    # Bilinear enlargement keeps the mean away from the border; a constant picture would stay constant.
    expected = F.interpolate(on_rays.colors[0].float(), (SIZE, SIZE), mode="bilinear")
    assert_close(told.images, expected)
    assert on_rays.attention is not None
    assert told.depths is not None
    assert_close(told.depths, on_rays.attention.depth_map[0].float())
    assert_close(told.coverage, coverage_of(told.images))
    assert told.features.dtype == told.images.dtype == torch.float32
    assert not told.images.requires_grad


def test_a_denoiser_with_a_guess_is_shown_the_blended_latents():
    teacher = tiny_teacher(blended=True)
    views, asked = given_views(), scene_cameras(5)[[3]]
    told = teacher.look(views, asked, rows=0)
    eft, cameras = teacher.eft, scene_cameras(5)[[0, 1]]
    ranges = eft.depth_range(cameras, center=focus_point(cameras))[None]
    with torch.no_grad():
        context = eft.encode(views.images[None, :NUM_GIVEN], cameras, ranges)
        latents = teacher.encode(views.images[:NUM_GIVEN].float()).double()
        answer = eft(replace(context, latents=latents[None]), asked, 8, 8)
    assert answer.latents is not None
    assert_close(told.features[:, -2:], answer.latents[0].float(), atol=1e-5, rtol=1e-4)
    assert_close(told.features[:, :-2], answer.features[0].float())
    drawn = teacher.draw(told.features, torch.zeros(1, *teacher.latent_shape), num_steps=2)
    assert drawn.shape == (1, 3, SIZE, SIZE)


def test_rows_zero_gives_the_colours_of_the_feature_pass(teacher: Teacher):
    views, asked = given_views(), scene_cameras(5)[[3]]
    assert_close(teacher.look(views, asked, rows=0).images, teacher.look(views, asked, rows=8).images)
    assert teacher.look(views, asked, rows=0).depths is None


def test_larger_frames_are_averaged_down_and_unobserved_ones_do_not_matter(teacher: Teacher):
    asked = scene_cameras(5)[[4]]
    wanted = teacher.look(given_views(), asked, rows=0)
    large = given_views(scale=4)
    large = replace(large, images=large.images * large.observed.reshape(-1, 1, 1, 1))
    assert_close(teacher.look(large, asked.resized(64, 64), rows=0).images, wanted.images)


def test_what_a_camera_is_told_does_not_depend_on_the_others(teacher: Teacher):
    views, asked = given_views(), scene_cameras(5)[[2, 3, 4]]
    together = teacher.look(views, asked, rows=0)
    alone = teacher.look(views, asked[1], rows=0)
    assert_close(together[1].features, alone.features)
    assert_close(together[[1]].images, alone.images)


def test_masked_frames_are_seen_over_white(teacher: Teacher):
    views, asked = given_views(), scene_cameras(5)[[4]]
    masks = torch.zeros(5, 1, SIZE, SIZE, dtype=torch.float64)
    masks[:, :, 4:12, 4:12] = 1
    white = replace(views, images=views.images * masks + (1 - masks))
    assert_close(
        teacher.look(replace(views, masks=masks), asked, rows=0).images,
        teacher.look(white, asked, rows=0).images,
    )


def test_a_given_camera_does_not_see_itself(teacher: Teacher):
    views = given_views()
    own = scene_cameras(5)[[0]]
    other_only = replace(views, observed=torch.arange(5) == 1)
    # With both given, camera 0 is told from view 1 alone; only the depth range knows of camera 0.
    told = teacher.look(views, own, rows=0)
    shown = teacher.look(views, own, rows=0, own="show")
    assert not torch.allclose(told.images, shown.images)
    with pytest.raises(InputError, match="context"):
        teacher.look(other_only, scene_cameras(5)[[1]], rows=0)


def test_pictures_follow_from_noise_and_start(teacher: Teacher):
    draw = torch.Generator().manual_seed(3)
    noise = torch.randn(3, *teacher.latent_shape, generator=draw)
    features = torch.randn(3, 8, 8, 8, generator=draw)
    start = torch.rand(3, 3, SIZE, SIZE, generator=draw)
    made = teacher.draw(features, noise, start=start, t_max=0.4, num_steps=3, guidance=2.0)
    with torch.no_grad():
        latents = sample_latents(
            teacher.unet,
            features,
            noise,
            start=encode(teacher.vae, start),
            t_max=0.4,
            num_steps=3,
            guidance=2.0,
        )
        assert_close(made, decode(teacher.vae, latents))
    assert made.shape == (3, 3, SIZE, SIZE)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    # More than one batch of pictures: the same as one by one.
    many = teacher.draw(features.repeat(6, 1, 1, 1), noise.repeat(6, 1, 1, 1), num_steps=2)
    assert_close(many[17:], teacher.draw(features[2:], noise[2:], num_steps=2), atol=1e-5, rtol=1e-5)


def test_the_released_sampler_draws_its_own_noise(teacher: Teacher):
    draw = torch.Generator().manual_seed(3)
    noise, features = torch.randn(2, *teacher.latent_shape, generator=draw), torch.zeros(2, 8, 8, 8)
    start = torch.rand(2, 3, SIZE, SIZE, generator=draw)
    made = [
        teacher.draw(
            features,
            noise,
            start=start,
            t_max=0.5,
            num_steps=3,
            solver="released",
            fresh=lambda: torch.randn(noise.shape, generator=draw),
        )
        for _ in range(2)
    ]
    assert not torch.allclose(made[0], made[1])
    with pytest.raises(InputError, match="solver"):
        teacher.draw(features, noise, start=start, solver="released")


def test_coverage_of_known_greys():
    # Distances from white 0, 0.05, 0.1, 0.15, 0.5 over a ramp from 0.05 to 0.15: 0, 0, 1/2, 1, 1.
    greys = torch.tensor([1.0, 0.95, 0.9, 0.85, 0.5]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5).clone()
    assert_close(coverage_of(greys).flatten(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]), atol=1e-5, rtol=0)
    yellow = torch.tensor([1.0, 1.0, 0.2]).reshape(1, 3, 1, 1)  # one channel is enough
    assert_close(coverage_of(yellow).flatten(), torch.ones(1))


def test_the_middle_of_one_view_lies_on_its_axis():
    cameras = orbit(4, 20.0)
    assert_close(object_center(cameras), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(object_center(cameras[0]), torch.zeros(3), atol=1e-5, rtol=0)
    # Moved aside by 0.1 across its axis: the axis' nearest point to the origin is 0.1 aside.
    aside = cameras.world_from_cam[:1].clone()
    aside[:, :3, 3] += 0.1 * aside[:, :3, 0]
    moved = replace(cameras[0], world_from_cam=aside)
    assert_close(object_center(moved), 0.1 * aside[0, :3, 0], atol=1e-5, rtol=0)
    away = cameras.world_from_cam[:1].clone()
    away[:, :3, :2] *= -1
    away[:, :3, 2] *= -1
    away[:, :3, 0] *= -1
    with pytest.raises(InputError, match="origin"):
        object_center(replace(cameras[0], world_from_cam=away))


def test_bad_input_is_refused(teacher: Teacher):
    views, asked = given_views(), scene_cameras(5)[[4]]
    with pytest.raises(InputError, match="cameras"):
        teacher.look(replace(views, cameras=None), asked)
    with pytest.raises(InputError, match="observed"):
        teacher.look(given_views(observed=0), asked)
    with pytest.raises(InputError, match="square"):
        teacher.look(views, asked.resized(16, 24))
    with pytest.raises(InputError, match="multiple"):
        Teacher(teacher.vae, teacher.eft, teacher.unet, resolution=17)
