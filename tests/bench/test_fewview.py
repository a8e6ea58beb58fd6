"""The protocol fewview: who is given what, known numbers, resuming, results made elsewhere, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_scenes import StopAfter, grey_views
from fewview_weights import (
    QUICK_DISTILL,
    SIZE,
    all_white,
    regressor_row,
    tiny_pipeline,
    tiny_regressor,
    write_bundles,
)

from manyview.bench.fewview import deal_frames, deal_scene, read_frames
from manyview.bench.fewview_options import FewviewOptions
from manyview.bench.fewview_rows import FitAnswerer, Row, baseline_rows, copy_nearest
from manyview.bench.fewview_run import evaluate_fewview
from manyview.cli.shell import run_command
from manyview.data.render.jobs import render_procedural
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.io.scene import write_scene
from manyview.lift.field.options import FieldOptions
from manyview.lift.reconstruction import ReconstructOptions
from manyview.methods import load
from manyview.metrics.report import Skipped
from manyview.types import Views


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two procedural objects in the setting of orbit32."""
    folder = tmp_path_factory.mktemp("rendered") / "set"
    render_procedural(4, 2, folder, protocol="orbit32", size=SIZE, samples=1)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


def grey_set(root: Path, levels: dict[str, list[float]], size: int = 32) -> Path:
    for name, level in levels.items():
        write_scene(grey_views(level), root / name)
    return root


def test_a_deal_is_decided_by_names_alone() -> None:
    cameras = orbit(16, size=SIZE)
    deal = deal_frames("cup", cameras)
    assert deal_frames("cup", cameras) == deal
    assert set(deal.inputs(2)) < set(deal.inputs(3)) < set(deal.inputs(6))
    assert len(deal.inputs(6)) == 6
    assert len(deal.scored) == 8
    assert not set(deal.scored) & set(deal.inputs(6))
    # Fewer scored frames are some of more; all that are left are ten.
    assert set(deal_frames("cup", cameras, num_scored=3).scored) < set(deal.scored)
    assert len(deal_frames("cup", cameras, num_scored=None).scored) == 10
    # Asking for fewer numbers of inputs leaves the small ones as they are.
    assert deal_frames("cup", cameras, counts=(2,)).inputs(2) == deal.inputs(2)
    assert deal_frames("shoe", cameras) != deal
    assert deal_frames("cup", cameras, seed=1) != deal
    # Every frame has its turn as an input: of 64 scenes with 2 of 16 each is given 8 times on average; that
    # one is never given has a probability of 16 (7 / 8)^64 = 0.3 percent.
    given = {frame for number in range(64) for frame in deal_frames(str(number), cameras).inputs(2)}
    assert given == set(range(16))


def test_frames_of_a_scene(rendered: Path, tmp_path: Path) -> None:
    """orbit32 gives of its even 16 only; a frame with an input's camera is never scored."""
    scenes = sorted(rendered.iterdir())
    for seed in range(5):
        deal, cameras = deal_scene(scenes[0], seed=seed)
        assert max(deal.inputs(6)) < 16
        assert len(cameras) == 32
    assert max(frame for seed in range(5) for frame in deal_scene(scenes[0], seed=seed)[0].scored) >= 16
    twice = orbit(8, size=SIZE)[[*range(8), *range(8)]]
    for seed in range(20):
        deal = deal_frames("cup", twice, num_scored=None, counts=(2, 6), seed=seed)
        assert not {frame % 8 for frame in deal.scored} & {frame % 8 for frame in deal.order}
    with pytest.raises(InputError, match="5 frames to give, fewview needs 6"):
        deal_frames("cup", orbit(5, size=SIZE))
    with pytest.raises(InputError, match="no frame is left to score beside the 6"):
        deal_frames("cup", orbit(6, size=SIZE))
    (tmp_path / "plain" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="has no cameras"):
        deal_scene(tmp_path / "plain")


def test_known_answers_on_grey_scenes(tmp_path: Path) -> None:
    """Each object has one grey level in all views: copy and mean are exact (counted as 100 dB); white differs
    by 1 - level everywhere, -20 log10(1 - level) dB. So is the paired difference of the two, by object."""
    levels = {"dark": 51 / 255, "light": 204 / 255}
    grey_set(tmp_path, {name: [level] * 16 for name, level in levels.items()})
    options = FewviewOptions(counts=(2, 3), num_scored=4, only=["copy_nearest", "mean_of_inputs"])
    report = evaluate_fewview(all_white, tmp_path, options=options, size=32, perceptual=False)
    json.dumps(report, allow_nan=False)
    white = [-20 * math.log10(1 - level) for level in levels.values()]
    assert report["method"] == "all_white"
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(sum(white) / 2, abs=1e-3)
    assert (report["scenes"], report["pairs"]) == (2, 2 * 2 * 4)
    assert list(report["rows"]) == ["copy_nearest", "mean_of_inputs"]
    for row in report["rows"].values():
        assert row["metrics"]["psnr"]["mean"] == 100
        assert row["difference"]["psnr"]["mean"] == pytest.approx(sum(white) / 2 - 100, abs=1e-3)
        for count in "23":
            part = row["by_references"][count]
            assert part["pairs"] == 2 * 4
            assert part["seconds"]["mean"] >= 0
            low, high = part["difference"]["psnr"]["ci95"]
            assert low == pytest.approx(min(white) - 100, abs=1e-3)
            assert high == pytest.approx(max(white) - 100, abs=1e-3)
    frames = report["frames"]["dark"]
    assert set(frames["inputs"]["2"]) < set(frames["inputs"]["3"])
    assert not set(frames["inputs"]["3"]) & set(frames["scored"])


def test_the_nearest_input_is_the_nearest_in_angle() -> None:
    """Given azimuths 0 and 90 at elevation 30. A target at azimuth 40 is nearer to 0, one at 50 to 90; one at
    170 is 80 from 90; and distance does not count: at azimuth 10, three times as far."""
    given = Views(
        images=torch.tensor([0.25, 0.75])[:, None, None, None].expand(2, 3, 8, 8),
        cameras=sphere_cameras(torch.tensor([0.0, 90.0]), torch.tensor([30.0, 30.0]), size=8),
    )
    azimuth, elevation = torch.tensor([40.0, 50.0, 170.0, 10.0]), torch.full((4,), 30.0)
    distance = torch.tensor([1.5, 1.5, 1.5, 4.5])
    targets = sphere_cameras(azimuth, elevation, distance, size=8)
    assert copy_nearest(given, targets, 0)[:, 0, 0, 0].tolist() == [0.25, 0.75, 0.75, 0.25]


def test_a_fit_that_finds_nothing_counts_as_white(tmp_path: Path) -> None:
    """Masks that are empty leave nothing to fit: the truth is white, so the answer is exact, and said."""
    views = replace(grey_views([0.5] * 16), masks=torch.zeros(16, 1, 32, 32))
    write_scene(views, tmp_path / "empty")
    options = FewviewOptions(counts=(2,), num_scored=2, only=["field_fit"])
    report = evaluate_fewview(all_white, tmp_path, options=options, size=32, perceptual=False)
    assert report["rows"]["field_fit"]["metrics"]["psnr"]["mean"] == 100
    (failed,) = report["rows"]["field_fit"]["failed"]
    assert (failed["scene"], failed["inputs"]) == ("empty", 2)
    assert failed["reason"]
    assert [row.may_fail for row in baseline_rows()] == [False, False, True, True]


def test_a_fit_answers_at_the_scored_cameras(rendered: Path) -> None:
    """A few steps at low resolution give pictures over white of the right size that are not all white."""
    views = read_frames(sorted(rendered.iterdir())[0], SIZE)
    assert views.cameras is not None
    field = FieldOptions(encoding="voxels", steps=3, rays=64, resolution=16)
    options = ReconstructOptions(to="field", field=field)
    made = FitAnswerer(options=options)(views[[0, 4, 9]], views.cameras[[2, 20]], 0)
    assert made.shape == (2, 3, SIZE, SIZE)
    assert 0.2 < float(made.mean()) < 0.999


def test_all_rows_of_the_method(rendered: Path) -> None:
    """The three modes and the regressor, with untrained networks: each answers, each otherwise, and again the
    same; neither the other scenes nor the other rows nor the other numbers of inputs enter an answer."""
    pipeline, regressor = tiny_pipeline(), regressor_row(tiny_regressor())
    options = FewviewOptions(
        counts=(2, 3),
        num_scored=2,
        ray_rows=4,
        num_steps=2,
        distill=QUICK_DISTILL,
        only=["sparsefusion", "eft", "vldm", "pixelnerf", "copy_nearest"],
    )
    report = evaluate_fewview(pipeline, rendered, options=options, regressor=regressor, perceptual=False)
    json.dumps(report, allow_nan=False)
    assert report["method"] == "sparsefusion"
    assert list(report["rows"]) == ["eft", "vldm", "pixelnerf", "copy_nearest"]
    assert len(report["weights"]["sha256"]) == 64
    assert report["failed"] == []
    assert report["resolution"] == SIZE
    assert report["options"]["vldm"] == {"num_steps": 2, "solver": "ddim", "guidance": 1.0}
    assert report["options"]["eft"] == {"rows": 4}
    means = [report["metrics"]["psnr"]["mean"]]
    means += [row["metrics"]["psnr"]["mean"] for row in report["rows"].values()]
    assert len(set(means)) == 5
    gain = report["rows"]["eft"]["by_references"]["3"]["difference"]["psnr"]["mean"]
    eft = report["rows"]["eft"]["by_references"]["3"]["psnr"]["mean"]
    assert report["by_references"]["3"]["psnr"]["mean"] - eft == pytest.approx(gain, abs=1e-9)
    assert report["metrics"]["stlpips_vgg"] == {"skipped": "not asked for"}
    alone = [
        evaluate_fewview(
            pipeline,
            rendered,
            options=replace(options, counts=(3,), only=["vldm"]),
            scenes=[name],
            perceptual=False,
        )
        for name in report["scene_names"]
    ]
    both = sum(one["metrics"]["psnr"]["mean"] for one in alone) / 2
    # With fewer numbers of inputs the most is another one, but not here: (3,) and (2, 3) leave the same.
    assert both == pytest.approx(report["rows"]["vldm"]["by_references"]["3"]["psnr"]["mean"], abs=1e-4)


def comparable(report: dict[str, Any]) -> Any:
    """Without what differs from run to run."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if "seconds" not in k and "memory" not in k}
        return value

    return json.loads(json.dumps(strip(report)))


def test_a_stopped_run_goes_on(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four answers of eight (2 scenes, 2 numbers, 2 rows), then the rest; `keep` lets a row join later."""
    pipeline = tiny_pipeline()
    options = FewviewOptions(counts=(1, 2), num_scored=2, ray_rows=2, only=["eft", "copy_nearest"])
    whole = evaluate_fewview(pipeline, rendered, options=options, perceptual=False)
    out, partial = tmp_path / "new" / "m.json", tmp_path / "new" / "m.json.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate_fewview(pipeline, rendered, out, options, perceptual=False, progress=StopAfter(4))
    assert not out.exists()
    name = whole["scene_names"][0]
    done = [json.loads(line)["scene"] for line in partial.read_text().splitlines()]
    assert done == [f"{name}/{count}/{row}" for count in (1, 2) for row in ("eft", "copy_nearest")]
    asked: list[tuple[str, int]] = []
    call = type(pipeline).__call__

    def counting(self: Any, views: Views, targets: Any, **named: Any) -> Any:
        asked.append((named["mode"], len(views)))
        return call(self, views, targets, **named)

    monkeypatch.setattr(type(pipeline), "__call__", counting)
    resumed = evaluate_fewview(pipeline, rendered, out, options, perceptual=False, keep=True)
    assert asked == [("eft", 1), ("eft", 2)]
    assert comparable(resumed) == comparable(whole)
    asked.clear()
    more = replace(options, only=["eft", "vldm", "copy_nearest"], num_steps=1)
    added = evaluate_fewview(pipeline, rendered, out, more, perceptual=False, force=True)
    assert asked == [("vldm", 1), ("vldm", 2)] * 2
    assert added["metrics"] == whole["metrics"]
    assert not partial.exists()
    # Another ray grid is another answer, and nothing is left to go on from.
    asked.clear()
    evaluate_fewview(
        pipeline, rendered, out, replace(options, ray_rows=4), limit=1, perceptual=False, force=True
    )
    assert asked == [("eft", 1), ("eft", 2)]


def test_results_made_elsewhere(tmp_path: Path) -> None:
    data = grey_set(tmp_path / "data", {"cup": [0.1 + 0.05 * k for k in range(16)]})
    truth = grey_views([0.1 + 0.05 * k for k in range(16)])
    assert truth.cameras is not None
    deal, _ = deal_scene(data / "cup")
    for count in (2, 6):
        # The true views themselves as answers, the frames in reverse order.
        frames = sorted({*deal.inputs(count), *deal.scored}, reverse=True)
        observed = torch.tensor([frame in deal.inputs(count) for frame in frames])
        views = Views(images=truth.images[frames], cameras=truth.cameras[frames], observed=observed)
        write_scene(views, tmp_path / "results" / "cup" / f"from_{count}")
    options = FewviewOptions(only=["copy_nearest"])
    report = evaluate_fewview(tmp_path / "results", data, options=options, size=32, perceptual=False)
    assert report["method"] == "results"
    assert report["metrics"]["psnr"]["mean"] == 100
    assert report["pairs"] == 2 * 8  # nothing with three inputs
    assert list(report["rows"]["copy_nearest"]["by_references"]) == ["2", "6"]
    wrong = [frame for frame in range(16) if frame not in deal.order][:2]
    views = Views(images=truth.images, cameras=truth.cameras, observed=torch.zeros(16, dtype=torch.bool))
    views.observed[wrong] = True
    write_scene(views, tmp_path / "results" / "cup" / "other")
    with pytest.raises(InputError, match=f"was given the true frames {wrong[0]}, {wrong[1]}, expected"):
        evaluate_fewview(tmp_path / "results", data, options=options, size=32, perceptual=False)


def test_recorded_choices(bundles: dict[str, Path]) -> None:
    """Sampler and distillation of the weights' settings are what an unset option stands for."""
    pipeline = load("sparsefusion", bundles["sparsefusion"])
    assert pipeline.choose_sampler(None, None) == ("ddim", 3)
    assert pipeline.default_distillation.rounds == 2
    assert pipeline.default_distillation.field.rays == 64
    assert tiny_pipeline().default_distillation.rounds == QUICK_DISTILL.__class__().rounds


def test_the_command(
    bundles: dict[str, Path],
    rendered: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("manyview.bench.scoring.load_stlpips", lambda net: Skipped(f"no weights of {net}"))
    out = tmp_path / "metrics.json"
    words = ["sparsefusion", "--protocol", "fewview", "--data", str(rendered), "--out", str(out)]
    words += ["--weights", str(bundles["sparsefusion"]), "--regressor", str(bundles["pixelnerf"])]
    words += ["--only", "eft", "vldm", "pixelnerf", "copy_nearest", "--inputs", "1", "2", "--scored", "2"]
    words += ["--rows", "4", "--limit", "1", "--device", "cpu"]
    assert run_command("eval", words) == 0
    shown = capsys.readouterr().out
    assert "1 input: psnr" in shown
    assert "2 inputs: psnr" in shown
    report = json.loads(out.read_text())
    assert (report["protocol"], report["scenes"], report["inputs"]) == ("fewview", 1, [1, 2])
    assert report["options"]["vldm"]["guidance"] == 1.5
    assert report["rows"]["pixelnerf"]["weights"]["sha256"]
    assert run_command("eval", words) == 2  # already there
    for changes, line in [
        (["--force", "--protocol", "orbit4"], "sparsefusion is scored under fewview"),
        (["--force", "--solver", "unipc"], "fewview has ddim, plms"),
        (["--force", "--samples", "2"], "is for --protocol orbit4"),
        (["--force", "--inputs", "3", "2"], "expected different numbers from 1 to 8"),
        (["--force", "--only", "plate"], "expected some of sparsefusion, eft"),
    ]:
        assert run_command("eval", [*words, *changes]) == 2
        assert line in capsys.readouterr().err
    orbit = ["dimvis", "--data", str(rendered), "--out", str(tmp_path / "o.json"), "--rows", "32"]
    assert run_command("eval", orbit) == 2
    assert "--rows: 32: is for --protocol fewview" in capsys.readouterr().err


def test_a_regressor_that_is_not_there_is_skipped(rendered: Path, tmp_path: Path) -> None:
    options = FewviewOptions(counts=(1,), num_scored=1, only=["pixelnerf", "copy_nearest"])
    report = evaluate_fewview(
        "sparsefusion", rendered, options=options, regressor=str(tmp_path), perceptual=False, size=SIZE
    )
    assert "no weights" in report["rows"]["pixelnerf"]["skipped"]
    assert report["method"] == "copy_nearest"


def test_wrong_answers_are_refused(tmp_path: Path) -> None:
    grey_set(tmp_path, {"cup": [0.5] * 16})
    short = Row(name="short", answer=lambda given, targets, seed: given.images[:1])
    with pytest.raises(InputError, match="short: answered"):
        evaluate_fewview(
            all_white,
            tmp_path,
            options=FewviewOptions(only=["pixelnerf"], counts=(1,)),
            regressor=short,
            size=32,
            perceptual=False,
        )
