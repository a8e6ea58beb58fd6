"""TUNet's network: identity, invariance under moves of the world, what is trained, and its published size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_dimvis import CHANNELS
from tiny_tunet import tiny_network, tiny_options
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.rotations import matrix_from_quaternion
from manyview.geometry.sweep import relative_sweep_grid, sweep_grid
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.methods.tunet.blocks import RayAttention
from manyview.methods.tunet.cameras import CameraPairs, axis_points, pair_cameras, scene_focus
from manyview.methods.tunet.model import TUNet, build_tunet
from manyview.methods.tunet.options import TUNetOptions, ablated, paper_options
from manyview.methods.tunet.sweep import gather_planes
from manyview.types import Cameras

CELLS = 4


def latents(count: int = 1) -> torch.Tensor:
    return torch.randn(count, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(3))


def rig() -> Cameras:
    return orbit(6, 20.0, size=32)


def pairs() -> CameraPairs:
    return pair_cameras(rig()[0], rig())


VARIANTS: dict[str, dict[str, Any]] = {
    "compact": {},
    "sweep into the decoder": {"sweep_into": "decoder"},
    "pooled keys": {"key_cells": "pooled", "feature_keys": False, "ray_octaves": 0},
    "no sweep": {"sweep_depths": 0},
    "printed": {"sweep_depths": 0, "blend": False},
    "no attention": {"cross_attention": False},
    "concat": {"conditioning": "concat"},
}


@torch.no_grad()
def test_identity_camera_gives_the_reference_whatever_was_learned() -> None:
    x = latents()
    for changes in ({}, {"sweep_into": "decoder"}):
        answer = tiny_network(**changes)(x, pairs())
        assert_close(answer[0], x[0], rtol=0, atol=1e-4)
        assert float((answer[1] - x[0]).abs().max()) > 0.1  # another camera does change it


@torch.no_grad()
def test_fresh_network_is_nearly_the_identity_without_the_gate() -> None:
    answer = tiny_network(spread=False, identity_gate=False)(latents(), pairs())
    assert_close(answer[0], latents()[0], rtol=0, atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_moving_turning_and_scaling_the_world_changes_nothing(name: str) -> None:
    network, cameras = tiny_network(**VARIANTS[name]), rig()
    turn = matrix_from_quaternion(torch.tensor([0.5, -0.1, 0.7, 0.4]))
    move = Similarity(3.7, turn, torch.tensor([5.0, -2.0, 9.0]))
    moved = move.apply_to_cameras(cameras)
    focus = torch.tensor([0.1, 0.0, 0.05])
    first = network(latents(), pair_cameras(cameras[0], cameras, focus=focus))
    then = network(latents(), pair_cameras(moved[0], moved, focus=move.apply_to_points(focus)))
    assert_close(first, then, rtol=1e-3, atol=1e-3)


def test_the_point_looked_at_moves_with_the_cameras() -> None:
    cameras = rig()
    move = Similarity(
        2.0, matrix_from_quaternion(torch.tensor([0.2, 0.3, 0.1, 0.9])), torch.tensor([1.0, 2, 3])
    )
    found = scene_focus(move.apply_to_cameras(cameras))
    assert_close(found, move.apply_to_points(scene_focus(cameras)), rtol=0, atol=1e-4)
    assert_close(axis_points(cameras), torch.zeros(6, 3), rtol=0, atol=1e-6)
    assert_close(scene_focus(cameras[0]), torch.zeros(3), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_targets_of_one_reference_do_not_depend_on_each_other(name: str) -> None:
    network, told = tiny_network(**VARIANTS[name]), pairs()
    together = network(latents(), told)
    assert together.shape == (6, CHANNELS, CELLS, CELLS)
    alone = torch.cat([network(latents(), told.targets(slice(k, k + 1))) for k in range(6)])
    assert_close(together, alone, rtol=1e-4, atol=1e-4)
    if name != "printed":
        return
    one_by_one = network(latents().expand(6, -1, -1, -1), pair_cameras(rig()[[0] * 6], rig()))
    assert_close(together, one_by_one, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_references_keep_apart() -> None:
    network, cameras, two = tiny_network(), rig(), latents(2)
    of = torch.tensor([0, 1, 1])
    both = network(two, pair_cameras(cameras[[0, 3]], cameras[[1, 2, 4]], reference_of=of))
    assert_close(both[:1], network(two[:1], pair_cameras(cameras[0], cameras[1])), rtol=1e-4, atol=1e-4)
    assert_close(both[1:], network(two[1:], pair_cameras(cameras[3], cameras[[2, 4]])), rtol=1e-4, atol=1e-4)
    told, used = pair_cameras(cameras[[0, 3]], cameras[[2, 4]], reference_of=torch.tensor([1, 1])).narrowed()
    assert used.tolist() == [1]
    assert told.reference_of.tolist() == [0, 0]
    assert_close(network(two[used], told), both[1:], rtol=1e-4, atol=1e-4)


def test_ray_attention_is_among_the_parameters_from_the_start_and_learns() -> None:
    network = tiny_network()
    attentions = [module for module in network.modules() if isinstance(module, RayAttention)]
    assert len(attentions) == 3  # the middle, and two of the decoder's lower level
    known = {id(parameter) for parameter in network.parameters()}
    network(latents(), pairs()).square().mean().backward()
    for attention in attentions:
        for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
            assert id(layer.weight) in known
            assert layer.weight.grad is not None
            assert float(layer.weight.grad.abs().max()) > 0


@torch.no_grad()
def test_class_and_time_are_heard_and_the_unknown_is_a_class_of_its_own() -> None:
    network = tiny_network()
    answers = [network(latents(), pairs(), class_ids=torch.tensor([k]))[1] for k in range(3)]
    assert float((answers[0] - answers[1]).abs().max()) > 1e-3
    assert network.unknown_class == 2
    assert_close(network(latents(), pairs())[1], answers[2])
    assert float((network(latents(), pairs(), 300)[1] - answers[2]).abs().max()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["printed", "concat", "no attention"])
def test_target_camera_is_heard(name: str) -> None:
    answer = tiny_network(**VARIANTS[name], identity_gate=False)(latents(), pairs())
    assert float((answer[1] - answer[2]).abs().max()) > 1e-3


def test_ablations_lack_their_part_and_what_would_hide_it() -> None:
    for name in ("no-cross-attention", "concat"):
        options = ablated(tiny_options(), name)
        assert not options.cross_attention
        assert not options.sweep_depths
        assert not options.blend
        network = build_tunet(options)
        assert not any(isinstance(module, RayAttention) for module in network.modules())
    concat = build_tunet(ablated(tiny_options(), "concat"))
    assert not any("cameras" in name or ".classes" in name for name, _ in concat.named_parameters())
    assert ablated(tiny_options(), "full") == tiny_options()


def test_published_size() -> None:
    # The paper says about 148 million; its class count is 167.
    with torch.device("meta"):
        network = build_tunet(paper_options())
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(148e6, rel=0.03)
    assert network.conv_in.weight.shape == (128, 4, 3, 3)
    assert network.conv_out.weight.shape == (4, 128, 3, 3)
    assert [len(stage.resnets) for stage in network.down] == [2] * 4  # pyright: ignore
    assert [len(stage.attentions) for stage in network.up] == [3, 3, 0, 0]  # pyright: ignore


def test_compact_size() -> None:
    with torch.device("meta"):
        network = build_tunet(TUNetOptions())
    assert 2.4e6 < sum(one.numel() for one in network.parameters()) < 2.7e6


@torch.no_grad()
def test_comes_back_from_disk(tmp_path: Path) -> None:
    network = tiny_network(sweep_into="decoder")
    network.save_pretrained(tmp_path)
    again = TUNet.from_pretrained(tmp_path)
    assert isinstance(again, TUNet)
    assert again.options == network.options
    assert_close(again.eval()(latents(), pairs()), network(latents(), pairs()))


def test_sweep_of_any_lens_is_that_of_the_cameras() -> None:
    cameras = sphere_cameras([0.0, 50.0, 200.0], [10.0, -20.0, 40.0], [1.5, 1.4, 2.0], size=(24, 32))
    cameras = replace(cameras, K=cameras.K * torch.tensor([[1.1, 1, 0.9], [1, 0.95, 1.05], [1, 1, 1]]))
    told = pair_cameras(cameras[0], cameras[1:], focus=torch.zeros(3))
    depths = torch.tensor([1.0, 1.7])
    grid, _ = relative_sweep_grid(
        told.reference_from_target,
        told.target_lens,
        told.reference_lens[[0, 0]],
        depths.expand(2, 2),
        (24, 32),
    )
    scale = float(cameras.centers[0].norm()) / 1.5
    assert_close(grid, sweep_grid(cameras[1:], cameras[0], depths * scale), rtol=1e-4, atol=1e-4)


def test_gathered_planes_know_their_border() -> None:
    grid = torch.tensor([[[[[0.0, 0.0], [5.0, 0.0]]]]])
    seen = gather_planes(torch.full((1, 2, 3, 3), 7.0), grid, (grid.abs() <= 1).all(dim=-1))
    assert_close(seen, torch.tensor([[[[[7.0, 0.0]], [[7.0, 0.0]]]]]))


def test_refuses_what_does_not_fit() -> None:
    cameras = rig()
    with pytest.raises(InputError, match="references"):
        pair_cameras(cameras[[0, 1]], cameras)
    with pytest.raises(InputError, match="point looked at"):
        pair_cameras(cameras[0], cameras, focus=cameras.centers[0].clone())
    with pytest.raises(InputError, match="distortion"):
        pair_cameras(replace(cameras, distortion=torch.ones(6, 6)), cameras)
    with pytest.raises(InputError, match="ray_levels"):
        tiny_options(ray_levels=(True,))
    with pytest.raises(InputError, match="cross_dim"):
        tiny_options(cross_dim=20)
