"""Self-taught depth and motion: what the losses say of scenes whose depth and motion are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.data.procedural.animals import render_sweep
from manyview.errors import InputError
from manyview.geometry.rotations import relative_transform, rigid_from_vector
from manyview.geometry.warp import warp_by_depth
from manyview.methods.refiner.photometric import (
    PhotometricOptions,
    colour_mask,
    depth_from_disparity,
    normalize_disparity,
    photometric_loss,
    reprojection_error,
    smoothness,
    ssim_error,
)
from manyview.methods.refiner.reprojection import back_project, project_points, warp
from manyview.types import Cameras, Views

SIDE = 32


@pytest.fixture(scope="module")
def sweep() -> Views:
    return render_sweep(7, [-12.0, 0.0, 12.0], size=SIDE)


def motion(views: Views, source: int, target: int) -> Tensor:
    """[1, 4, 4] source_from_target"""
    assert views.cameras is not None
    world = views.cameras.world_from_cam
    return relative_transform(world[source : source + 1], world[target : target + 1])


def scene(views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Images over white, depths with a far plane behind the object, and K."""
    assert views.depths is not None
    assert views.cameras is not None
    return views.over(1.0), torch.where(views.depths > 0, views.depths, 3.0), views.cameras.K[0]


def as_disparity(depth: Tensor, near: float = 0.5, far: float = 5.0) -> Tensor:
    return (1 / depth - 1 / far) / (1 / near - 1 / far)


def test_disparity_spans_the_depths() -> None:
    scaled, depth = depth_from_disparity(torch.tensor([0.0, 1.0, 0.5]), 0.5, 10.0)
    assert_close(depth, torch.tensor([10.0, 0.5, 1 / 1.05]))
    assert_close(scaled * depth, torch.ones(3))


def test_the_ssim_error_of_equal_flat_and_opposite_pictures() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert float(ssim_error(x, x).max()) < 1e-6
    flat = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.7)
    expected = (1 - (2 * 0.14 + 1e-4) / (0.04 + 0.49 + 1e-4)) / 2
    assert_close(ssim_error(*flat), torch.full((1, 1, 8, 8), expected), atol=1e-4, rtol=0)
    checks = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float()[None, None]
    assert float(ssim_error(checks, 1 - checks).min()) > 0.9
    assert_close(
        reprojection_error(*flat)[0, 0, 3, 3], torch.tensor(0.85 * expected + 0.15 * 0.5), atol=1e-4, rtol=0
    )


def test_warping_agrees_with_the_geometry_of_the_package(sweep: Views) -> None:
    images, depths, K = scene(sweep)
    assert sweep.cameras is not None
    ours, valid = warp(images[2:], depths[1:2], K, motion(sweep, 2, 1))
    cameras: Cameras = sweep.cameras
    theirs, there = warp_by_depth(images[2:], depths[1:2], cameras[2], cameras[1])
    assert float((valid != there).float().mean()) < 0.01
    both = (valid & there).expand_as(ours)
    assert_close(ours[both], theirs[both], atol=1e-3, rtol=0)
    assert 0.7 < float(valid.float().mean()) <= 1


def test_points_go_out_and_come_back_in_both_conventions() -> None:
    depth = 1 + torch.rand(2, 1, 6, 9)
    K = torch.tensor([[9.0, 0, 4.5], [0, 9, 3], [0, 0, 1]])
    for convention, first in (("centers", 0.5), ("corners", 0.0)):
        points = back_project(depth, K, convention=convention)  # pyright: ignore
        pixels, there = project_points(points, K, torch.eye(4)[None])
        assert_close(there, depth[:, 0])
        assert_close(pixels[0, 0, 0], torch.tensor([first, first]), atol=1e-5, rtol=0)
        assert_close(pixels[1, 5, 8], torch.tensor([first + 8, first + 5]), atol=1e-5, rtol=0)


def test_points_outside_or_behind_are_not_valid() -> None:
    depth, image = torch.full((1, 1, 8, 8), 2.0), torch.rand(1, 3, 8, 8)
    K = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    aside = rigid_from_vector(torch.tensor([[0, 0, 0, 0.5, 0, 0]]))  # two pixels to the right
    moved, valid = warp(image, depth, K, aside)
    assert_close(moved[..., :6], image[..., 2:], atol=1e-5, rtol=0)
    assert valid[0, 0, :, :6].all()
    assert not valid[0, 0, :, 6:].any()
    behind = rigid_from_vector(torch.tensor([[0, 0, 0, 0, 0, -3.0]]))
    moved, valid = warp(image, depth, K, behind)
    assert not valid.any()
    assert bool(moved.isfinite().all())


def test_the_true_motion_has_the_least_loss(sweep: Views) -> None:
    images, depths, K = scene(sweep)
    options = PhotometricOptions(min_depth=0.5, max_depth=5.0, smoothness=0.0, automask=False)

    def loss(turn: float, focal: float = 1.0) -> float:
        wrong = rigid_from_vector(torch.tensor([[0, math.radians(turn), 0, 0, 0, 0.0]]))
        lens = K * torch.tensor([[focal, 1, 1], [1, focal, 1], [1, 1, 1]])
        result = photometric_loss(
            images[1:2],
            [images[0:1], images[2:3]],
            [as_disparity(depths[1:2])],
            lens,
            [motion(sweep, 0, 1) @ wrong, motion(sweep, 2, 1) @ wrong],
            options,
            mask=colour_mask(images[1:2]),
        )
        assert_close(result.depths[0], depths[1:2], atol=1e-4, rtol=1e-4)
        return float(result.loss)

    true = loss(0.0)
    assert true < 0.6 * min(loss(4.0), loss(-4.0))
    assert true < 0.9 * loss(0.0, focal=0.7)


def test_gradients_lead_to_the_true_motion(sweep: Views) -> None:
    images, depths, K = scene(sweep)
    true = motion(sweep, 2, 1)
    vector = torch.zeros(1, 6, requires_grad=True)
    optimiser = torch.optim.Adam([vector], lr=1e-2)
    start = rigid_from_vector(torch.tensor([[0, math.radians(5.0), 0, 0, 0, 0.0]])) @ true
    options = PhotometricOptions(min_depth=0.5, max_depth=5.0, automask=False)
    found = start
    for _ in range(80):
        found = rigid_from_vector(vector) @ start
        result = photometric_loss(
            images[1:2],
            [images[2:]],
            [as_disparity(depths[1:2])],
            K,
            [found],
            options,
            mask=colour_mask(images[1:2]),
        )
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
    # Of a point in the object's middle, the start is 0.13 away from where the truth puts it.
    middle = torch.tensor([0.0, 0.0, 1.5, 1.0])
    apart = [float((rigid @ middle - true @ middle)[0, :3].norm()) for rigid in (start, found.detach())]
    assert apart[1] < 0.3 * apart[0]


def test_a_mask_leaves_the_background_out(sweep: Views) -> None:
    images, depths, K = scene(sweep)
    mask = colour_mask(images[1:2])
    noisy = images[1:2] * mask + torch.rand(1, 3, SIDE, SIDE) * (1 - mask)
    eroded = 1 - torch.nn.functional.max_pool2d(1 - mask, 3, 1, 1)  # windows that see none of the background
    arguments = ([images[2:]], [as_disparity(depths[1:2])], K, [motion(sweep, 2, 1)])
    options = PhotometricOptions(min_depth=0.5, max_depth=5.0, automask=False, smoothness=0.0)
    plain, changed = (
        photometric_loss(target, *arguments, options, mask=eroded).loss for target in (images[1:2], noisy)
    )
    assert_close(plain, changed, atol=1e-6, rtol=1e-5)
    everything = [photometric_loss(t, *arguments, options).loss for t in (images[1:2], noisy)]
    assert float(everything[1]) > 1.5 * float(everything[0])


def test_the_auto_mask_leaves_out_what_does_not_move() -> None:
    image = torch.rand(1, 3, 16, 16)
    K = torch.tensor([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]])
    aside = rigid_from_vector(torch.tensor([[0, 0, 0, 0.2, 0, 0]]))
    disparity = torch.full((1, 1, 16, 16), 0.5)
    arguments = (image, [image], [disparity], K, [aside])
    kept = PhotometricOptions(smoothness=0.0, min_depth=1.0, max_depth=3.0)
    result = photometric_loss(*arguments, kept, generator=torch.Generator().manual_seed(0))
    assert float(result.loss) < 1e-4
    assert float(result.moved[0].float().mean()) < 0.01
    without = PhotometricOptions(smoothness=0.0, min_depth=1.0, max_depth=3.0, automask=False)
    assert float(photometric_loss(*arguments, without).loss) > 0.05


def test_what_no_source_sees_does_not_count() -> None:
    image = torch.rand(1, 3, 16, 16)
    K = torch.tensor([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]])
    shift = rigid_from_vector(torch.tensor([[0, 0, 0, 0.5, 0, 0]]))  # at depth 2, four pixels to the right
    disparity = torch.full((1, 1, 16, 16), (1 / 2 - 1 / 4) / (1 - 1 / 4), requires_grad=True)
    source = torch.cat([torch.rand(1, 3, 16, 4), image[..., :12]], dim=-1)
    options = {"min_depth": 1.0, "max_depth": 4.0, "smoothness": 0.0, "automask": False}
    losses = [
        photometric_loss(
            image,
            [source],
            [disparity],
            K,
            [shift],
            PhotometricOptions(use_validity=on, **options),  # pyright: ignore
        )
        for on in (True, False)
    ]
    inner = losses[0].minimum[0][..., 1:11]  # windows that see nothing of the missing columns
    assert float(inner.detach().max()) < 1e-4
    assert float(losses[0].loss.detach()) < 0.3 * float(losses[1].loss.detach())


def test_smoothness() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    flat_image, edge_image = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    edge_image[..., 4:] = 2.0
    step = (torch.arange(8) >= 4).float().expand(1, 1, 8, 8)
    assert_close(smoothness(ramp, flat_image), torch.tensor(1.0))
    assert_close(smoothness(step, flat_image), torch.tensor(1 / 7))
    assert_close(smoothness(step, edge_image), torch.tensor(math.exp(-2) / 7))
    assert_close(smoothness(step, flat_image, mask=1 - step), torch.tensor(0.0))
    scaled = normalize_disparity(5 * ramp)
    assert_close(scaled, normalize_disparity(ramp), atol=1e-4, rtol=1e-4)
    assert_close(normalize_disparity(1 + step, mask=step)[..., 5].mean(), torch.tensor(1.0))


def test_scales_count_alike_and_motions_match_sources(sweep: Views) -> None:
    images, depths, K = scene(sweep)
    disparity = as_disparity(depths[1:2])
    half = torch.nn.functional.avg_pool2d(disparity, 2)
    result = photometric_loss(images[1:2], [images[2:]], [disparity, half], K, [motion(sweep, 2, 1)])
    assert len(result.losses) == len(result.depths) == 2
    assert_close(result.loss, torch.stack(result.losses).mean())
    assert result.depths[1].shape == (1, 1, SIDE, SIDE)
    with pytest.raises(InputError, match="one motion for every source"):
        photometric_loss(images[1:2], [images[2:]], [disparity], K, [])
