"""The protocol orbit16: who is given what, known numbers, data that are refused, results made elsewhere."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from bench_scenes import SIZE, grey_views

from manyview.bench.orbit16 import Question, check_scene, deal_inputs, distance_deg, read_orbit16
from manyview.bench.orbit16_measure import bring_to
from manyview.bench.orbit16_options import Orbit16Options
from manyview.bench.orbit16_run import evaluate_orbit16
from manyview.bench.orbit16_scores import score_turning, seam_ratio
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras, spherical_angles
from manyview.io.glb import write_glb
from manyview.io.scene import write_scene
from manyview.types import Cameras, Views

BASELINES = Orbit16Options(only=["copy_input", "mean_of_truth"])
STEPS = [51 / 255 + 8 / 255 * place for place in range(16)]
"""Grey levels that a file keeps exactly: one step from place to place, 15 back at the end."""


def grey_set(root: Path, levels: dict[str, list[float]]) -> Path:
    for name, level in levels.items():
        write_scene(grey_views(level), root / name)
    return root


def all_white(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
    return torch.ones(len(targets), 3, *given.size)


def shown(levels: list[float]) -> torch.Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, SIZE, SIZE)


def test_inputs_are_decided_by_names_alone() -> None:
    dealt = deal_inputs("cup", 5)
    assert len(set(dealt)) == 5
    assert deal_inputs("cup", 2) == dealt[:2]
    assert deal_inputs("shoe", 5) != dealt
    assert deal_inputs("cup", 5, seed=1) != dealt
    # Every place has its turn: of 128 scenes each place is given 8 times on average; that one is never given
    # has a probability of 16 (15 / 16)^128 = 0.4 percent.
    assert {deal_inputs(str(number))[0] for number in range(128)} == set(range(16))
    assert Question("cup", 14).order[:4] == [14, 15, 0, 1]
    assert [distance_deg(view) for view in (1, 8, 15)] == [22.5, 180.0, 22.5]


def test_questions_go_round_from_the_input(tmp_path: Path) -> None:
    """A scene at elevation 10 whose frames are in another order, from azimuth 40 on: the answers are asked
    for counter-clockwise from the input, which is at the place dealt, at the elevation of its camera."""
    turned = sphere_cameras(40 + torch.arange(16) * 22.5, 10.0, size=SIZE)
    shuffle = torch.randperm(16, generator=torch.Generator().manual_seed(3)).tolist()
    views = Views(images=shown(STEPS), cameras=turned)
    write_scene(views[shuffle], tmp_path / "cup")
    orbit_of = check_scene(tmp_path / "cup")
    first = shuffle[0]
    assert spherical_angles(orbit_of.centers)[0][0] == pytest.approx((40 + 22.5 * first) % 360, abs=1e-3)
    asked = []

    def answer(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        assert given.cameras is not None
        azimuth, elevation, _ = spherical_angles(given.cameras.centers)
        place = round(float(azimuth - 40) / 22.5) % 16  # of the levels
        assert float(given.images.mean()) == pytest.approx(STEPS[place], abs=1e-3)
        assert float(elevation) == pytest.approx(10, abs=1e-3)
        away = (spherical_angles(targets.centers)[0] - azimuth) % 360
        assert away.tolist() == pytest.approx([22.5 * k for k in range(1, 16)], abs=1e-3)
        asked.append(place)
        return shown([STEPS[(place + k) % 16] for k in range(1, 16)])

    options = replace(BASELINES, num_inputs=3)
    report = evaluate_orbit16(answer, tmp_path, options=options, size=SIZE, perceptual=False)
    assert report["metrics"]["psnr"]["mean"] == 100  # equal views count as 100 dB
    assert report["metrics"]["neighbour_mae"]["mean"] == 0
    dealt = deal_inputs("cup", 3)
    assert report["inputs"] == {"cup": list(dealt)}
    assert asked == [(place + first) % 16 for place in dealt]
    assert report["pairs"] == 3 * 15


def test_data_that_are_no_orbits_are_refused(tmp_path: Path) -> None:
    good = grey_views([0.5] * 16)
    cameras = good.cameras
    assert cameras is not None
    azimuth = torch.arange(16) * 22.5
    level = torch.full((16,), 30.0)
    bent, near = level.clone(), torch.full((16,), 1.5)
    bent[3], near[5] = 34, 1.6
    aside = cameras.world_from_cam.clone()
    aside[:, :3, :3] = aside[:, :3, :3] @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # on their side
    wrong = {
        "few": (good[list(range(15))], "15 views, orbit16 needs 16"),
        "bent": (replace(good, cameras=sphere_cameras(azimuth, bent, size=SIZE)), "needs one for all"),
        "uneven": (replace(good, cameras=sphere_cameras(azimuth**1.01, level, size=SIZE)), "azimuths"),
        "near": (replace(good, cameras=sphere_cameras(azimuth, level, near, size=SIZE)), "distances 1.5"),
        "aside": (replace(good, cameras=replace(cameras, world_from_cam=aside)), "turned by up to 90"),
    }
    for name, (views, line) in wrong.items():
        write_scene(views, tmp_path / name / "cup")
        with pytest.raises(InputError, match=line):
            evaluate_orbit16(all_white, tmp_path / name, options=BASELINES)
    (tmp_path / "plain" / "cup" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="has no cameras"):
        evaluate_orbit16(all_white, tmp_path / "plain", options=BASELINES)


def test_known_answers_on_grey_scenes(tmp_path: Path) -> None:
    """Each object has one grey level g in all views: copy and mean are exact (counted as 100 dB); white is
    off by 1 - g everywhere, -20 log10(1 - g) dB. Its orbit changes by 1 - g from the input to the next view
    and over the seam, nowhere else: neighbour_mae is 2 (1 - g) / 16, the seam 15 times the others' mean."""
    levels = {"dark": 51 / 255, "light": 204 / 255}
    grey_set(tmp_path, {name: [level] * 16 for name, level in levels.items()})
    report = evaluate_orbit16(all_white, tmp_path, options=BASELINES, size=SIZE, perceptual=False)
    json.dumps(report, allow_nan=False)
    white = [-20 * math.log10(1 - level) for level in levels.values()]
    found = report["metrics"]
    assert (report["method"], report["scenes"], report["pairs"]) == ("all_white", 2, 30)
    assert found["psnr"]["mean"] == pytest.approx(sum(white) / 2, abs=1e-3)
    assert found["neighbour_mae"]["mean"] == pytest.approx((0.8 + 0.2) / 2 * 2 / 16, abs=1e-6)
    assert found["seam_ratio"]["mean"] == pytest.approx(15, abs=1e-3)
    assert found["seam_to_first"]["mean"] == pytest.approx(1, abs=1e-6)
    still = {"skipped": "nothing changes from view to view"}
    assert found["neighbour_ratio"] == still  # the true views do not change
    assert report["truth"]["seam_ratio"] == still
    assert list(report["rows"]) == ["copy_input", "mean_of_truth"]
    for row in report["rows"].values():
        assert row["metrics"]["psnr"]["mean"] == 100
        assert row["metrics"]["neighbour_mae"]["mean"] == pytest.approx(0, abs=1e-7)
        assert row["metrics"]["seam_ratio"] == still
        less = row["difference"]["psnr"]
        assert less["mean"] == pytest.approx(sum(white) / 2 - 100, abs=1e-3)
        assert less["ci95"] == pytest.approx([min(white) - 100, max(white) - 100], abs=1e-3)
        assert row["difference"]["neighbour_mae"]["mean"] == pytest.approx(1 / 16, abs=1e-6)
        assert row["seconds_an_answer"]["mean"] >= 0


def test_a_shifted_orbit(tmp_path: Path) -> None:
    """An orbit that is right but one place on. Places differ by a step s = 8/255, the last from the first by
    15 s. So of the views all are off by s but the one that shows place 0 instead of place 15, which is off by
    15 s and, as the input stands at place p, is view 15 - p; for p = 15 it is the input, which is not scored.
    Changes are off where the made ones wrap (place 14 to 15 instead of 15 to 0, and the other way round: 16 s
    each) and where the shift begins and ends (beside the input: s each; the joints add up if they meet)."""
    step = 8 / 255
    grey_set(tmp_path, {"cup": STEPS})

    def shifted(given: Views, targets: Cameras, seed: int) -> torch.Tensor:
        place = round((float(given.images.mean()) - STEPS[0]) / step)
        return shown([STEPS[(place + k + 1) % 16] for k in range(1, 16)])

    options = replace(BASELINES, num_inputs=16)
    report = evaluate_orbit16(shifted, tmp_path, options=options, size=SIZE, perceptual=False)
    one, far = -20 * math.log10(step), -20 * math.log10(15 * step)
    # Of 16 inputs 15 have one view that is far off.
    expected = (16 * 15 * one + 15 * (far - one)) / 240
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(expected, abs=1e-3)
    by_distance = {key: part["psnr"]["mean"] for key, part in report["by_distance"].items()}
    assert list(by_distance) == ["22.5", "45", "67.5", "90", "112.5", "135", "157.5", "180"]
    # Views 1 and 15 of all 16 inputs: of 32, view 1 is far off for p = 14 and view 15 for p = 0.
    assert by_distance["22.5"] == pytest.approx((30 * one + 2 * far) / 32, abs=1e-3)
    assert by_distance["180"] == pytest.approx((15 * one + far) / 16, abs=1e-3)
    assert report["by_distance"]["180"]["pairs"] == 16
    assert report["by_distance"]["45"]["pairs"] == 32
    # Written out: changes from place to place as numbers, off by how much, for all inputs.
    off = 0.0
    for place in range(16):
        true = [STEPS[(place + k) % 16] for k in range(16)]
        made = true[:1] + [STEPS[(place + k + 1) % 16] for k in range(1, 16)]
        for k in range(16):
            after = (k + 1) % 16
            off += abs((made[after] - made[k]) - (true[after] - true[k]))
    assert report["metrics"]["neighbour_mae"]["mean"] == pytest.approx(off / 256, abs=1e-6)
    copied = report["rows"]["copy_input"]["metrics"]
    # A still picture: the mean true change, 15 of one step and one of 15.
    assert copied["neighbour_mae"]["mean"] == pytest.approx(30 * step / 16, abs=1e-6)
    assert copied["neighbour_ratio"]["mean"] == 0
    assert "skipped" in copied["seam_ratio"]
    # The seam joins place p - 1 to p: a step, one of 15 for p = 0; the others are the rest of 30 steps.
    seams = [1 / (29 / 15)] * 15 + [15 / (15 / 15)]
    assert report["truth"]["seam_ratio"]["mean"] == pytest.approx(sum(seams) / 16, abs=1e-3)
    mean = report["rows"]["mean_of_truth"]["metrics"]["psnr"]["mean"]
    middle = sum(STEPS) / 16
    levels = [-20 * math.log10(abs(level - middle)) for level in STEPS]
    assert mean == pytest.approx(sum(levels) / 16, abs=1e-3)  # each view is scored 15 times


def test_the_seam() -> None:
    """Changes 1, 1, ..., 1 and 3 over the seam: three times the others. And of images: levels that rise by a
    step 15 times and fall back by 15 have a seam 15 times the others."""
    assert seam_ratio(torch.tensor([1.0] * 15 + [3.0])) == 3
    assert seam_ratio(torch.tensor([0.0] * 15 + [3.0])) is None
    true = shown(STEPS)
    turning = score_turning(true, true)
    assert turning["seam_ratio"] == pytest.approx(15, abs=1e-3)
    assert turning["seam_to_first"] == pytest.approx(15, abs=1e-3)
    assert turning["neighbour_ratio"] == 1
    assert turning["neighbour_mae"] == [0] * 16
    # Twice the contrast: twice the changes, off by as much as the true ones are large.
    double = score_turning(2 * true, true)
    assert double["neighbour_ratio"] == pytest.approx(2, abs=1e-5)
    assert double["neighbour_mae"] == pytest.approx([8 / 255] * 15 + [120 / 255], abs=1e-5)


def test_sizes(tmp_path: Path) -> None:
    """Truth and larger answers are averaged by area, smaller ones enlarged bicubically: a point a quarter of
    the way from one pixel to the next weighs the four around it by Keys' kernel (a = -3/4, as torch's)."""
    grey_set(tmp_path, {"cup": STEPS})
    orbit16 = read_orbit16(tmp_path / "cup", 8, 16)
    assert orbit16.views.size == (16, 16)
    assert orbit16.truth.shape == (16, 3, 8, 8)
    assert orbit16.truth[:, 0, 0, 0].tolist() == pytest.approx(STEPS, abs=1e-6)
    slope = torch.linspace(0.2, 0.8, 8).expand(2, 15, 3, 8, 8)
    larger = bring_to(slope, 16)
    assert larger.shape == (2, 15, 3, 16, 16)
    near = lambda x: 1.25 * x**3 - 2.25 * x**2 + 1  # noqa: E731
    far = lambda x: -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    weights = torch.tensor([far(1.25), near(0.25), near(0.75), far(1.75)])
    # Pixel 7 of 16 is a quarter after pixel 3 of 8: (7 + 0.5) / 2 - 0.5 = 3.25.
    expected = float((weights * slope[0, 0, 0, 0, 2:6]).sum())
    assert float(larger[0, 0, 0, 0, 7]) == pytest.approx(expected, abs=1e-6)
    assert bring_to(slope, 4)[0, 0, 0, 0].tolist() == pytest.approx(
        slope[0, 0, 0, 0].view(4, 2).mean(1).tolist()
    )
    wrong = [torch.ones(14, 3, SIZE, SIZE), torch.ones(2, 15, 3, SIZE, SIZE), torch.ones(15, 3, SIZE, 8)]
    for images in wrong:
        with pytest.raises(InputError, match="answered"):
            evaluate_orbit16(
                lambda given, targets, seed, images=images: images, tmp_path, options=BASELINES, size=SIZE
            )


def write_result(folder: Path, images: torch.Tensor, distance: float = 1.5) -> None:
    """As `manyview synth` leaves it: the input at azimuth 0 of a world of its own."""
    observed = torch.arange(16) == 0
    cameras = orbit(16, 30.0, distance, size=images.shape[-1])
    write_scene(Views(images=images, cameras=cameras, observed=observed), folder)


def test_results_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true views as answers, in a world turned to the input and twice as large: exact, and so is the mesh
    that was turned and scaled with it."""
    for module in ("orbit16_measure", "orbit16_summary"):  # the others take seconds
        monkeypatch.setattr(f"manyview.bench.{module}.PER_MESH", ("volume_iou_64",))
    data = grey_set(tmp_path / "data", {"cup": STEPS})
    box = trimesh.creation.box((0.3, 0.6, 1.0))
    box.apply_translation((0.1, 0, 0))
    write_glb(data / "cup" / "mesh.glb", box)
    dealt = deal_inputs("cup", 3)
    for place in dealt[:2]:
        images = shown(STEPS).roll(-place, dims=0)
        folder = tmp_path / "results" / "cup" / f"from_{place}"
        write_result(folder, images, 3.0)
        if place != dealt[0]:
            continue
        moved = box.copy()
        moved.apply_transform(trimesh.transformations.rotation_matrix(-math.radians(22.5 * place), (0, 0, 1)))
        moved.apply_scale(2)
        write_glb(folder / "mesh.glb", moved)
    options = replace(BASELINES, only=["copy_input"], num_inputs=3)
    report = evaluate_orbit16(tmp_path / "results", data, options=options, size=SIZE, perceptual=False)
    assert report["method"] == "results"
    assert report["inputs"] == {"cup": list(dealt[:2])}  # the third was not answered
    assert report["metrics"]["psnr"]["mean"] == 100
    assert report["metrics"]["volume_iou_64"]["mean"] > 0.9  # turned by a step it is below 0.8
    assert report["meshes"] == 1
    assert report["pairs"] == 30
    assert "volume_iou_64" not in report["rows"]["copy_input"]["metrics"]
    # What the protocol did not deal, twice the same, a view less, and two inputs.
    other = next(place for place in range(16) if min(abs(place - one) for one in dealt) > 1)
    write_result(tmp_path / "other" / "cup", shown(STEPS).roll(-other, dims=0))
    with pytest.raises(InputError, match="its input is not the true view at place"):
        evaluate_orbit16(tmp_path / "other", data, options=options)
    for name in "ab":
        write_result(tmp_path / "twice" / "cup" / name, shown(STEPS).roll(-dealt[0], dims=0))
    with pytest.raises(InputError, match="a second time"):
        evaluate_orbit16(tmp_path / "twice", data, options=options)
    write_result(tmp_path / "less" / "cup", shown(STEPS).roll(-dealt[0], dims=0))
    (tmp_path / "less" / "cup" / "images" / "004.png").unlink()
    with pytest.raises(InputError, match="one image 90 degrees from its input, found 0"):
        evaluate_orbit16(tmp_path / "less", data, options=options)
    views = replace(grey_views(STEPS), observed=torch.arange(16) < 2)
    write_scene(views, tmp_path / "two" / "cup")
    with pytest.raises(InputError, match="2 train frames, expected the input alone"):
        evaluate_orbit16(tmp_path / "two", data, options=options)
    with pytest.raises(InputError, match="holds no result of the scene cup"):
        evaluate_orbit16(tmp_path, data, options=options)
