"""The protocol pair: who is asked for what, known numbers, captures, results made elsewhere, going on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_scenes import SIZE, StopAfter, grey_views
from PIL import Image

from manyview.bench.orbit16 import deal_inputs
from manyview.bench.pair import distances_deg, find_scenes
from manyview.bench.pair_features import pack, unpack
from manyview.bench.pair_options import PairOptions, parse_variants
from manyview.bench.pair_run import evaluate_pair
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit, sphere_cameras, spherical_angles
from manyview.io.colmap import write_colmap
from manyview.io.frames import FrameTable
from manyview.io.scene import write_scene
from manyview.metrics.spectrum import high_frequency_power
from manyview.types import Cameras, Views

COPY = PairOptions(only=["copy_input"], features=())
STEPS = [51 / 255 + 8 / 255 * place for place in range(16)]


def all_white(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
    return torch.ones(len(targets), 3, *given.size)


def run(target: Any, data: Path, options: PairOptions = COPY, **more: Any) -> dict[str, Any]:
    return evaluate_pair(target, data, options=options, **{"size": SIZE, "perceptual": False, **more})


def test_known_answers_on_grey_orbits(tmp_path: Path) -> None:
    """Of an object of one grey g white is off by 1 - g, the copy by nothing (which counts as 100 dB)."""
    levels = {"dark": 51 / 255, "light": 204 / 255}
    for name, level in levels.items():
        write_scene(grey_views([level] * 16), tmp_path / name)
    report = run(all_white, tmp_path)
    json.dumps(report, allow_nan=False)
    white = [-20 * math.log10(1 - level) for level in levels.values()]
    assert (report["method"], report["scenes"], report["pairs"]) == ("all_white", 2, 30)
    assert report["pairing"] == {"orbit": 2, "ordered": 0}
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(sum(white) / 2, abs=1e-3)
    assert report["metrics"]["hf_power_025"]["mean"] == pytest.approx(0, abs=1e-12)
    copy = report["rows"]["copy_input"]
    assert copy["metrics"]["psnr"]["mean"] == 100
    assert copy["difference"]["psnr"]["mean"] == pytest.approx(sum(white) / 2 - 100, abs=1e-3)
    assert list(report["by_distance"]) == ["22.5", "45", "67.5", "90", "112.5", "135", "157.5", "180"]
    assert [part["pairs"] for part in report["by_distance"].values()] == [4] * 7 + [2]


def test_targets_are_asked_for_by_their_distance(tmp_path: Path) -> None:
    """A scene whose frames stand in another order: every view of it is told by its grey."""
    turned = sphere_cameras(40 + torch.arange(16) * 22.5, 10.0, size=SIZE)
    shuffle = torch.randperm(16, generator=torch.Generator().manual_seed(3)).tolist()
    images = torch.tensor(STEPS)[:, None, None, None].expand(-1, 3, SIZE, SIZE)
    write_scene(Views(images=images, cameras=turned)[shuffle], tmp_path / "cup")
    asked = []

    def answer(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        assert given.cameras is not None
        assert len(given) == 1
        azimuth, _, _ = spherical_angles(given.cameras.centers)
        place = round(float(azimuth - 40) / 22.5) % 16
        assert float(given.images.mean()) == pytest.approx(STEPS[place], abs=1e-3)
        away = (spherical_angles(targets.centers)[0] - azimuth) % 360
        assert away.tolist() == pytest.approx([22.5 * k for k in range(1, 16)], abs=1e-3)
        asked.append(place)
        near = [STEPS[(place + k) % 16] + 0.1 * (k in (1, 15)) for k in range(1, 16)]
        return torch.tensor(near)[:, None, None, None].expand(-1, 3, SIZE, SIZE)

    report = run(answer, tmp_path, replace(COPY, num_inputs=2))
    first = shuffle[0]
    assert asked == [(place + first) % 16 for place in deal_inputs("cup", 2)]
    psnr = {angle: part["psnr"]["mean"] for angle, part in report["by_distance"].items()}
    assert psnr["22.5"] == pytest.approx(20, abs=1e-3)  # off by 0.1
    assert all(psnr[angle] == 100 for angle in list(psnr)[1:])
    assert report["questions"]["cup"].keys() == {str(shuffle.index(place)) for place in asked}


def write_capture(folder: Path, cameras: Cameras) -> None:
    """COLMAP's layout in a world of another place, size and orientation; frame k has the grey 4 k."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    world = Similarity(7.0, turn * torch.linalg.det(turn).sign(), torch.tensor([3.0, -2, 5]).double())
    moved = world.apply_to_cameras(cameras.to(torch.float64))
    files = tuple(f"{number + 1:03d}.png" for number in range(len(cameras)))
    write_colmap(folder / "sparse" / "0", FrameTable(files=files, cameras=moved))
    (folder / "images").mkdir()
    for number, file in enumerate(files):
        pixels = np.full((SIZE, SIZE, 3), 4 * number, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / file)


def arc(count: int) -> Cameras:
    """Cameras 5 degrees apart that look at the origin."""
    return sphere_cameras(torch.arange(count) * 5.0, 20.0, size=SIZE)


def test_ordered_captures_are_paired_as_the_paper_does(tmp_path: Path) -> None:
    for name, count in (("3/a", 30), ("3/b", 12), ("4/c", 6)):
        write_capture(tmp_path / name, arc(count))
    asked: list[tuple[int, float]] = []

    def answer(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        assert given.cameras is not None
        away = torch.linalg.vector_norm(torch.cat([given.cameras.centers, targets.centers]), dim=1)
        # The world's origin is what the cameras look at, 1.5 away.
        assert away.tolist() == pytest.approx([1.5] * len(away), abs=1e-3)
        between = torch.rad2deg(
            torch.arccos((targets.centers @ given.cameras.centers[0]).clamp(-2.25, 2.25) / 2.25)
        )
        reference = round(float(given.images.mean()) * 255 / 4)
        asked.extend((reference, float(angle)) for angle in between)
        return torch.zeros(len(targets), 3, *given.size)

    report = run(answer, tmp_path)
    assert report["pairing"] == {"orbit": 0, "ordered": 2}
    assert report["too_short"] == ["4/c"]
    questions = report["questions"]["3/a"]
    assert sorted(map(int, questions)) == list(range(10))
    targets = [target for found in questions.values() for target in found]
    assert len(set(targets)) == 10
    assert set(targets) <= set(range(14, 25))
    assert all(
        int(r) < 6 <= t and t - int(r) >= 5 for r, found in report["questions"]["3/b"].items() for t in found
    )
    assert report["pairs"] == 10 + sum(len(found) for found in report["questions"]["3/b"].values())
    assert {float(angle) % 22.5 for angle in report["by_distance"]} == {0}
    # A target's black answer to its grey 4 k of 255, mean over what was asked.
    levels = [
        -20 * math.log10(4 * target / 255)
        for found in report["questions"].values()
        for targets in found.values()
        for target in targets
    ]
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(sum(levels) / len(levels), abs=1e-3)

    # On a circle at elevation 20 an azimuth of 5 n degrees is this far as an angle, in the files' world.
    def angle(apart: int) -> float:
        half = math.radians(2.5 * apart)
        return math.degrees(2 * math.asin(math.cos(math.radians(20)) * math.sin(half)))

    dealt = [(int(r), t) for found in report["questions"].values() for r, ts in found.items() for t in ts]
    assert [a for _, a in asked] == pytest.approx([angle(t - r) for r, t in dealt], abs=0.1)
    assert [r for r, _ in asked] == [r for r, _ in dealt]
    other = run(answer, tmp_path, replace(COPY, seed=1))
    assert other["questions"] != report["questions"]
    part = run(answer, tmp_path, replace(COPY, split="1-of-99"))
    assert part["scene_names"] == ["3/a"]
    with pytest.raises(InputError, match="no orbits of 16"):
        run(answer, tmp_path, replace(COPY, pairing="orbit"))


def test_distances_are_angles_about_what_is_looked_at() -> None:
    cameras = sphere_cameras(torch.tensor([0.0, 90, 180]), 0.0, size=SIZE)
    moved = Similarity(2.0, torch.eye(3), torch.tensor([1.0, 2, 3])).apply_to_cameras(cameras)
    assert distances_deg(moved, 0).tolist() == pytest.approx([0, 90, 180], abs=0.1)


def test_what_does_not_suit_is_refused(tmp_path: Path) -> None:
    views = grey_views([0.5] * 16)
    write_scene(views[list(range(9))], tmp_path / "few" / "cup")
    with pytest.raises(InputError, match="fewer than 10 frames"):
        run(all_white, tmp_path / "few")
    with pytest.raises(InputError, match="9 views"):
        run(all_white, tmp_path / "few", replace(COPY, pairing="orbit"))
    write_scene(views, tmp_path / "set" / "cup")
    for changes, flag in (
        ({"pairing": "both"}, "--pairing"),
        ({"num_inputs": 0}, "--inputs"),
        ({"only": ["nobody"]}, "--only"),
        ({"features": ["inception"]}, "--features"),
        ({"variants": {"half": tmp_path}}, "--variants"),
        ({"variants": {"concat": tmp_path / "nowhere"}}, "--variants"),
        ({"num_steps": 0}, "--steps"),
        ({"perceptual_size": 4}, "--perceptual-size"),
        ({"split": "half"}, "--split"),
    ):
        with pytest.raises(InputError, match=flag):
            run(all_white, tmp_path / "set", replace(COPY, **changes))
    with pytest.raises(InputError, match="scenes"):
        run(all_white, tmp_path / "set", scenes=["shoe"])
    assert parse_variants(["concat=a/b"]) == {"concat": Path("a/b")}
    for words in (["concat"], ["concat="], ["concat=a", "concat=b"]):
        with pytest.raises(InputError, match="--variants"):
            parse_variants(words)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.1 + 0.03 * k for k in range(16)], number), tmp_path / "set" / name)
    results = tmp_path / "results"
    scenes, _ = find_scenes(tmp_path / "set", COPY)
    for scene in scenes:
        (question,) = scene.questions
        views = scene.read(SIZE)
        observed = torch.zeros(16, dtype=torch.bool)
        observed[question.reference] = True
        write_scene(replace(views, observed=observed), results / scene.name)
    out = tmp_path / "out.json"
    more: dict[str, Any] = {"perceptual": False, "options": COPY, "size": SIZE}
    with pytest.raises(KeyboardInterrupt):
        evaluate_pair(results, tmp_path / "set", out, progress=StopAfter(3), **more)
    assert not out.exists()
    lines = out.with_name("out.json.partial.jsonl").read_text().splitlines()
    assert [json.loads(line)["scene"].split("/")[0] for line in lines] == ["cup"]
    report = evaluate_pair(results, tmp_path / "set", out, **more)
    assert report["metrics"]["psnr"]["mean"] == 100  # the results are the true views
    assert report["method"] == "results"
    fresh = evaluate_pair(results, tmp_path / "set", **more)
    assert report["rows"]["copy_input"]["metrics"] == fresh["rows"]["copy_input"]["metrics"]
    assert json.loads(out.read_text())["metrics"] == report["metrics"]
    with pytest.raises(InputError, match="already exists"):
        evaluate_pair(results, tmp_path / "set", out, **more)


def test_results_that_do_not_fit(tmp_path: Path) -> None:
    write_scene(grey_views([0.5] * 16), tmp_path / "set" / "cup")
    (scene,), _ = find_scenes(tmp_path / "set", COPY)
    (question,) = scene.questions
    views, observed = scene.read(SIZE), torch.zeros(16, dtype=torch.bool)
    observed[question.targets[0]] = True
    write_scene(replace(views, observed=observed), tmp_path / "other" / "cup")
    with pytest.raises(InputError, match=f"expected {question.reference}"):
        run(tmp_path / "other", tmp_path / "set")
    few = views[[question.reference, *question.targets[1:]]]
    given = torch.zeros(15, dtype=torch.bool)
    given[0] = True
    write_scene(replace(few, observed=given), tmp_path / "lacking" / "cup")
    with pytest.raises(InputError, match="found 0"):
        run(tmp_path / "lacking", tmp_path / "set")
    with pytest.raises(InputError, match="holds no result"):
        run(tmp_path, tmp_path / "set")


def test_fine_detail_and_sets_of_pictures(tmp_path: Path) -> None:
    """Noise in the truth, grey in the answers: their power of fine detail, the spectrum, and features that
    are far away. The truth itself is at no distance."""
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.4] * 16, number), tmp_path / name)
    scenes, _ = find_scenes(tmp_path, COPY)
    truth = {one.name: one.read(SIZE).images for one in scenes}
    options = replace(COPY, features=["compact_encoder"])

    def flat(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        return torch.full((len(targets), 3, *given.size), 0.55)

    report = run(flat, tmp_path, options)
    powers = [
        high_frequency_power(truth[scene.name][list(one.targets)])
        for scene in scenes
        for one in scene.questions
    ]
    expected = float(torch.cat(powers).mean())
    assert report["truth"]["hf_power_025"]["mean"] == pytest.approx(expected, rel=1e-5)
    assert report["metrics"]["hf_power_025"]["mean"] == pytest.approx(0, abs=1e-12)
    assert len(report["spectrum"]) == len(report["truth"]["spectrum"]) == SIZE // 2
    assert max(report["spectrum"]) < 1e-12 < min(report["truth"]["spectrum"])
    assert report["metrics"]["frechet_compact_encoder"]["mean"] > 0.01
    assert report["metrics"]["kid_compact_encoder"]["ci95"] is None
    assert set(report["features"]) == {"compact_encoder"}
    copies = report["rows"]["copy_input"]["metrics"]
    assert copies["frechet_compact_encoder"]["mean"] < report["metrics"]["frechet_compact_encoder"]["mean"]


def test_features_as_text() -> None:
    features = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unpack(pack(features), 5), features, atol=2e-3, rtol=1e-3)


def test_answers_of_any_size_and_their_number(tmp_path: Path) -> None:
    write_scene(grey_views([51 / 255] * 16), tmp_path / "cup")

    def large(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        return torch.full((len(targets), 3, 3 * SIZE, 3 * SIZE), 51 / 255)

    assert run(large, tmp_path)["metrics"]["psnr"]["mean"] > 80

    def few(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        return torch.zeros(3, 3, SIZE, SIZE)

    with pytest.raises(InputError, match="answered"):
        run(few, tmp_path)


def test_orbits_that_are_none_are_captures(tmp_path: Path) -> None:
    uneven = sphere_cameras(torch.arange(16) * 10.0, 30.0, size=SIZE)
    write_scene(replace(grey_views([0.5] * 16), cameras=uneven), tmp_path / "cup")
    assert run(all_white, tmp_path)["pairing"] == {"orbit": 0, "ordered": 1}
    assert len(orbit(16)) == 16
    with pytest.raises(InputError, match="azimuths"):
        run(all_white, tmp_path, replace(COPY, pairing="orbit"))
