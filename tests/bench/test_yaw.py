"""The protocol `yaw`: rows matched by measured yaw, numbers of known answers, resuming, the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from tiny_refiner import SIZE, tiny_components, tiny_refiner, write_single_views, write_tiny_bundle

from manyview.bench import yaw_run
from manyview.bench.yaw import look_at, measure_views, warp_errors
from manyview.bench.yaw_features import FeatureNet, load_feature_net, pack_features, unpack_features
from manyview.bench.yaw_options import YawOptions, parse_ablations
from manyview.bench.yaw_run import evaluate_yaw
from manyview.bench.yaw_summary import summarise
from manyview.cli import main
from manyview.errors import InputError
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.methods.refiner.yaw_net import YawNet

ASKED = YawOptions(num_sources=2, targets_deg=(-4.0, 4.0), frontal_deg=180.0, num_dragged=1, drag_steps=1)


class PlaceNet(YawNet):
    """Tells how far left the darkest part of a picture lies, so that a known thing is measured."""

    @torch.no_grad()
    def measure(self, images: torch.Tensor) -> torch.Tensor:
        dark = (1 - images.clamp(0, 1)).mean(dim=(1, 2))
        places = torch.linspace(-1, 1, dark.shape[-1])
        return 400 * (dark * places).sum(dim=1) / dark.sum(dim=1).clamp_min(1e-6)


def features(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 16).flatten(1)


@pytest.fixture(scope="module")
def pipe() -> RefinerPipeline:
    parts = tiny_components()
    parts.pop("yaw")
    return RefinerPipeline(**parts)


@pytest.fixture(scope="module")
def net() -> FeatureNet:
    return FeatureNet(name="pooled", sha256="0", features=features)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_views(tmp_path_factory.mktemp("held_out") / "views", count=30)


def meter() -> YawNet:
    return PlaceNet(size=SIZE, widths=(8,), hidden=8).eval()


def test_the_source_itself_scores_full_marks(pipe: RefinerPipeline, net: FeatureNet) -> None:
    source = look_at(pipe, meter(), net, pipe.sample(3), 3)
    options = YawOptions(targets_deg=(0.5, 40.0), tolerance_deg=1.0)
    rows = measure_views(pipe, meter(), net, source, source.image.expand(2, -1, -1, -1), options)
    assert [row["reached"] for row in rows] == [True, False]
    assert rows[0]["ssim_skimage"] == pytest.approx(1)
    assert rows[0]["identity"] == pytest.approx(1)
    assert rows[0]["warp_l1"] == pytest.approx(0, abs=1e-5)
    assert "ssim_skimage" not in rows[1]
    torch.testing.assert_close(unpack_features(rows[0]["features"]), source.features[0], atol=1e-3, rtol=0)


def test_warp_errors_look_where_the_turn_says(pipe: RefinerPipeline, net: FeatureNet) -> None:
    source = look_at(pipe, meter(), net, pipe.sample(3), 3)
    white = torch.ones(1, 3, SIZE, SIZE)
    error = warp_errors(pipe, source, white, torch.tensor([0.0]))
    from manyview.methods.refiner.coarse_pose import inner_mask

    inside = inner_mask(source.mask)[0, 0] > 0.5
    expected = (1 - source.image[0]).abs()[:, inside].mean()
    assert float(error) == pytest.approx(float(expected), rel=1e-4)


def test_rows_are_matched_by_measured_yaw(
    pipe: RefinerPipeline, net: FeatureNet, data: Path, tmp_path: Path
) -> None:
    tiny_refiner(moving=True).save_pretrained(tmp_path / "no_warp")
    asked = YawOptions(**{**vars(ASKED), "ablations": {"no_warp": tmp_path / "no_warp"}})
    report = evaluate_yaw(pipe, data, tmp_path / "m.json", asked, yaw_net=meter(), feature_net=net)
    assert report == json.loads((tmp_path / "m.json").read_text())
    assert report["method"] == "refiner"
    assert set(report["rows"]) == {"ganspace", "no_warp", "no_latent", "no_feature", "no_guard", "drag"}
    assert report["rows"]["no_guard"] == {"skipped": "no weights given"}
    assert report["rows"]["drag"]["sources"] == 1
    for row in (report, report["rows"]["ganspace"]):
        part = row["by_range"]["full"]
        assert part["asked"] == 4
        assert part["views"] <= 4
        if part["views"]:
            assert part["yaw_deg"]["mean"] == pytest.approx(4, abs=1.01)
    # The refiner without the warp loss here is the refiner itself.
    less = report["rows"]["no_warp"]["difference"]["full"]
    if less["views"]:
        assert less["ssim_skimage"]["mean"] == pytest.approx(0, abs=1e-6)
    assert not (tmp_path / "m.json.partial.jsonl").exists()
    assert report["feature_net"] == {"name": "pooled", "sha256": "0"}


def test_a_stopped_run_goes_on(
    pipe: RefinerPipeline, net: FeatureNet, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = YawOptions(**{**vars(ASKED), "only": ("refiner", "ganspace")})
    whole = evaluate_yaw(pipe, data, None, asked, yaw_net=meter(), feature_net=net)
    real, calls = yaw_run.measure_views, []

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # pyright: ignore

    monkeypatch.setattr(yaw_run, "measure_views", stopping)
    out = tmp_path / "m.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate_yaw(pipe, data, out, asked, yaw_net=meter(), feature_net=net)
    assert len((tmp_path / "m.json.partial.jsonl").read_text().splitlines()) == 2
    went_on = evaluate_yaw(pipe, data, out, asked, yaw_net=meter(), feature_net=net)
    assert len(calls) == 5
    assert went_on["metrics"] == whole["metrics"]
    assert went_on["rows"]["ganspace"]["difference"] == whole["rows"]["ganspace"]["difference"]


def record(scene: str, rows: dict[str, list[tuple[float, float, bool, float]]]) -> dict:
    """Rows of (target, measured, reached, ssim)."""
    answers = {}
    for name, views in rows.items():
        answers[name] = [
            {"target_deg": target, "yaw_deg": yaw, "reached": reached}
            | (
                {
                    "ssim_skimage": ssim,
                    "identity": ssim,
                    "warp_l1": 1 - ssim,
                    "features": pack_features(torch.full((3,), ssim)),
                }
                if reached
                else {}
            )
            for target, yaw, reached, ssim in views
        ]
    return {"scene": scene, "yaw_deg": 5.0, "answers": answers}


def test_ranges_and_differences_by_hand() -> None:
    records = [
        record(
            "a",
            {
                "one": [(-30, -30.5, True, 0.8), (10, 10.2, True, 0.9)],
                "two": [(-30, -20.0, False, 0), (10, 9.5, True, 0.7)],
            },
        ),
        record(
            "b",
            {
                "one": [(-30, -29.5, True, 0.6), (10, 10.0, True, 0.7)],
                "two": [(-30, -30.1, True, 0.5), (10, 9.9, True, 0.6)],
            },
        ),
    ]
    real = torch.zeros(4, 3), torch.tensor([0.0, 5.0, 30.0, -50.0])
    one = summarise("one", "one", records, real, YawOptions())
    assert one["metrics"]["ssim_skimage"]["mean"] == pytest.approx(0.75)
    assert one["by_range"]["20"]["ssim_skimage"]["mean"] == pytest.approx(0.8)
    assert one["by_range"]["40"]["yaw_deg"]["mean"] == pytest.approx((30.5 + 10.2 + 29.5 + 10) / 4)
    assert "difference" not in one
    two = summarise("two", "one", records, real, YawOptions())
    assert two["by_range"]["full"]["reached"]["mean"] == 0.75
    # Over the three targets that both reached: 0.2, 0.1, 0.1.
    assert two["difference"]["full"]["ssim_skimage"]["mean"] == pytest.approx(0.4 / 3)
    assert two["difference"]["20"]["views"] == 2
    assert two["by_range"]["full"]["frechet"] == {"skipped": "3 views and 4 renders, needs 20"}


def test_distances_between_sets_are_of_equal_counts_in_the_range() -> None:
    draws = torch.Generator().manual_seed(0)
    records = []
    for number in range(30):
        one = record(str(number), {"row": [(-10, -10.0, True, 0.5), (50, 50.0, True, 0.5)]})
        for view in one["answers"]["row"]:
            view["features"] = pack_features(torch.randn(2, generator=draws))
        records.append(one)
    real = torch.randn(50, 2, generator=draws) + torch.tensor([3.0, 0.0]), torch.linspace(-60, 60, 50)
    found = summarise("row", "row", records, real, YawOptions(resamples=20))["by_range"]
    assert found["full"]["compared"] == 50
    assert found["full"]["frechet"]["mean"] == pytest.approx(9, abs=2.5)
    low, high = found["full"]["frechet"]["ci95"]
    assert low < found["full"]["frechet"]["mean"] + 1.5
    assert high > low
    assert found["40"]["compared"] == 30  # views at -10 + 5; renders within 40: 34
    assert found["full"]["kernel"]["mean"] > 0.5


def test_the_package_has_a_feature_net() -> None:
    encoder = load_feature_net(None)
    images = torch.rand(2, 3, 64, 64)
    found = encoder.features(images)
    assert encoder.name == "image_encoder_compact"
    assert found.shape == (2, 128)
    assert encoder.cosine(found, found).tolist() == pytest.approx([1, 1])


def test_ablations_are_named_folders(tmp_path: Path) -> None:
    tiny_refiner().save_pretrained(tmp_path / "run" / "refiner")
    found = parse_ablations([f"no_warp={tmp_path / 'run'}"])
    assert found == {"no_warp": tmp_path / "run" / "refiner"}
    for word in ("no_warp", f"no_pose={tmp_path / 'run'}", f"no_warp={tmp_path}"):
        with pytest.raises(InputError, match="--ablations"):
            parse_ablations([word])


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(write_tiny_bundle(tmp_path / "weights"))
    words = ["eval", "refiner", "--protocol", "yaw", "--data", str(data), "--weights", weights]
    limits = ["--limit", "2", "--only", "ganspace", "--device", "cpu"]
    assert main([*words, *limits, "--out", str(tmp_path / "m.json")]) == 0
    assert "ganspace: " in capsys.readouterr().out
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["method"] == "ganspace"
    assert report["scenes"] == 2
    assert report["feature_net"]["name"] == "image_encoder_compact"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--limit", "1"], "--limit"),
        (["--only", "copy_input"], "--only"),
        (["--samples", "2"], "--samples"),
        (["--guidance", "2"], "--guidance"),
        (["--yaw-net", "."], "--yaw-net"),
        (["--feature-net", "."], "--feature-net"),
        (["--ablations", "no_warp=."], "--ablations"),
    ],
)
def test_bad_flags_are_refused(
    data: Path, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(write_tiny_bundle(tmp_path / "weights"))
    words = ["eval", "refiner", "--protocol", "yaw", "--data", str(data), "--weights", weights]
    assert main([*words, *more, "--device", "cpu", "--out", str(tmp_path / "m.json")]) == 2
    assert f"error: {said}: " in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()


def test_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(write_tiny_bundle(tmp_path / "weights"))
    (tmp_path / "empty").mkdir()
    words = ["eval", "refiner", "--protocol", "yaw", "--weights", weights, "--device", "cpu"]
    assert main([*words, "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "m.json")]) == 2
    assert "error: --data: " in capsys.readouterr().err
