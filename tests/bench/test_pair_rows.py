"""TUNet's rows and their baselines under pair, on toy weights."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_scenes import grey_views

from manyview.bench.pair import answer_seed, find_scenes
from manyview.bench.pair_options import VARIANTS, PairOptions
from manyview.bench.pair_run import evaluate_pair
from manyview.bench.pair_source import PairSource, with_translator
from manyview.bench.pair_warp import WarpAnswerer, splat_depth, warp_object
from manyview.cli import main
from manyview.errors import InputError
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import orbit
from manyview.io.scene import write_scene
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.types import Cameras, Views

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from tiny_dimvis import SIZE, tiny_pair_pipeline
from tiny_tunet import tiny_network, tiny_tunet, write_tiny_tunet

ROWS = ["tunet", "mean_only", "fusion_a", "fusion_b"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs") / "set"
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.2 + 0.03 * k for k in range(16)], number), root / name)
    return root


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("variants")
    sizes: dict[str, dict[str, Any]] = {
        "full_short": {},
        "no_cross_attention": {"cross_attention": False, "sweep_depths": 0, "blend": False},
        "concat": {"cross_attention": False, "conditioning": "concat", "sweep_depths": 0, "blend": False},
    }
    for name, changes in sizes.items():
        tiny_network(**changes).save_pretrained(root / name / "tunet")
    return {name: root / name for name in VARIANTS}


def question_of(scenes: Path) -> tuple[Views, Cameras, int]:
    (scene,) = find_scenes(scenes, PairOptions(), ["cup"])[0]
    (question,) = scene.questions
    views = scene.read(SIZE)
    assert views.cameras is not None
    targets = views.cameras[list(question.targets)]
    return views[question.reference], targets, answer_seed(question, 0)


def test_rows_are_what_the_pipeline_answers(scenes: Path) -> None:
    pipeline = tiny_tunet(candidates=("A:eps_t", "B:gaussian", "B:latent_T"))
    given, targets, seed = question_of(scenes)
    source = PairSource(pipeline, PairOptions())
    own = pipeline(given, targets, seed=seed).views.images[1:]
    torch.testing.assert_close(source.selected(given, targets, seed), own, atol=2e-3, rtol=0)
    mean = pipeline(given, targets, seed=seed, candidates=["mean"]).views.images[1:]
    torch.testing.assert_close(source.mean(given, targets, seed), mean, atol=2e-3, rtol=0)
    for name in ("A:eps_t", "B:latent_T"):
        made = pipeline(given, targets, seed=seed, candidates=[name]).views.images[1:]
        torch.testing.assert_close(source.fused(name, given, targets, seed), made, atol=2e-3, rtol=0)
    # The weights choose from their own candidates alone, also where others are drawn for other rows.
    alone = PairSource(tiny_tunet(candidates=("B:gaussian",)), PairOptions())
    drawn, usable = alone.drawn(given, targets, seed)
    assert drawn.names == ("B:gaussian", "A:eps_t", "B:latent_T")
    assert usable == (0,)
    assert torch.equal(alone.selected(given, targets, seed), drawn.candidates[0])


def test_parts_are_made_once(scenes: Path) -> None:
    pipeline = tiny_tunet()
    calls = []
    predict = pipeline.predict
    pipeline.predict = lambda *args, **more: calls.append(more["candidates"]) or predict(*args, **more)  # type: ignore[method-assign]
    report = evaluate_pair(
        pipeline, scenes, options=PairOptions(only=ROWS, features=()), perceptual=False, limit=1
    )
    assert calls == [["A:eps_t", "B:latent_T"], ["mean"]]
    assert report["rows"]["fusion_a"]["metrics"]["psnr"] == report["metrics"]["psnr"]
    levels = {name: report["rows"][name]["metrics"]["psnr"]["mean"] for name in ROWS[1:]}
    assert len(set(levels.values())) == 3
    assert report["resolution"] == SIZE


def test_the_oracle_is_a_bound(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by the mean absolute difference, it is nowhere worse by that than any candidate."""
    import manyview.bench.pair_run as pair_run

    def apart(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (images - targets).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr(pair_run, "choose_metrics", lambda *_: {"stlpips_vgg": apart})
    monkeypatch.setattr(pair_run, "pair_metrics", lambda *_: {"mae": apart, "hf_power_025": apart})
    options = PairOptions(only=[*ROWS, "oracle"], features=())
    report = evaluate_pair(tiny_tunet(), scenes, options=options)
    bound = report["rows"]["oracle"]["metrics"]["mae"]["mean"]
    others = [report["rows"][name]["metrics"]["mae"]["mean"] for name in ("fusion_a", "fusion_b")]
    assert bound < min(others)  # which is nearer changes from view to view


def test_without_its_metric_there_is_no_oracle(scenes: Path) -> None:
    options = PairOptions(only=["mean_only", "oracle", "concat"], features=())
    report = evaluate_pair(tiny_tunet(), scenes, options=options, perceptual=False, limit=1)
    assert report["rows"]["oracle"] == {"skipped": "chooses by stlpips_vgg: not asked for"}
    assert report["rows"]["concat"] == {"skipped": "no --variants names its weights"}
    assert report["method"] == "mean_only"


def test_depth_weights_come_with_the_package(scenes: Path, tmp_path: Path) -> None:
    options = PairOptions(only=["warp_by_depth"], features=())
    report = evaluate_pair("tunet", scenes, options=options, perceptual=False, limit=1)
    assert report["method"] == "warp_by_depth"
    assert report["weights"]["name"] == "depth"
    assert report["metrics"]["psnr"]["mean"] > 5
    elsewhere = replace(options, depth_net=tmp_path / "none")
    with pytest.raises(InputError, match="--depth-net"):
        evaluate_pair("tunet", scenes, options=elsewhere, perceptual=False, limit=1)


def test_variants_have_other_translators(scenes: Path, variants: dict[str, Path]) -> None:
    options = PairOptions(only=["tunet", *VARIANTS], variants=variants, features=())
    report = evaluate_pair(tiny_tunet(), scenes, options=options, perceptual=False, limit=1)
    rows = {"tunet": report, **report["rows"]}
    # `full_short` holds the same weights as the pipeline here.
    levels = {name: row["metrics"]["psnr"]["mean"] for name, row in rows.items()}
    assert levels["full_short"] == pytest.approx(levels["tunet"], abs=1e-3)
    assert min(abs(levels[a] - levels[b]) for a, b in itertools.combinations(VARIANTS, 2)) > 0.01
    assert len({rows[name]["weights"]["sha256"] for name in VARIANTS}) == 3
    assert "difference" in rows["concat"]
    with pytest.raises(InputError, match="--variants"):
        with_translator(tiny_tunet(), scenes)
    tiny_network(t_star=500).save_pretrained(scenes.parent / "late")
    with pytest.raises(InputError, match=r"t\* 500"):
        with_translator(tiny_tunet(), scenes.parent / "late")


def test_the_one_to_one_model_needs_an_upright_world(scenes: Path, tmp_path: Path) -> None:
    options = PairOptions(only=["one2one", "copy_input"], one2one_steps=1, features=())
    pipeline = tiny_pair_pipeline()
    report = evaluate_pair("tunet", scenes, options=options, one2one=pipeline, size=SIZE, perceptual=False)
    assert report["method"] == "one2one"
    assert report["options"]["one2one"]["num_steps"] == 1
    ordered = replace(options, pairing="ordered")
    report = evaluate_pair("tunet", scenes, options=ordered, one2one=pipeline, size=SIZE, perceptual=False)
    assert report["skipped"] == "captures have no upright world, which it needs"
    assert report["rows"]["copy_input"]["metrics"]["psnr"]["mean"] > 0


def ball(cameras: Cameras, size: int, radius: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views [V, 3, S, S] over white, depths [V, S, S] and coverage of a ball at the origin."""
    origins, directions = camera_rays(cameras, size, size)
    half = (origins * directions).sum(dim=-1)
    inside = half.square() - origins.square().sum(dim=-1) + radius**2
    solid = inside > 0
    away = -half - inside.clamp_min(0).sqrt()
    points = origins + away[..., None] * directions
    colors = (0.5 + points / (2 * radius)).clamp(0, 1).permute(0, 3, 1, 2)
    forward = cameras.world_from_cam[:, :3, 2][:, None, None]
    depth = ((points - origins) * forward).sum(dim=-1)
    return torch.where(solid[:, None], colors, torch.ones_like(colors)), depth, solid


def test_true_depth_moves_pixels_to_where_they_are_seen() -> None:
    cameras = orbit(16, 20.0, size=64)
    images, depth, solid = ball(cameras, 64)
    seen = splat_depth(depth[:1], solid[:1], cameras[0], cameras[1])
    known = (seen[0, 0] > 0) & solid[1]
    assert float(known.float().sum() / solid[1].sum()) > 0.8
    off = (seen[0, 0] - depth[1])[known].abs()
    assert float(off.mean()) < 0.01  # at the outline a pixel's depths differ much
    assert float(off.max()) < 0.1
    made = warp_object(images[:1], depth[:1], solid[:1], cameras[0], cameras[1])
    error = (made[0] - images[1]).abs().mean(dim=0)
    assert float(error[known].mean()) < 0.02
    # A copy of the view is further away.
    assert float((images[0] - images[1]).abs().mean(dim=0)[known].mean()) > 0.05
    same = warp_object(images[:1], depth[:1], solid[:1], cameras[0], cameras[0])
    assert float((same - images[:1]).abs().mean()) < 0.01


def test_warping_by_an_estimate_knows_the_cameras_distance() -> None:
    """A network that tells the ball's depth in the frame it was trained in, and a world twice as large."""
    cameras = orbit(16, 20.0, size=64)
    images, depth, solid = ball(cameras, 64)

    class Told(DepthNet):
        def world_depths(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return depth[:1], solid[:1].float()

    network = DepthNet(size=64, widths=(8, 16)).eval()
    network.__class__ = Told
    answer = WarpAnswerer(network=network)
    given = Views(images=images[:1], cameras=cameras[0])
    made = answer(given, cameras[[1, 2]], 0)
    expected = warp_object(images[:1], depth[:1], solid[:1], cameras[0], cameras[1])
    torch.testing.assert_close(made[:1], expected, atol=0.02, rtol=0)
    moved = cameras.world_from_cam.clone()
    moved[:, :3, 3] *= 2
    large = replace(cameras, world_from_cam=moved)
    again = answer(replace(given, cameras=large[0]), large[[1, 2]], 0)
    torch.testing.assert_close(again, made, atol=0.02, rtol=0)


def test_the_command(
    scenes: Path, variants: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_tiny_tunet(tmp_path / "weights")
    DepthNet(size=16, widths=(8, 16)).save_pretrained(tmp_path / "depth")
    out = tmp_path / "pair.json"
    words = ["eval", "tunet", "--protocol", "pair", "--data", str(scenes), "--weights", str(weights)]
    words += ["--device", "cpu", "--no-perceptual", "--limit", "1", "--depth-net", str(tmp_path / "depth")]
    words += ["--variants", f"concat={variants['concat']}"]
    words += ["--only", "tunet", "mean_only", "concat", "warp_by_depth", "copy_input", "--out", str(out)]
    assert main(words) == 0
    report = json.loads(out.read_text())
    assert set(report["rows"]) == {"mean_only", "concat", "warp_by_depth", "copy_input"}
    assert "mean_only: psnr" in capsys.readouterr().out
    assert report["weights"]["name"] == str(weights)
    assert main(words) == 2
    for flags, said in (
        (["--variants", "concat"], "--variants"),
        (["--solver", "ddim"], "--solver"),
        (["--guidance", "2"], "--guidance"),
        (["--inputs", "1", "2"], "--inputs"),
        (["--samples", "2"], "--samples"),
    ):
        assert main([*words, "--force", *flags]) == 2
        assert f"error: {said}: " in capsys.readouterr().err
    assert main(["eval", "tunet", "--data", str(scenes), "--out", str(tmp_path / "x")]) == 2
    assert "tunet is scored under pair" in capsys.readouterr().err
