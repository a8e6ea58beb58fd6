"""Self-taught depth and pose: poses about a pivot, the crude start, the frames, the run and its
calibration."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_refiner import SIZE, ToyGenerator, tiny_basis, tiny_codes, tiny_self_taught, write_single_views

from manyview.errors import InputError
from manyview.geometry.trajectories import yaw_sweep
from manyview.methods.refiner.coarse_pose import (
    coarse_yaw,
    inner_mask,
    outline_distance,
    round_depth,
)
from manyview.methods.refiner.depth_scores import rank_correlation
from manyview.methods.refiner.pose import PoseEstimator, vectors_between
from manyview.methods.refiner.sweep_frames import (
    SearchOptions,
    colour_change,
    frame_amounts,
    search_basis,
    sweep_images,
)
from manyview.methods.refiner.train_depth import DepthOptions, SelfTaughtTask, load_self_taught
from manyview.training.config import TrainConfig
from manyview.training.loop import fit


@pytest.fixture(scope="module")
def pose() -> PoseEstimator:
    torch.manual_seed(0)
    return PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8).eval()


def test_positive_yaw_is_a_camera_that_moves_to_its_right(pose: PoseEstimator) -> None:
    # The package's own sweep says what positive yaw is; its cameras look at the origin from the pivot's
    # depth.
    cameras = yaw_sweep(0, 25, 2, distance=pose.pivot)
    source_from_target = cameras.cam_from_world[1] @ cameras.world_from_cam[0]
    ours = pose.transform(pose.turn(torch.tensor([25.0])))[0]
    torch.testing.assert_close(ours, source_from_target, atol=1e-5, rtol=0)
    vector = vectors_between(source_from_target[None], pose.pivot)
    assert float(pose.yaw_deg(vector)) == pytest.approx(25, abs=1e-3)
    assert float(vector[0, 3:].abs().max()) < 1e-5


def test_cameras_of_a_sweep_are_those_of_yaw_sweep(pose: PoseEstimator) -> None:
    yaws = torch.tensor([-40.0, 0.0, 15.0])
    for elevation in (0.0, 20.0):
        angle = math.radians(elevation)
        pose.axis.copy_(torch.tensor([0.0, math.cos(angle), math.sin(angle)]))
        assert pose.elevation_deg == pytest.approx(elevation, abs=1e-4)
        found = pose.cameras(pose.turn(yaws), 64, 64)
        true = yaw_sweep(-40, 40, 9, elevation_deg=elevation, distance=pose.pivot, size=64)
        torch.testing.assert_close(found.world_from_cam[0], true.world_from_cam[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.world_from_cam[1], true.world_from_cam[4], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.K[0], true.K[0], atol=1e-4, rtol=0)
    pose.axis.copy_(torch.tensor([0.0, 1.0, 0.0]))


def test_equal_pictures_have_no_turn_and_exchanging_them_inverts_it(pose: PoseEstimator) -> None:
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert float(pose(first, first).abs().max()) < 1e-6
        torch.testing.assert_close(pose(first, second), -pose(second, first))
        assert float(pose(first, second).abs().max()) > 0


def test_poses_turn_about_the_pivot(pose: PoseEstimator) -> None:
    turned = pose.transform(torch.tensor([[0.2, -0.7, 0.1, 0.0, 0.0, 0.0]]))[0]
    still = torch.tensor([0.0, 0.0, pose.pivot, 1.0])
    torch.testing.assert_close(turned @ still, still, atol=1e-6, rtol=0)
    shifted = pose.transform(torch.tensor([[0.2, -0.7, 0.1, 0.3, -0.1, 0.2]]))[0] @ still
    torch.testing.assert_close(shifted[:3] - still[:3], torch.tensor([0.3, -0.1, 0.2]), atol=1e-6, rtol=0)


def test_axis_is_what_turns_have_in_common(pose: PoseEstimator) -> None:
    axis = torch.tensor([0.1, 0.96, 0.25])
    axis = axis / axis.norm()
    turns = torch.linspace(-0.6, 0.6, 9)[:, None] * axis + 0.01 * torch.randn(9, 3)
    pose.find_axis(torch.cat([turns, torch.zeros(9, 3)], dim=1))
    assert float((pose.axis * axis).sum()) > 0.999
    pose.axis.copy_(torch.tensor([0.0, 1.0, 0.0]))


def test_a_disc_becomes_a_ball() -> None:
    places = torch.arange(64) + 0.5 - 32
    radius = torch.hypot(places[:, None], places[None])
    mask = (radius < 20).float()[None, None]
    distance = outline_distance(mask)
    assert float(distance.max()) == pytest.approx(20, abs=2.5)
    depth = round_depth(mask, 1.5, 70.0)[0, 0]
    ball = 1.5 - (400 - radius.square()).clamp_min(0).sqrt() * 1.5 / 70
    inside = radius < 18
    assert float((depth - ball)[inside].abs().max()) < 0.09
    assert rank_correlation(depth[None], torch.where(inside, ball, 0.0)[None]) > 0.98
    assert float(depth[radius > 21].min()) == 1.5


def test_coarse_yaw_tells_size_and_side_of_known_turns(pose: PoseEstimator) -> None:
    scene = ToyGenerator(64)
    codes = scene.sample(range(20, 32))
    yaws = torch.linspace(-36, 36, 12)
    meant = torch.zeros(12, scene.w_dim)
    meant[:, 0] = yaws / 24
    with torch.no_grad():
        before, after = scene(codes), scene(codes + (meant @ scene.meaning)[:, None])
    found = coarse_yaw(before, after, pose)
    assert float((found - yaws).abs().mean()) < 5
    assert float(torch.corrcoef(torch.stack([found, yaws]))[0, 1]) > 0.97
    torch.testing.assert_close(coarse_yaw(after, before, pose), -found, atol=1e-3, rtol=0)


def test_rank_correlation_by_hand() -> None:
    truth = torch.zeros(1, 8, 8)
    truth[0, 1:, :] = torch.rand(7, 8) + 0.5
    assert rank_correlation(truth.pow(3) * 2, truth) == pytest.approx(1)
    assert rank_correlation(-truth, truth) == pytest.approx(-1)
    assert math.isnan(rank_correlation(torch.ones(1, 8, 8), truth))
    assert math.isnan(rank_correlation(truth, torch.zeros(1, 8, 8)))


def test_search_finds_the_turning_direction_of_a_known_scene(pose: PoseEstimator) -> None:
    scene = ToyGenerator(32)
    options = SearchOptions(
        num_samples=3000, num_components=6, searched=3, num_codes=4, truncation=1.0, layer_ranges=((0, 4),)
    )
    basis = search_basis(scene, pose, options)
    codes = scene.sample(range(6))
    turned = scene.yaw_deg(basis.edit(codes, torch.ones(6))) - scene.yaw_deg(codes)
    # The yaw's variance is the largest of all, and positive amounts turn to positive yaw.
    assert basis.rotation.component == 0
    assert bool((turned > 15).all())
    assert basis.rotation.yaw_per_sigma_deg == pytest.approx(float(turned.mean()), rel=0.35)
    again = search_basis(scene, pose, options)
    assert again.rotation == basis.rotation
    assert torch.equal(again.vectors, basis.vectors)


def test_frames_lie_where_they_should() -> None:
    amounts = frame_amounts(0, torch.arange(200), reach=3.0, near=(0.25, 1.2))
    target, left, right, far = amounts.unbind(dim=1)
    assert float(((target - left) - 0.25).min()) >= 0
    assert float(((right - target) - 0.25).min()) >= 0
    assert float((right - target).max()) <= 1.2
    assert float(amounts.abs().max()) <= 3.0
    assert float(far.std()) > 1.2
    assert float((far - target).abs().max()) <= 3.0
    assert float((far - target).abs().max()) > 2.5
    torch.testing.assert_close(frame_amounts(0, torch.tensor([7])), amounts[7:8])


def test_colour_change_is_blind_to_place() -> None:
    picture = torch.ones(1, 3, 16, 16)
    picture[..., 4:8, 4:8] = torch.tensor([0.2, 0.5, 0.7])[:, None, None]
    assert float(colour_change(picture, picture.roll(5, -1))) == pytest.approx(0, abs=1e-6)
    other = torch.where(picture < 1, picture + 0.2, picture)
    assert float(colour_change(picture, other)) > 0.05


def test_run_exports_a_calibrated_camera(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", size=SIZE)
    options = DepthOptions(search=SearchOptions(num_samples=64, num_components=2))
    task = SelfTaughtTask(tiny_codes(), data, steps=3, batch_size=2, options=options, basis=tiny_basis())
    task.build = tiny_self_taught
    config = TrainConfig(
        steps=3, batch_size=2, warmup_steps=0, log_every=1, validate_every=3, device="cpu", dtype="fp32"
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    assert set(report.final) > {"photometric", "adding_up", "shift", "round", "coarse", "turn_deg"}
    assert set(report.validation) == {"depth_rank_val", "round_rank_val"}
    # The round depth's weight has gone by the last step.
    assert report.curve[0]["round"] > 0
    assert report.final["round"] == 0
    taught = load_self_taught(report.export, "--calibration")
    assert taught.basis.rotation.yaw_per_sigma_deg >= 0
    assert float(taught.pose.axis.norm()) == pytest.approx(1, abs=1e-5)
    codes = tiny_codes().sample(list(range(8)))
    amounts = torch.tensor([[-1.0, 1.0]]).expand(8, -1)
    frames = sweep_images(tiny_codes(), taught.basis, codes, amounts)
    with torch.no_grad():
        told = taught.pose.yaw_deg(taught.pose(frames[:, 0], frames[:, 1]))
    assert told.shape == (8,)
    with pytest.raises(InputError, match="misses depth"):
        load_self_taught(tmp_path, "--calibration")


def test_photometric_loss_is_least_at_the_truth_once_the_rim_is_left_out() -> None:
    """With both sides to look into and without the rim, the true turn explains a known scene best; looking at
    the whole object into one side, a smaller one does."""
    from manyview.methods.refiner.photometric import PhotometricOptions, photometric_loss

    scene = ToyGenerator(64)
    camera = PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8)
    codes = scene.sample([1, 2, 3])
    meant = torch.zeros(2, scene.w_dim)
    meant[:, 0] = torch.tensor([-0.5, 0.5])  # half of 24 degrees to either side
    moves = (meant @ scene.meaning)[:, None]
    with torch.no_grad():
        look, left, right = scene.render(codes), scene(codes + moves[0]), scene(codes + moves[1])
    near, far = camera.depths
    solid = (look.depths > 0).float()
    depth = torch.where(look.depths > 0, look.depths, 1.5)
    disparity = (1 / depth - 1 / far) / (1 / near - 1 / far)
    options = PhotometricOptions(min_depth=near, max_depth=far, automask=False, smoothness=0.0)

    def loss(yaw: float, told: torch.Tensor, *, rim: bool) -> float:
        poses = [camera.transform(camera.turn(torch.full((3,), side * yaw))) for side in (-1, 1)]
        sources, mask = ([right], solid) if rim else ([left, right], inner_mask(solid))
        K = camera.K(64, 64)
        poses = poses[1:] if rim else poses
        return float(photometric_loss(look.images, sources, [told], K, poses, options, mask=mask).loss)

    yaws = (0.0, 8.0, 10.0, 12.0, 14.0, 16.0)
    inner = [loss(yaw, disparity, rim=False) for yaw in yaws]
    assert yaws[inner.index(min(inner))] == 12.0
    assert min(inner) < 0.1 * inner[0]
    whole = [loss(yaw, disparity, rim=True) for yaw in yaws]
    assert yaws[whole.index(min(whole))] < 12.0
    flat = torch.full_like(disparity, float(disparity[solid > 0].mean()))
    assert loss(12.0, disparity, rim=False) < 0.5 * loss(12.0, flat, rim=False)


def test_a_rim_is_a_pixel_for_every_32() -> None:
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 10:30, 20:50] = 1
    mask[1, 0, 5:8, 5:8] = 1
    inner = inner_mask(mask)
    assert int(inner[0].sum()) == 16 * 26
    assert torch.equal(inner[1], mask[1])  # nothing but rim


def test_recolouring_leaves_white_and_order() -> None:
    from manyview.methods.refiner.augmentation import recolour

    images = torch.linspace(0.01, 1, 48).view(1, 3, 4, 4)
    changed = recolour(images, torch.tensor([[1.0, -1.0, 0.0]]), 0.5)
    assert float(changed[0, 2].sub(images[0, 2]).abs().max()) < 1e-6
    assert bool((changed[0, 0] < images[0, 0]).all())
    assert bool((changed[0, 1] > images[0, 1]).all())
    white = torch.ones(1, 3, 2, 2)
    assert torch.equal(recolour(white, torch.randn(1, 3), 0.5), white)
