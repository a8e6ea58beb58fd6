"""The refiner's bundled weights: what they promise wherever they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import manyview as mv
from manyview.io.manifest import read_json
from manyview.methods.refiner.coarse_pose import inner_mask
from manyview.methods.refiner.depth_scores import tell_depths
from manyview.methods.refiner.photometric import colour_mask
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.methods.refiner.reprojection import warp
from manyview.methods.refiner.yaw_net import YawNet
from manyview.weights import open_bundle
from manyview.weights.packing import load_component

YAWS = (-40.0, -20.0, 0.0, 20.0, 40.0)
SEEDS = range(6)


@pytest.fixture(scope="module")
def pipeline() -> RefinerPipeline:
    return mv.load("refiner")


@pytest.fixture(scope="module")
def measure() -> YawNet:
    return load_component(YawNet, open_bundle("compact", "refiner").components["yaw"], torch.float32).eval()


def test_objects_turn_as_far_as_asked(pipeline: RefinerPipeline, measure: YawNet) -> None:
    """By a network that learnt from rendered yaws, and that the method never sees."""
    off = []
    for seed in SEEDS:
        result = pipeline(targets=YAWS, seed=seed, points=False)
        torch.testing.assert_close(result.yaw_deg, torch.tensor(YAWS), atol=1.5, rtol=0)
        found = measure.measure(result.views.images)
        assert bool((found.diff() > 5).all())
        off.append((found - found[2] - torch.tensor(YAWS)).abs())
    assert float(torch.stack(off).mean()) < 10


@torch.inference_mode()
def test_refining_keeps_the_turn_and_the_surfaces_colours(pipeline: RefinerPipeline) -> None:
    """Source pictures are found again in turned ones where depth and pose say; better so after refining."""
    errors: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for seed in SEEDS:
        for refine in (True, False):
            result = pipeline(targets=YAWS, seed=seed, refine=refine, points=False)
            turned = result.views.images[[0, 1, 3, 4]]
            source = result.views.images[2:3].expand(4, -1, -1, -1)
            depth = tell_depths(pipeline.depth, pipeline.pose, source)
            K = pipeline.pose.K(*source.shape[-2:]).float()[None]
            pose = pipeline.pose.transform(pipeline.pose(source, turned).float())
            looked_up, valid = warp(turned, depth, K, pose)
            seen = valid * inner_mask(colour_mask(source))
            errors[refine].append(((looked_up - source).abs() * seen).sum() / (3 * seen.sum()))
    refined, edited = (torch.stack(errors[refine]) for refine in (True, False))
    assert float(refined.mean()) < 0.95 * float(edited.mean())


def test_a_head_is_nearer_than_its_body(pipeline: RefinerPipeline) -> None:
    """Points of the object seen from the front lie along the viewing axis, not on a flat sheet."""
    result = pipeline(targets=YAWS, seed=3)
    assert result.points is not None
    points = torch.from_numpy(result.points)
    spread = points.quantile(0.95, dim=0) - points.quantile(0.05, dim=0)
    assert float(spread[0]) > 0.7 * float(spread[1])


def test_the_command_as_in_the_readme(tmp_path: Path) -> None:
    from manyview.cli import main

    out = tmp_path / "turned"
    words = ["synth", "gan:compact", "--method", "refiner", "--targets", "yaw:-40:40:9", "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    assert len(mv.Result.load(out).views) == 9
    told = read_json(out / "manifest.json")
    assert told["options"]["refined"] is True
    assert (out / "points.ply").stat().st_size > 10_000
    assert (out / "video.mp4").is_file()
