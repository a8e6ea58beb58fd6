"""The drag baseline on a toy whose code says where its picture stands."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.data.procedural.animals import render_sweep
from manyview.errors import InputError
from manyview.geometry.projection import project, unproject
from manyview.geometry.rotations import relative_transform, rigid_from_vector
from manyview.methods.refiner.drag import (
    DragOptions,
    choose_points,
    drag,
    drag_to_pose,
    moved_points,
)
from manyview.methods.refiner.generator import FunctionCodes, StyleGANCodes
from manyview.nets.stylegan2.generator import StyleGAN2Generator

SIDE, ROWS, DIM = 32, 4, 3


def toy() -> FunctionCodes:
    """Two coloured blobs that the first two rows' first two numbers shift, in units of four pixels."""

    def images(codes: Tensor) -> Tensor:
        shift = 4 * codes[:, :2, :2].mean(dim=1)
        grid = torch.arange(SIDE) + 0.5
        total = []
        for place, colour in (((11.0, 13.0), (1.0, 0.1, 0.3)), ((20.0, 18.0), (0.1, 0.9, 0.6))):
            centre = torch.tensor(place) + shift
            across = torch.exp(-((grid - centre[:, :1]) ** 2) / 18)
            along = torch.exp(-((grid - centre[:, 1:]) ** 2) / 18)
            blob = along[:, :, None] * across[:, None, :]
            total.append(blob[:, None] * torch.tensor(colour)[:, None, None])
        return total[0] + total[1]

    return FunctionCodes(images, num_ws=ROWS, w_dim=DIM, resolution=SIDE)


OPTIONS = DragOptions(layers=2, learning_rate=2e-2, steps=60, supervision_radius=3.0, tracking_radius=4.0)


def test_points_arrive_and_the_code_says_so() -> None:
    handles = torch.tensor([[11.0, 13.0], [20.0, 18.0]])
    way = torch.tensor([5.0, -3.0])
    codes = torch.zeros(1, ROWS, DIM)
    found = drag(toy(), codes, handles, handles + way, OPTIONS)
    assert float(found.distances.max()) <= 1.5
    assert found.steps < 60
    shift = 4 * found.codes[0, :2, :2].mean(dim=0)
    assert_close(shift, way, atol=1.5, rtol=0)
    assert torch.equal(found.codes[:, 2:], codes[:, 2:])
    assert torch.equal(codes, torch.zeros(1, ROWS, DIM))


def test_points_at_their_targets_change_nothing() -> None:
    handles = torch.tensor([[11.0, 13.0]])
    codes = torch.zeros(1, ROWS, DIM)
    found = drag(toy(), codes, handles, handles + 0.4, OPTIONS)
    assert found.steps == 0
    assert torch.equal(found.codes, codes)


def test_the_mask_holds_what_lies_outside() -> None:
    handles = torch.tensor([[11.0, 13.0]])
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 8:18, 6:16] = 1  # the first blob alone; in this toy both move or none
    codes = torch.zeros(1, ROWS, DIM)
    free = drag(toy(), codes, handles, handles + 5, OPTIONS, mask=mask)
    held = DragOptions(**{**vars(OPTIONS), "mask_weight": 50.0})
    kept = drag(toy(), codes, handles, handles + 5, held, mask=mask)
    moved = [float(r.codes[0, :2, :2].mean()) for r in (kept, free)]
    assert moved[0] < 0.4 * moved[1]


def test_points_are_spread_over_the_mask() -> None:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 4:28, 8:24] = 1
    points = choose_points(mask, 6, seed=1)
    assert torch.equal(points, choose_points(mask, 6, seed=1))
    assert bool((mask[0, points[:, 1].long(), points[:, 0].long()] == 1).all())
    assert float(torch.pdist(points).min()) > 6
    with pytest.raises(InputError, match="expected 1 to 384"):
        choose_points(mask, 385, seed=0)


def test_moved_points_are_where_the_other_view_sees_them() -> None:
    views = render_sweep(7, [0.0, 15.0], size=SIDE)
    assert views.cameras is not None
    assert views.depths is not None
    assert views.masks is not None
    inner = (-torch.nn.functional.max_pool2d(-views.masks, 3, 1, 1))[0]
    points = choose_points((inner > 0.99).float(), 8, seed=0)
    motion = relative_transform(views.cameras.world_from_cam[1], views.cameras.world_from_cam[0])
    found = moved_points(points, views.depths[0], views.cameras.K[0], motion)
    depth = views.depths[0, 0, points[:, 1].long(), points[:, 0].long()]
    world = unproject(points[None], depth[None], views.cameras[0])
    expected, _ = project(world, views.cameras[1])
    assert_close(found, expected[0], atol=1e-3, rtol=0)
    assert float((found - points).norm(dim=1).max()) > 1


def test_a_stylegan_is_dragged_towards_a_turn() -> None:
    torch.manual_seed(0)
    net = StyleGAN2Generator(SIDE, 8, 8, mapping_layers=2, channel_base=256, channel_max=16).eval()
    codes = StyleGANCodes(net).sample([1])
    turn = rigid_from_vector(
        torch.tensor([[0, math.radians(8.0), 0, -1.5 * math.sin(math.radians(8)), 0, 0.0]])
    )
    options = DragOptions(feature_resolution=16, layers=6, steps=3, num_points=4)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 8:24, 8:24] = 1
    K = torch.tensor([[35.0, 0, 16], [0, 35, 16], [0, 0, 1]])
    depth = 1.5 - 0.3 * mask
    found = drag_to_pose(StyleGANCodes(net), codes, depth, K, turn, mask, options)
    again = drag_to_pose(StyleGANCodes(net), codes, depth, K, turn, mask, options)
    assert torch.equal(found.codes, again.codes)
    assert all(weight.grad is None for weight in net.parameters())
    assert found.handles.shape == (4, 2)
    assert float((found.codes - codes)[:, :6].abs().max()) > 1e-4
    assert torch.equal(found.codes[:, 6:], codes[:, 6:])
    away = rigid_from_vector(torch.tensor([[0, 0, 0, 50.0, 0, 0]]))
    with pytest.raises(InputError, match="every point out of the image"):
        drag_to_pose(StyleGANCodes(net), codes, depth, K, away, mask, options)


def test_refusals() -> None:
    codes, points = torch.zeros(2, ROWS, DIM), torch.zeros(1, 2)
    with pytest.raises(InputError, match="expected one code"):
        drag(toy(), codes, points, points)
    with pytest.raises(InputError, match="as many targets as points"):
        drag(toy(), codes[:1], points, torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"expected \[B, 4, 3\]"):
        drag(toy(), codes[:1, :2], points, points)
