"""Networks for disparity and motion: sizes, scales, and that they learn what they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.rotations import invert_rigid, rigid_from_vector, vector_from_rigid
from manyview.nets.monodepth.disparity import DisparityNet, Doubling, ReflectedConv, build_disparity_net
from manyview.nets.monodepth.encoder import ImageEncoder
from manyview.nets.monodepth.motion import LogFocal, PoseNet, build_pose_net

WIDTHS = (4, 4, 6, 8, 10)


def tiny_depth() -> DisparityNet:
    torch.manual_seed(0)
    return DisparityNet(WIDTHS, (4, 4, 6, 6, 8))


def images(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_scales_are_finest_first_and_within_zero_and_one() -> None:
    found = tiny_depth()(images())
    assert [tuple(x.shape) for x in found] == [(2, 1, 64 // 2**s, 96 // 2**s) for s in range(4)]
    assert all(0 < float(x.detach().min()) < float(x.detach().max()) < 1 for x in found)
    assert len(DisparityNet(WIDTHS, (4, 4, 6, 6, 8), num_scales=2)(images())) == 2


def test_padding_by_mirroring_treats_both_sides_alike() -> None:
    # Layers of symmetric kernels commute with mirroring.
    net = tiny_depth().eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 4 and "encoder" not in name:
                value.copy_((value + value.flip(-1)) / 2)
    doubling, head = net.levels[0], net.heads[0]
    assert isinstance(doubling, Doubling)
    for layer in (doubling.before, head):
        assert isinstance(layer, ReflectedConv)
        x = torch.randn(1, layer.conv.in_channels, 6, 6)
        assert_close(layer(x.flip(-1)), layer(x).flip(-1))


def test_sides_are_multiples_of_32() -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        tiny_depth()(images(1, 70, 64))
    with pytest.raises(InputError, match="at least 64"):
        tiny_depth()(images(1, 32, 64))
    with pytest.raises(InputError, match="expected five numbers"):
        ImageEncoder((4, 4))


def test_published_and_compact_sizes() -> None:
    with torch.device("meta"):
        depth, pose = build_disparity_net("paper"), build_pose_net("paper")
    # ResNet-18 without its classifier has 11.18 million parameters; the decoders have 3.15 and 1.31.
    assert sum(p.numel() for p in depth.encoder.parameters()) == 11_176_512
    assert round(sum(p.numel() for p in depth.parameters()) / 1e5) == 143
    assert round(sum(p.numel() for p in pose.parameters()) / 1e5) == 125
    assert sum(p.numel() for p in build_disparity_net().parameters()) < 1.3e6
    assert sum(p.numel() for p in build_pose_net().parameters()) < 1.2e6


def test_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for number, net in enumerate((tiny_depth(), PoseNet(WIDTHS, 6, num_predicted=2))):
        net.eval().save_pretrained(tmp_path / str(number))
        again = type(net).from_pretrained(tmp_path / str(number)).eval()
        inputs = (images(),) if number == 0 else (images(), images().flip(-1))
        one, two = net(*inputs), again(*inputs)
        assert_close(one, two)


def test_motion_starts_near_nothing_and_can_be_learned() -> None:
    torch.manual_seed(0)
    net = PoseNet(WIDTHS, 8)
    first, second = images(4, 32, 32), images(4, 32, 32).roll(3, dims=-1)
    start = net(first, second).detach()
    assert start.shape == (4, 1, 6)
    assert float(start.abs().max()) < 0.1
    wanted = torch.tensor([0.0, 0.3, 0, 0.1, 0, -0.2])
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    loss = torch.ones(())
    for _ in range(40):
        loss = (net(first, second)[:, 0] - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 6e-3


def test_the_lens() -> None:
    lens = LogFocal(1.5, learned=True)
    K = lens.K(48, 64)
    assert_close(K, torch.tensor([[96.0, 0, 32], [0, 96, 24], [0, 0, 1]]))
    assert abs(lens.focal - 1.5) < 1e-6
    K[0, 0].backward()
    assert lens.log_focal.grad is not None
    assert_close(lens.log_focal.grad, torch.tensor(96.0))  # d f / d log f = f
    assert not list(LogFocal(1.5).parameters())


def test_rigid_transforms_and_their_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 6, generator=generator, dtype=torch.float64) * 0.8
    vectors[0, :3] = 0
    rigid = rigid_from_vector(vectors)
    points = torch.randn(50, 3, 1, generator=generator, dtype=torch.float64)
    there = rigid[:, :3, :3] @ points + rigid[:, :3, 3:]
    back = rigid_from_vector(vectors, invert=True)
    assert_close(back[:, :3, :3] @ there + back[:, :3, 3:], points)
    assert_close(back, invert_rigid(rigid))
    assert_close(vector_from_rigid(rigid), vectors)
