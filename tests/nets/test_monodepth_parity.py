"""Monodepth2 against tensors of the published code. They lie beside the checkout and never in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from manyview.geometry.rotations import rigid_from_vector
from manyview.methods.refiner.photometric import (
    PhotometricOptions,
    depth_from_disparity,
    normalize_disparity,
    photometric_loss,
    reprojection_error,
    smoothness,
    ssim_error,
)
from manyview.methods.refiner.reprojection import back_project, project_points, sampling_grid, warp
from manyview.nets.monodepth.disparity import DisparityNet
from manyview.nets.monodepth.motion import PoseNet

STORED = Path(__file__).parents[2].parent / "shared" / "goldens"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (STORED / "monodepth2_networks.safetensors").is_file(),
        reason="no reference tensors beside the checkout",
    ),
]
POSE = {"0": "squeeze", "1": "conv1", "2": "conv2", "3": "out"}


def encoder_name(name: str) -> str:
    found = re.fullmatch(r"layer(\d)\.(.*)", name)
    if found:
        rest = found[2].replace("downsample.", "shortcut.").replace(".bn", ".norm")
        return f"stages.{int(found[1]) - 1}.{rest}"
    return name.replace("conv1.", "conv.").replace("bn1.", "norm.")


def decoder_name(name: str) -> str:
    number, rest = re.fullmatch(r"decoder\.(\d+)\.(.*)", name).groups()  # pyright: ignore
    number = int(number)
    if number >= 10:
        return f"heads.{number - 10}.{rest}"
    side = "after" if number % 2 else "before"
    return f"levels.{number // 2}.{side}.{rest.removeprefix('conv.')}"


def our_name(name: str) -> tuple[str, str]:
    """Which of our two networks a published tensor is of, and its name there."""
    owner, rest = name.split(".", 1)
    if owner in ("encoder", "pose_encoder"):
        return "pose" if owner == "pose_encoder" else "depth", "encoder." + encoder_name(rest[8:])
    if owner == "depth":
        return "depth", decoder_name(rest)
    number, kind = rest.removeprefix("net.").split(".")
    return "pose", f"{POSE[number]}.{kind}"


def load_networks(weights: dict[str, Tensor], config: dict) -> tuple[DisparityNet, PoseNet]:
    depth = DisparityNet(config["num_ch_enc"], config["num_ch_dec"])
    pose = PoseNet(config["num_ch_enc"], config["pose_width"], num_predicted=2)
    for kind, net in (("depth", depth), ("pose", pose)):
        own = {ours: v for name, v in weights.items() for owner, ours in [our_name(name)] if owner == kind}
        found = net.load_state_dict(own, strict=False)
        assert not found.unexpected_keys
        assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)
    return depth.eval(), pose.eval()


def formula(entry: dict) -> Tensor:
    """A weight by the integer formula that stands in the stored notes."""
    count = int(np.prod(entry["shape"]))
    with np.errstate(over="ignore"):
        x = (np.arange(count, dtype=np.uint32) + np.uint32(1)) * np.uint32(0x9E3779B1)
        x += np.uint32((entry["k"] + 1) * 0x85EBCA77 & 0xFFFFFFFF)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    values = (entry["lo"] + (entry["hi"] - entry["lo"]) * (x / 2.0**32)).astype(np.float32)
    assert values[:4].tolist() == entry["first4"][: min(4, count)]
    return torch.from_numpy(values).view(entry["shape"])


def stored(name: str) -> tuple[dict[str, Tensor], dict]:
    tensors = load_file(STORED / f"monodepth2_{name}.safetensors")
    return tensors, json.loads((STORED / f"monodepth2_{name}.json").read_text())


@pytest.mark.parametrize("name", ["networks", "fullwidth_formula"])
def test_networks(name: str) -> None:
    tensors, notes = stored(name)
    if name == "networks":
        weights = {k: v for k, v in tensors.items() if not k.startswith(("in.", "out."))}
    else:
        weights = {entry["name"]: formula(entry) for entry in notes["weights_formula"]}
    depth, pose = load_networks(weights, notes["config"])
    first, second = tensors["in.img_a"], tensors["in.img_b"]
    with torch.no_grad():
        features, disparities = depth.encoder(first), depth(first)
        motion = pose(first, second)
        pose_feature = pose.encoder(torch.cat([first, second], dim=1))[4]
    for place in range(5):
        assert_close(features[place], tensors[f"out.feat{place}"], atol=2e-5, rtol=0)
    for scale in range(4):
        assert_close(disparities[scale], tensors[f"out.disp{scale}"], atol=1e-5, rtol=0)
    assert_close(pose_feature, tensors["out.pose_feat4"], atol=2e-5, rtol=0)
    assert_close(motion[..., :3], tensors["out.axisangle"][:, :, 0], atol=1e-7, rtol=0)
    assert_close(motion[..., 3:], tensors["out.translation"][:, :, 0], atol=1e-7, rtol=0)
    assert_close(rigid_from_vector(motion[:, 0]), tensors["out.T_noinvert"], atol=2e-6, rtol=0)
    assert_close(rigid_from_vector(motion[:, 0], invert=True), tensors["out.T_invert"], atol=2e-6, rtol=0)
    assert sum(isinstance(module, nn.Conv2d) for module in depth.modules()) == 34


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return stored("functions")[0]


def test_depths_and_motions(tensors: dict[str, Tensor]) -> None:
    for suffix, limits in (("", (0.1, 100.0)), ("_b", (0.5, 10.0))):
        scaled, depth = depth_from_disparity(tensors["in.d2d.disp"], *limits)
        assert_close(scaled, tensors[f"out.d2d.scaled_disp{suffix}"], atol=2e-6, rtol=0)
        assert_close(depth, tensors[f"out.d2d.depth{suffix}"], atol=2e-6, rtol=1e-6)
    vectors = torch.cat([tensors["in.tfp.axisangle"], tensors["in.tfp.translation"]], dim=-1)[:, 0]
    assert_close(rigid_from_vector(vectors)[:, :3, :3], tensors["out.tfp.R"][:, :3, :3], atol=2e-6, rtol=0)
    assert_close(rigid_from_vector(vectors), tensors["out.tfp.T_noinvert"], atol=2e-6, rtol=0)
    assert_close(rigid_from_vector(vectors, invert=True), tensors["out.tfp.T_invert"], atol=4e-6, rtol=0)


def test_warps(tensors: dict[str, Tensor]) -> None:
    depth, K = tensors["in.warp.depth"], tensors["in.warp.K"][:, :3, :3]
    vectors = torch.cat([tensors["in.warp.axisangle"], tensors["in.warp.translation"]], dim=-1)[:, 0]
    motion = rigid_from_vector(vectors)
    assert_close(motion, tensors["out.warp.T"], atol=2e-6, rtol=0)
    points = back_project(depth, K, convention="corners")
    expected = tensors["out.warp.cam_points"]
    assert_close(points.flatten(1, 2).mT, expected[:, :3], atol=1e-5, rtol=2e-6)
    pixels, _ = project_points(points, K, motion)
    grid = sampling_grid(pixels, 24, 40, "corners")
    assert_close(grid, tensors["out.warp.pix_coords"], atol=1e-5, rtol=1e-5)
    image, _ = warp(tensors["in.warp.img"], depth, K, motion, convention="corners")
    assert_close(image, tensors["out.warp.img_align_true"], atol=2e-5, rtol=0)


def test_errors_and_smoothness(tensors: dict[str, Tensor]) -> None:
    assert_close(
        ssim_error(tensors["in.ssim.x"], tensors["in.ssim.y"]), tensors["out.ssim.map"], atol=1e-4, rtol=0
    )
    found = smoothness(tensors["in.smooth.disp"], tensors["in.smooth.img"])
    assert_close(found, tensors["out.smooth.loss"], atol=2e-6, rtol=0)
    target = tensors["in.loss.color_0"]
    unmoved = [reprojection_error(tensors[f"in.loss.color_{s}"], target) for s in ("m1", "p1")]
    assert_close(torch.cat(unmoved, dim=1), tensors["out.loss.identity_reprojection"], atol=1e-4, rtol=0)
    for scale in range(4):
        disparity = normalize_disparity(tensors[f"in.loss.disp{scale}"])
        colour = target if scale == 0 else tensors[f"in.loss.color_0_scale{scale}"]
        expected = tensors[f"out.loss.smooth_scale{scale}"]
        assert_close(smoothness(disparity, colour), expected, atol=1e-5, rtol=0)


class TestLoss:
    def run(self, tensors: dict[str, Tensor], noise: str = "scale", **options: object):
        leaves = {
            name: tensors[f"in.loss.{name}"].clone().requires_grad_()
            for name in (
                *(f"disp{scale}" for scale in range(4)),
                *(f"{kind}_{s}" for kind in ("axisangle", "translation") for s in ("m1", "p1")),
            )
        }
        motions = [
            rigid_from_vector(
                torch.cat([leaves[f"axisangle_{s}"], leaves[f"translation_{s}"]], dim=-1)[:, 0], s == "m1"
            )
            for s in ("m1", "p1")
        ]
        draws = {
            "scale": [tensors[f"in.loss.tie_noise_scale{scale}"] for scale in range(4)],
            "none": [torch.zeros(2, 2, 32, 64)] * 4,
            "avg": list(tensors["in.loss.tie_noise_avg"]),
        }[noise]
        result = photometric_loss(
            tensors["in.loss.color_0"],
            [tensors["in.loss.color_m1"], tensors["in.loss.color_p1"]],
            [leaves[f"disp{scale}"] for scale in range(4)],
            tensors["in.loss.K"][:, :3, :3],
            motions,
            PhotometricOptions(convention="corners", use_validity=False, **options),  # pyright: ignore
            tie_noise=draws,
        )
        return result, leaves

    def test_every_part_and_its_gradient(self, tensors: dict[str, Tensor]) -> None:
        result, leaves = self.run(tensors)
        assert_close(result.loss, tensors["out.loss.ac1.total"], atol=1e-5, rtol=0)
        for scale in range(4):
            assert_close(result.losses[scale], tensors[f"out.loss.ac1.loss{scale}"], atol=1e-5, rtol=0)
            expected = tensors[f"out.loss.ac1.depth_scale{scale}"]
            assert_close(result.depths[scale], expected, atol=2e-6, rtol=2e-6)
            assert_close(result.minimum[scale], tensors[f"out.loss.ac1.min_scale{scale}"], atol=1e-4, rtol=0)
            chosen = tensors[f"out.loss.ac1.identity_selection_scale{scale}"].bool()
            assert float((result.moved[scale][:, 0] != chosen).float().mean()) < 1e-3
        for warped, name in zip(result.warped, ("m1", "p1"), strict=True):
            assert_close(warped, tensors[f"out.loss.ac1.warped_{name}_scale0"], atol=2e-5, rtol=0)
        result.loss.backward()
        for name, leaf in leaves.items():
            limit = 1e-6 if name.startswith("disp") else 2e-5
            assert leaf.grad is not None
            assert_close(leaf.grad, tensors[f"out.loss.ac1.grad.{name}"], atol=limit, rtol=0)

    def test_its_options(self, tensors: dict[str, Tensor]) -> None:
        cases = {
            "total_nonoise": {"noise": "none"},
            "total_no_automask": {"automask": False},
            "total_avg_reprojection": {"noise": "avg", "reduction": "mean"},
        }
        for name, options in cases.items():
            result, _ = self.run(tensors, **options)
            assert_close(result.loss, tensors[f"out.loss.ac1.{name}"], atol=1e-5, rtol=0)
