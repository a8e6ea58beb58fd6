"""Whole runs on tiny scenes: known numbers, resuming, results made elsewhere, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_scenes import SIZE, StopAfter, grey_views

from manyview.bench.orbit4 import all_questions, read_orbit
from manyview.bench.predictors import all_white
from manyview.bench.run import evaluate
from manyview.bench.select import choose_guidance
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.scene import write_scene
from manyview.io.transforms import split_path, write_split
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.types import Views

QUICK = {"num_steps": 1, "perceptual": False, "batch_size": 28}


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run."""
    return {key: value for key, value in report.items() if "seconds" not in key and "memory" not in key}


def test_known_answers_on_grey_scenes(tmp_path: Path) -> None:
    # Each object has one grey level in all views: copy and mean are exact (counted as 100 dB), and white
    # differs by 1 - level everywhere: -20 log10(1 - level) dB.
    levels = {"dark": 51 / 255, "light": 204 / 255}
    for name, level in levels.items():
        write_scene(grey_views([level] * 16), tmp_path / name)
    report = evaluate(all_white, tmp_path, size=SIZE, one2one=None, **QUICK)
    white = [-20 * math.log10(1 - level) for level in levels.values()]
    assert report["method"] == "all_white"
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(sum(white) / 2, abs=1e-3)
    # Resampling two objects of equal weight can give nothing outside the two.
    low, high = report["metrics"]["psnr"]["ci95"]
    assert low == pytest.approx(min(white), abs=1e-3)
    assert high == pytest.approx(max(white), abs=1e-3)
    assert set(report["rows"]) == {"copy_nearest", "mean_of_references"}
    for row in report["rows"].values():
        assert row["metrics"]["psnr"]["mean"] == 100
        assert row["metrics"]["ssim_skimage"]["mean"] == pytest.approx(1)
    assert (report["scenes"], report["pairs"]) == (2, 2 * 4 * 28)
    assert {n: part["pairs"] for n, part in report["by_references"].items()} == {"1": 96, "2": 96, "3": 32}
    assert report["metrics"]["stlpips_vgg"] == {"skipped": "not asked for"}


def test_copy_on_two_levels(tmp_path: Path) -> None:
    # Slots 0 and 2 of every rig at 0.2, 1 and 3 at 0.6. One reference: of its three missing views one (the
    # opposite) is equal, two differ by 0.4: PSNR 100, 7.96, 7.96.
    levels = [0.2 if (k // 4) % 2 == 0 else 0.6 for k in range(16)]
    write_scene(grey_views(levels), tmp_path / "only")
    report = evaluate(all_white, tmp_path, size=SIZE, one2one=None, **QUICK)
    copy = report["rows"]["copy_nearest"]["by_references"]
    off = -20 * math.log10(0.4)
    assert copy["1"]["psnr"]["mean"] == pytest.approx((100 + 2 * off) / 3, abs=1e-3)
    # Three references: both neighbours of the missing view are of the other level.
    assert copy["3"]["psnr"]["mean"] == pytest.approx(off, abs=1e-3)
    # Their mean: two of the other level, one of its own.
    mean = report["rows"]["mean_of_references"]["by_references"]["3"]["psnr"]["mean"]
    assert mean == pytest.approx(-20 * math.log10(0.4 * 2 / 3), abs=1e-3)
    assert copy["1"]["psnr"]["ci95"] is None  # one object tells nothing about others


def test_report_of_a_method(dimvis: DimvisPipeline, one2one: One2OnePipeline, dataset: Path) -> None:
    report = evaluate(dimvis, dataset, one2one=one2one, num_samples=2, **QUICK)
    json.dumps(report, allow_nan=False)
    part = report["by_references"]
    assert [part[n]["guidance"] for n in "123"] == [3.0, 1.0, 1.0]
    assert part["1"]["psnr"] == part["1"]["guidance_3"]["psnr"] != part["1"]["guidance_1"]["psnr"]
    assert part["2"]["psnr"] == part["2"]["guidance_1"]["psnr"]
    # The mean of two differing answers is nearer to anything, on average, than the answers are.
    assert part["2"]["mean_of_2"]["psnr"]["mean"] > part["2"]["psnr"]["mean"]
    assert part["2"]["pixel_std"]["mean"] > 0
    assert set(report["rows"]) == {"copy_nearest", "mean_of_references", "all_white", "one2one"}
    assert {"guidance_1", "guidance_3"} <= set(report["rows"]["one2one"]["by_references"]["1"])
    assert len(report["weights"]["sha256"]) == 64
    # Neither the other scenes, nor the batches, nor the order of the rows enter an object's numbers.
    alone = evaluate(dimvis, dataset, scenes=["shoe"], baselines=False, guidance=1.0, **QUICK)
    other = evaluate(dimvis, dataset, baselines=False, guidance=1.0, **{**QUICK, "batch_size": 5})
    cup = evaluate(dimvis, dataset, limit=1, baselines=False, guidance=1.0, **QUICK)
    both = (alone["metrics"]["psnr"]["mean"] + cup["metrics"]["psnr"]["mean"]) / 2
    assert other["metrics"]["psnr"]["mean"] == pytest.approx(both, abs=1e-4)
    assert other["by_references"]["2"]["psnr"]["mean"] == pytest.approx(part["2"]["psnr"]["mean"], abs=1e-4)


def test_a_stopped_run_goes_on(dimvis: DimvisPipeline, dataset: Path, tmp_path: Path) -> None:
    options = {"baselines": False, "guidance": 1.0, **QUICK}
    whole = evaluate(dimvis, dataset, **options)
    out, partial = tmp_path / "new" / "metrics.json", tmp_path / "new" / "metrics.json.partial.jsonl"
    # A scene is 56 questions; stop within the second.
    with pytest.raises(KeyboardInterrupt):
        evaluate(dimvis, dataset, "orbit4", out, progress=StopAfter(57), **options)
    assert not out.exists()
    assert [json.loads(line)["scene"] for line in partial.read_text().splitlines()] == ["cup"]
    foreign = '{"key": "another run", "scene": "cup", "data": ""}'
    with partial.open("a") as stream:
        stream.write(foreign + '\n{"key": "cut o')
    resumed = evaluate(dimvis, dataset, "orbit4", out, **options)
    assert comparable(resumed) == comparable(whole)
    assert comparable(json.loads(out.read_text())) == json.loads(json.dumps(comparable(whole)))
    assert partial.read_text() == foreign + "\n"


def test_a_finished_scene_is_not_asked_again(
    dimvis: DimvisPipeline, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    complete = DimvisPipeline.complete

    def counting(self: DimvisPipeline, images: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        asked.append(len(images))
        return complete(self, images, *rest, **named)

    monkeypatch.setattr(DimvisPipeline, "complete", counting)
    options = {"baselines": False, "guidance": 1.0, **QUICK}
    out = tmp_path / "metrics.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(dimvis, dataset, "orbit4", out, progress=StopAfter(57), **options)
    asked.clear()
    evaluate(dimvis, dataset, "orbit4", out, **options)
    assert sum(asked) == 56
    # Other options find nothing to go on from.
    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(dimvis, dataset, "orbit4", out, progress=StopAfter(57), **options)
    asked.clear()
    evaluate(dimvis, dataset, "orbit4", out, seed=1, **options)
    assert sum(asked) == 2 * 56


def write_results(root: Path, dataset: Path, scene: str, questions: Sequence[int]) -> None:
    """True views as answers to some questions, in shuffled frames."""
    images, cameras = read_orbit(dataset / scene, SIZE), orbit(16, size=SIZE)
    for number in questions:
        question = all_questions()[number]
        order = list(reversed(question.azimuths))
        observed = [question.azimuths.index(place) in question.references for place in order]
        views = Views(images=images[order], cameras=cameras[order], observed=torch.tensor(observed))
        write_scene(views, root / scene / f"question_{number}")


def test_results_made_elsewhere(dataset: Path, tmp_path: Path) -> None:
    for scene in ("cup", "shoe"):
        write_results(tmp_path, dataset, scene, [0, 20, 55])
    report = evaluate(tmp_path, dataset, size=SIZE, one2one=None, perceptual=False)
    # The true views themselves: nothing better can be answered.
    assert report["metrics"]["psnr"]["mean"] == 100
    # Questions 0, 20 and 55 have 1, 2 and 3 references: 3 + 2 + 1 pairs an object, for the baselines too.
    assert report["pairs"] == 2 * 6
    assert report["rows"]["copy_nearest"]["by_references"]["2"]["pairs"] == 2 * 2
    assert report["method"] == "results"


def test_one_result_with_all_16_views(dataset: Path, tmp_path: Path) -> None:
    images = read_orbit(dataset / "cup", SIZE)
    observed = torch.zeros(16, dtype=torch.bool)
    observed[[2, 10]] = True
    write_scene(Views(images=images, cameras=orbit(16, size=SIZE), observed=observed), tmp_path / "cup")
    options = {"size": SIZE, "scenes": ["cup"], "one2one": None, "perceptual": False}
    assert evaluate(tmp_path, dataset, **options)["pairs"] == 2
    # References in two rigs are no question of the protocol.
    split_path(tmp_path / "cup", 2).unlink()
    write_split(split_path(tmp_path / "cup", 2), [2, 9], [10])
    with pytest.raises(InputError, match=r"references at azimuths 45\.0, 202\.5"):
        evaluate(tmp_path, dataset, **options)
    # A view that was asked for is not there.
    split_path(tmp_path / "cup", 2).unlink()
    write_split(split_path(tmp_path / "cup", 1), [2], [6, 10])
    with pytest.raises(InputError, match=r"one image at azimuth 315\.0, found 0"):
        evaluate(tmp_path, dataset, **options)


def test_guidance_is_the_best_on_the_given_objects(dimvis: DimvisPipeline, dataset: Path) -> None:
    chosen, report = choose_guidance(dimvis, dataset, (1.0, 2.0), num_steps=1, batch_size=28)
    for count, value in zip("123", chosen, strict=True):
        part = report["by_references"][count]
        scores = {g: part[f"guidance_{g:g}"]["psnr"]["mean"] for g in (1.0, 2.0)}
        assert scores[value] == max(scores.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "orbit5"}, "--protocol: orbit5: expected one of orbit4"),
        ({"solver": "euler"}, "--solver: euler: expected one of"),
        ({"num_steps": 0}, "--steps: 0: expected 1 to 1000"),
        ({"num_samples": 0}, "--samples: 0: expected at least 1"),
        ({"guidance": -1.0}, "--guidance: -1.0: expected a number"),
        ({"guidance": math.nan}, "--guidance: nan: expected a number"),
        ({"limit": 0}, "--limit: 0: expected at least 1"),
        ({"scenes": ["plate"]}, "scenes: plate: expected names of scenes"),
        ({"target": "no_such_thing"}, "TARGET: no_such_thing: expected a folder of results or one of dimvis"),
    ],
)
def test_bad_input_is_one_line(dataset: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(**{"target": all_white, "data": dataset, **options})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_output_is_checked_first(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    out.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        evaluate(all_white, dataset, "orbit4", out)
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="is a folder"):
        evaluate(all_white, dataset, "orbit4", tmp_path)
    with pytest.raises(InputError, match="expected an existing folder of scenes"):
        evaluate(all_white, tmp_path / "nowhere")
