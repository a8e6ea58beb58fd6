"""Depth as a condition: the fold and its stretching by hand, networks of either kind, and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DPTConfig, DPTForDepthEstimation

from manyview.data.packed import PackedViews, pack_procedural
from manyview.data.procedural import make_object, render_object
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.methods.hi3d.depth import (
    DepthOptions,
    PhotoDepth,
    depth_channels,
    is_metric,
    load_depth,
    stretch,
)
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.train_depth import DepthTask, masked_difference_error, masked_error
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

WIDTHS = (8, 16)


def test_nine_channels_are_three_by_three_values() -> None:
    # 2 frames of 6 x 6 values for 2 x 2 cells: no resizing, so channel 3 r + c of cell (y, x) is value
    # (3 y + r, 3 x + c), divided by the clip's largest, 71.
    raw = torch.arange(72.0).reshape(2, 6, 6)
    channels = depth_channels(raw, 2, 2)
    assert channels.shape == (2, 9, 2, 2)
    for frame, row, column, y, x in [(0, 0, 0, 0, 0), (1, 2, 1, 1, 0), (0, 1, 2, 0, 1)]:
        value = 36 * frame + 6 * (3 * y + row) + 3 * x + column
        assert channels[frame, 3 * row + column, y, x].item() == pytest.approx(value / 71)


def test_a_clip_or_each_frame_is_stretched() -> None:
    raw = torch.stack([torch.linspace(2, 4, 9), torch.linspace(3, 10, 9)]).reshape(2, 3, 3)
    clip = stretch(raw, "clip")
    assert_close(clip, (raw - 2) / 8)
    frames = stretch(raw, "frame")
    assert_close(frames[0], frames[1])  # both are even ramps
    assert torch.equal(stretch(raw, "none"), raw)
    assert torch.equal(stretch(torch.full((2, 3, 3), 5.0), "clip"), torch.zeros(2, 3, 3))
    # A stretched clip does not see scale and shift of its depths.
    assert_close(stretch(3 * raw + 7, "clip"), clip)
    # Clips of a batch are stretched apart.
    batch = torch.stack([raw, 2 * raw])
    assert_close(stretch(batch, "clip"), torch.stack([clip, clip]))


def test_one_channel_is_the_paper_s_resize() -> None:
    raw = torch.rand(3, 16, 16)
    found = depth_channels(raw, 8, 8, DepthOptions(channels=1, normalize="none"))
    # Bilinear at half the size, half-pixel centres: the mean of two by two.
    assert_close(found, torch.nn.functional.avg_pool2d(raw[:, None], 2))
    with pytest.raises(InputError, match="channels"):
        DepthOptions(channels=3)  # pyright: ignore[reportArgumentType]


def test_the_net_is_small_and_saves(tmp_path: Path) -> None:
    net = DepthNet()
    assert sum(weight.numel() for weight in net.parameters()) <= 600_000
    torch.manual_seed(0)
    small = DepthNet(size=16, widths=WIDTHS, near=0.5, far=2.0).eval()
    images = torch.rand(3, 3, 32, 32)
    depth = small.estimate(images)
    assert depth.shape == (3, 16, 16)
    assert 0 <= float(depth.min()) <= float(depth.max()) <= 1
    assert_close(small.estimate(images[1:2])[0], depth[1])  # frames do not see each other
    small.save_pretrained(tmp_path / "net")
    again = load_depth(tmp_path / "net")
    assert isinstance(again, DepthNet)
    assert torch.equal(again.estimate(images), depth)
    with pytest.raises(InputError, match="size"):
        DepthNet(size=18, widths=WIDTHS)


def test_shares_become_depths() -> None:
    net = DepthNet(size=16, widths=WIDTHS, near=0.5, far=2.0).eval()
    torch.nn.init.zeros_(net.leave.weight)
    torch.nn.init.zeros_(net.leave.bias)
    depths, cover = net.world_depths(torch.rand(1, 3, 16, 16))
    # A share of a half: inverse depth half-way between 1 / 2 and 2, 1.25, so a depth of 0.8.
    assert_close(depths, torch.full((1, 16, 16), 0.8))
    assert_close(cover, torch.full((1, 16, 16), 0.5))


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth") / "dpt"
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    return folder


def test_any_network_of_transformers_tells_depth(photo_folder: Path, tmp_path: Path) -> None:
    model = load_depth(photo_folder, side=32, frames_at_once=2)
    assert isinstance(model, PhotoDepth)
    frames = torch.rand(3, 3, 64, 64)
    depth = model.estimate(frames)
    assert depth.shape == (3, 32, 32)
    reference = DPTForDepthEstimation.from_pretrained(str(photo_folder)).eval()
    small = torch.nn.functional.interpolate(frames, (32, 32), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = reference(pixel_values=small * 2 - 1).predicted_depth
    assert_close(depth, expected, atol=1e-5, rtol=1e-4)
    # Statistics that stand beside the weights are used.
    (photo_folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "image_processor_type": "DPTImageProcessor"}'
    )
    other = load_depth(photo_folder, side=32)
    assert isinstance(other, PhotoDepth)
    assert other.mean == (0.1, 0.2, 0.3)
    (photo_folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="--depth"):
        load_depth(tmp_path / "nothing")


def test_the_released_rule_for_sizes(photo_folder: Path) -> None:
    model = load_depth(photo_folder)
    assert isinstance(model, PhotoDepth)
    assert [model.picture_side(side) for side in (1024, 512, 96, 64)] == [384, 192, 32, 32]
    model.network.config.patch_size = 14
    assert model.picture_side(1024) == 378  # 27 patches of 14


def test_distances_are_inverted(photo_folder: Path) -> None:
    plain, metric = (load_depth(photo_folder, side=32, metric=flag) for flag in (False, True))
    frames = torch.rand(1, 3, 32, 32)
    assert_close(metric.estimate(frames), 1 / plain.estimate(frames).clamp_min(1e-3))
    assert is_metric(type("Config", (), {"model_type": "zoedepth"}))
    assert is_metric(type("Config", (), {"model_type": "depth_anything", "depth_estimation_type": "metric"}))
    assert not is_metric(type("Config", (), {"model_type": "dpt"}))


def test_errors_count_on_the_object_alone() -> None:
    true = torch.zeros(1, 4, 4)
    told = torch.full((1, 4, 4), 0.5)
    told[0, 0] = 9.0
    solid = torch.ones(1, 4, 4, dtype=torch.bool)
    solid[0, 0] = False
    assert masked_error(told, true, solid).item() == pytest.approx(0.5)
    # Beside a constant error no differences, since pairs with the row outside are left out.
    assert masked_difference_error(told, true, solid, 2).item() == 0
    ramp = torch.arange(4.0).expand(1, 4, 4)
    # Along rows 1 between neighbours at full size and 2 at half; along columns 0: (1 + 2) / 4.
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    assert masked_difference_error(ramp, true, everywhere, 2).item() == pytest.approx(0.75)


@pytest.fixture(scope="module")
def packed_depths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "set"
    pack_procedural(folder, 0, 3, orbit(4, size=32), depths=True)
    return folder


def test_examples_are_rendered_truth(packed_depths: Path) -> None:
    task = DepthTask([packed_depths], size=16, degraded=0.0, seed=3)
    batch = task.batch(torch.arange(12))
    assert batch["images"].shape == (12, 3, 16, 16)
    single = task.batch(torch.tensor([7]))
    assert all(torch.equal(single[name][0], batch[name][7]) for name in batch)
    # Against the renderer: one view, as it is or mirrored, has these depths.
    codes = PackedViews(packed_depths).depth_codes
    views = [render_object(make_object(seed), orbit(4, size=32)).depths for seed in range(3)]
    known = torch.cat([depth for depth in views if depth is not None])[:, 0]
    share = (1 / known.clamp_min(1e-3) - 1 / codes.far) / (1 / codes.near - 1 / codes.far)
    covered = (known > 0).float()
    sums = torch.nn.functional.avg_pool2d(torch.where(known > 0, share, 0.0)[:, None], 2)[:, 0]
    cover = torch.nn.functional.avg_pool2d(covered[:, None], 2)[:, 0]
    share = sums / cover.clamp_min(1e-6)
    for found, solid in zip(batch["shares"], batch["cover"], strict=True):
        gaps = [
            ((found - side).abs() * (solid > 0)).max() + (solid - mask).abs().max()
            for one, two in zip(share, cover, strict=True)
            for side, mask in ((one, two), (one.flip(-1), two.flip(-1)))
        ]
        assert min(gaps) < 0.003  # half a code is 0.002
    worse = DepthTask([packed_depths], size=16, degraded=1.0, seed=3).batch(torch.arange(12))
    assert torch.equal(worse["shares"], batch["shares"])
    assert not torch.equal(worse["images"], batch["images"])


def test_it_learns_and_exports(packed_depths: Path, tmp_path: Path) -> None:
    class Tiny(DepthTask):
        def build(self) -> DepthNet:
            return DepthNet(size=16, widths=WIDTHS, near=self.codes.near, far=self.codes.far)

    task = Tiny([packed_depths], validation=packed_depths, size=16, degraded=0.0)
    torch.manual_seed(0)
    before = task.validate(task.build().eval(), torch.device("cpu"))
    config = TrainConfig(
        steps=60,
        batch_size=8,
        lr=5e-3,
        warmup_steps=5,
        ema_decay=0.8,
        validate_every=60,
        log_every=20,
        device="cpu",
        dtype="fp32",
        num_threads=1,
        tensorboard=False,
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    assert report.validation["inverse_l1_val"] < 0.6 * before["inverse_l1_val"]
    assert report.validation["cover_iou_val"] > max(0.7, before["cover_iou_val"])
    net = load_depth(report.export)
    assert isinstance(net, DepthNet)
    assert (net.config["near"], net.config["far"]) == (task.codes.near, task.codes.far)
    image = torch.from_numpy(PackedViews(packed_depths)[0][:1].astype(np.float32) / 255).permute(0, 3, 1, 2)
    white = (image.amin(dim=1) == 1)[0]
    depth = net.float().estimate(image)[0]
    coarse = torch.nn.functional.avg_pool2d(white[None].float(), 2)[0]
    assert depth[coarse == 1].mean() < 0.3 * depth[coarse == 0].mean()


def test_unfit_data_is_refused(packed_depths: Path, tmp_path: Path) -> None:
    pack_procedural(tmp_path / "plain", 0, 1, orbit(2, size=16))
    with pytest.raises(InputError, match="no depths"):
        DepthTask([tmp_path / "plain"], size=16)
    pack_procedural(tmp_path / "far", 0, 1, orbit(2, distance=3.0, size=16), depths=True)
    with pytest.raises(InputError, match="expected depths from"):
        DepthTask([packed_depths, tmp_path / "far"], size=16)
    with pytest.raises(InputError, match="multiple of 24"):
        DepthTask([packed_depths], size=24)
