"""Captures brought to the networks' world and back, frames chosen, masks found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from box_capture import AWAY, HALF, box_cameras, draw_box, over_background, write_nerfstudio
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.projection import project
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.io.capture import open_capture
from manyview.io.framing import TRAINING_FILL
from manyview.lift.field.box import Box
from manyview.lift.field.neural import build_field
from manyview.lift.field.render import render_field
from manyview.lift.field.voxels import VoxelField
from manyview.lift.sdf.model import SdfField
from manyview.methods.sparsefusion.capture import choose_frames, prepare
from manyview.methods.sparsefusion.placement import (
    DISTANCES,
    locate_object,
    move_field,
    place,
    rotation_to_z,
)

TILT = matrix_from_axis_angle(torch.tensor([0.9, -0.4, 0.3], dtype=torch.float64))


@pytest.fixture(scope="module")
def drawn():
    cameras = box_cameras(6)
    return cameras, *draw_box(cameras)


def test_the_object_is_found(drawn):
    cameras, _, masks = drawn
    center, size = locate_object(list(masks), cameras)
    # The middle of the box, to an eighth of its longest side of 3.7: masks seen from above have their middle
    # below the object's. Of the size a corner-on view says a little more than the side.
    assert float(torch.linalg.vector_norm(center - AWAY.translation)) < 3.7 / 8
    assert 0.85 * 3.7 < size < 1.25 * 3.7


def test_where_it_is_brought_to(drawn):
    cameras, _, masks = drawn
    placement = place(list(masks), cameras)
    moved = placement.similarity.apply_to_cameras(cameras)
    distances = torch.linalg.vector_norm(moved.centers, dim=1)
    assert DISTANCES[0] - 1e-6 <= float(distances.mean()) <= DISTANCES[1] + 1e-6
    assert placement.size == pytest.approx(1)
    assert not placement.kept
    framed = placement.frame(moved, 32)
    assert_close(framed.centers.double(), moved.centers, atol=1e-5, rtol=0)
    # The origin is in the middle, and a length of 1 across the axis there fills as much as in training.
    middle, depth = project(torch.zeros(1, 1, 3), framed)
    assert_close(middle[:, 0], torch.full((6, 2), 16.0), atol=1e-3, rtol=0)
    assert_close(framed.K[:, 0, 0] / depth[:, 0] / 32, torch.full((6,), TRAINING_FILL), atol=1e-5, rtol=0)
    # Upright: the picture's right is level.
    assert float(framed.world_from_cam[:, 2, 0].abs().max()) < 1e-6
    back = placement.similarity.inverse().apply_to_cameras(framed.to(torch.float64))
    assert_close(back.centers, cameras.centers, atol=1e-4, rtol=0)


def test_a_world_of_another_place_scale_and_tilt_ends_in_the_same_views(drawn):
    cameras, _, masks = drawn
    expected = place(list(masks), cameras)
    framed = expected.frame(expected.similarity.apply_to_cameras(cameras), 32)
    turned = Similarity(0.01, TILT, torch.tensor([5.0, 1.0, -2.0], dtype=torch.float64))
    moved = turned.apply_to_cameras(cameras)
    again = place(list(masks), moved, up=TILT @ expected.up)
    assert again.similarity.scale * 0.01 == pytest.approx(expected.similarity.scale, rel=1e-9)
    other = again.frame(again.similarity.apply_to_cameras(moved), 32)
    back = Similarity(1.0, TILT.mT, torch.zeros(3, dtype=torch.float64)).apply_to_cameras(
        other.to(torch.float64)
    )
    assert_close(back.world_from_cam, framed.world_from_cam.double(), atol=1e-5, rtol=0)
    assert_close(other.K, framed.K, atol=1e-4, rtol=0)


def test_far_and_near_cameras():
    for distance, aim in ((6.0, DISTANCES[1]), (0.95, DISTANCES[0])):
        focal = 78.0 * max(distance, 1.2) / 1.6
        cameras = box_cameras(4, distance=distance, focal=focal, lens=None, off_center=0.0)
        placement = place(list(draw_box(cameras, times=1)[1]), cameras)
        moved = placement.similarity.apply_to_cameras(cameras)
        assert float(torch.linalg.vector_norm(moved.centers, dim=1).mean()) == pytest.approx(aim, rel=1e-6)
        assert (placement.size < 1) == (distance > 2)


def test_rendered_scenes_are_left_alone():
    cameras = orbit(4, 30.0, size=32)
    still = Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    masks = draw_box(cameras.to(torch.float64), still)[1]
    placement = place(list(masks), cameras)
    assert placement.kept
    assert placement.similarity.scale == 1
    framed = placement.frame(cameras, 16)
    assert_close(framed.world_from_cam, cameras.world_from_cam, atol=0, rtol=0)
    assert_close(framed.K, cameras.resized(16, 16).K, atol=0, rtol=0)
    # Another camera of that scene that is no square pinhole is framed.
    wide = replace(cameras, sizes=cameras.sizes * torch.tensor([1, 2]))
    assert placement.frame(wide, 16).sizes.tolist() == [[16, 16]] * 4


def test_one_view(drawn):
    cameras, _, masks = drawn
    placement = place([masks[0]], cameras[0])
    moved = placement.similarity.apply_to_cameras(cameras[0])
    distance = float(torch.linalg.vector_norm(moved.centers))
    assert DISTANCES[0] - 1e-6 <= distance <= DISTANCES[1] + 1e-6


def test_cameras_that_do_not_look_at_it(drawn):
    cameras, _, masks = drawn
    flipped = cameras.world_from_cam.clone()
    flipped[2, :3, [0, 2]] *= -1  # half a turn about its own vertical axis
    with pytest.raises(InputError, match="frame 2: the object that the other frames show lies behind it"):
        place(list(masks), replace(cameras, world_from_cam=flipped))
    opengl = cameras.world_from_cam.clone()
    opengl[:, :3, 1:3] *= -1
    with pytest.raises(InputError, match="lies behind it"):
        place(list(masks), replace(cameras, world_from_cam=opengl))
    empty = [*masks[:-1], torch.zeros_like(masks[0])]
    with pytest.raises(InputError, match="mask of frame 5: is empty"):
        place(empty, cameras)
    with pytest.raises(InputError, match="see the object from one direction only"):
        place([masks[0]] * 2, cameras[[0, 0]])


def test_rotation_to_z():
    for up in (TILT[:, 0], TILT[:, 2], torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, -1])):
        turn = rotation_to_z(up.double())
        assert_close(turn @ up.double(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64))
        assert float(torch.linalg.det(turn)) == pytest.approx(1)


def small_fields():
    box = Box(low=(-0.6, -0.5, -0.4), voxel=0.1, shape=(13, 11, 9))
    nodes = box.nodes()
    sphere = (torch.linalg.vector_norm(nodes, dim=1) - 0.3).reshape(box.shape) / box.voxel
    surface = SdfField(box, sphere, sharpness=2.0)
    torch.nn.init.normal_(surface.features)
    voxels = VoxelField(box, -4 * sphere, torch.ones(box.shape, dtype=torch.bool), gain=3.0)
    torch.nn.init.normal_(voxels.features)
    network = build_field("dense", box.low, box.high, 8)
    return [surface, voxels, network]


@pytest.mark.parametrize("place_in_list", [0, 1, 2], ids=["surface", "voxels", "network"])
@torch.no_grad()
def test_a_moved_field_looks_the_same_from_moved_cameras(place_in_list):
    field = small_fields()[place_in_list]
    cameras = sphere_cameras([10.0, 130.0], [20.0, -30.0], 1.5, size=12)
    move = Similarity(12.5, torch.eye(3, dtype=torch.float64), torch.tensor([3.0, -8.0, 1.0]).double())
    seen = render_field(field, cameras)
    again = render_field(
        move_field(field, move), move.apply_to_cameras(cameras.to(torch.float64)).to(torch.float32)
    )
    assert float(seen.alphas.max()) > 0.1
    assert_close(again.images, seen.images, atol=2e-3, rtol=0)
    assert_close(again.alphas, seen.alphas, atol=2e-3, rtol=0)
    assert_close(again.depths, 12.5 * seen.depths, atol=2e-2, rtol=0)
    with pytest.raises(InputError, match="turns the world"):
        move_field(field, Similarity(1.0, TILT, torch.zeros(3)))


def test_frames_are_spread_out():
    cameras = orbit(8, 20.0, size=16)
    assert choose_frames(cameras, 2) == [0, 4]
    assert choose_frames(cameras, 4) == [0, 2, 4, 6]
    assert choose_frames(cameras, 8) == list(range(8))
    with pytest.raises(InputError, match="count: 9"):
        choose_frames(cameras, 9)


@pytest.mark.parametrize("how", ["alpha", "files", "wall"])
def test_a_capture_becomes_what_the_networks_read(drawn, tmp_path: Path, how: str):
    cameras, images, masks = drawn
    kind = "wall" if how == "wall" else "clutter"
    shown = over_background(images, masks, kind)
    write_nerfstudio(tmp_path, cameras, shown, None if how == "wall" else masks, how=how)
    prepared = prepare(open_capture(tmp_path), 32, num_given=3, check=False)
    views = prepared.views
    assert prepared.chosen == tuple(choose_frames(cameras, 3))
    assert len(prepared.others) == 3
    assert views.names == tuple(f"frame_{index + 1:05d}" for index in prepared.chosen)
    # The reframed cameras, brought back, see the true box as the pictures show it.
    back = prepared.placement.similarity.inverse().apply_to_cameras(views.cameras.to(torch.float64))
    truth, cover = draw_box(back, times=6)
    error = (views.over(1.0) - truth * cover - (1 - cover)).abs().mean(dim=(1, 2, 3))
    assert float(error.max()) < 0.035  # 32 px from 54: what resampling twice costs at edges
    assert float((views.masks - cover).abs().mean()) < 0.03
    assert prepared.record["masks"] == [{"wall": "plain background"}.get(how, "the picture's own")]


def test_what_cannot_be_prepared(drawn, tmp_path: Path):
    cameras, images, masks = drawn
    write_nerfstudio(tmp_path, cameras, over_background(images, masks, "clutter"))
    capture = open_capture(tmp_path)
    with pytest.raises(InputError, match=r"frame_00001.png: has no mask and no plain background.*rembg"):
        prepare(capture, 32)
    with pytest.raises(InputError, match="--given: 7: expected 1 to 6 of 6 observed frames"):
        prepare(capture, 32, num_given=7)


def test_the_box_is_what_it_says():
    # Straight at the broad side: 1 by 0.8 at distance 2 - 0.3, focal 100.
    still = Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    camera = sphere_cameras([90.0], [0.0], 2.0, size=100, focal_mm=32.0).to(torch.float64)
    _, cover = draw_box(camera, still, times=2)
    area = float(cover.sum())
    sides = [100 * 2 * float(HALF[axis]) / (2 - float(HALF[1])) for axis in (0, 2)]
    assert area == pytest.approx(sides[0] * sides[1], rel=0.02)
