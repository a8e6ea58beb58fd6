"""The scripts behind Hi3D's tables, on toy weights: the page, and the choice that weights record."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from bench_scenes import grey_views
from orbit16_weights import tiny_pipeline, write_bundle_of

from manyview.io.images import read_image
from manyview.io.scene import read_scene, write_scene

ROOT = Path(__file__).parents[2]


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hi3d_" + Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for weights and data that both scripts take."""
    root = tmp_path_factory.mktemp("table")
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.1 + 0.03 * k for k in range(16)], number), root / "set" / name)
    weights = write_bundle_of(tiny_pipeline(), root / "weights")
    return ["--data", str(root / "set"), "--weights", str(weights), "--device", "cpu"]


def test_table(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("papers/hi3d/table.py")
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nText.\n")
    own = [*words, "--one2one", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]
    own += ["--only", "coarse_bicubic", "no_depth", "one2one", "copy_input", "mean_of_truth"]
    own += ["--samples", "2", "--no-perceptual"]
    own += ["--results", str(tmp_path / "results"), "--page", str(page)]
    assert script.main(own) == 0
    text = page.read_text()
    assert text.startswith("# Page\n\nText.\n\n## Measured\n\n" + script.BEGIN)
    report = json.loads((tmp_path / "results" / "hi3d_orbit16.json").read_text())
    assert report["method"] == "coarse_bicubic"  # the toy weights have no refiner
    label = script.LABELS["coarse_bicubic"]
    assert f"| **{label}** | **{report['metrics']['psnr']['mean']:.2f} [" in text
    assert f"| {label}: mean of 2 samples | {report['mean_of_2']['psnr']['mean']:.2f} [" in text
    gain = report["rows"]["copy_input"]["difference"]["psnr"]["mean"]
    assert f"| {gain:.2f} [" in text
    assert "| paper: hi3d | 24.26 | 0.864 | 0.119 | - | - | - |  |  |" in text
    far = report["by_distance"]["180"]
    assert f"| {far['psnr']['mean']:.2f} |\n" in text
    assert f"| {far['pixel_std']['mean']:.3f} |\n" in text
    assert "- no_depth: skipped, its weights have no refiner." in text
    assert "- one2one: skipped, no weights" in text
    assert (
        f"- PSNR of a single sample: {report['metrics']['psnr']['mean']:.2f} dB; 19.5 dB not reached." in text
    )
    assert str(tmp_path) not in text  # no folder of this machine
    assert (tmp_path / "results" / "hi3d_orbit16.md").read_text().startswith("# Hi3D under the protocol")
    assert script.main(own) == 2, "finished results are replaced with --force only"
    # Again, from the answers that were kept: the same page, but for the time it took.
    assert script.main([*own, "--force"]) == 0
    assert page.read_text().count(script.BEGIN) == 1
    again = json.loads((tmp_path / "results" / "hi3d_orbit16.json").read_text())
    assert again["by_distance"] == report["by_distance"]
    # A table beside it has its own place and files, and leaves the other alone.
    assert script.main([*own, "--beside", "meshes", "--limit", "1"]) == 0
    both = page.read_text()
    assert both.count(script.BEGIN) == 1
    first, second = both.split("## Measured")[1:]
    assert "2 objects of" in first
    assert "1 objects of" in second
    assert "19.5 dB not reached" in first
    assert "19.5 dB" not in second
    assert (tmp_path / "results" / "hi3d_orbit16_meshes.json").is_file()
    assert json.loads((tmp_path / "results" / "hi3d_orbit16.json").read_text()) == again
    assert script.main([*own, "--beside", "a/b"]) == 2
    assert "expected letters, digits and underscores" in capsys.readouterr().err
    page.write_text(script.END + script.BEGIN)
    assert script.main([*own, "--force"]) == 2
    assert "expected one place for the table" in capsys.readouterr().err


def estimate(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high]}


def test_claims_follow_the_numbers() -> None:
    script = load_script("papers/hi3d/table.py")

    def row(metric: str, *numbers: float) -> dict[str, Any]:
        return {"metrics": {}, "difference": {metric: estimate(*numbers)}}

    report = {
        "method": "hi3d",
        "metrics": {
            "psnr": estimate(19.6, 19, 20),
            "seam_ratio": estimate(1.2, 1.1, 1.3),
            "seam_to_first": estimate(1.0, 0.9, 1.1),
        },
        "mean_of_8": {"psnr": estimate(20.4, 20, 21)},
        "truth": {"seam_ratio": estimate(1.0, 0.9, 1.1)},
        "no_depth_less_coarse": {"psnr": estimate(0.2, -0.1, 0.5)},
        "rows": {
            "coarse_bicubic": row("psnr", 1, 0.5, 1.5),
            "no_depth": row("psnr", 0.2, -0.1, 0.5),
            "copy_input": row("neighbour_mae", -0.03, -0.05, -0.01),
            "one2one": {"skipped": "x"},
            "mesh_0": row("chamfer_mean", -0.002, -0.003, -0.001),
            "mesh_16": {"metrics": {}},
            "mesh_32": row("volume_iou_64", -0.02, -0.03, -0.01),
        },
    }
    assert script.claims(report) == [
        "- psnr: Hi3D is ahead of without refinement, enlarged bicubically; not told apart from refined"
        " without depth.",
        # Of an error less is better: Hi3D's is smaller.
        "- neighbour_mae: Hi3D is ahead of copy of the input.",
        "- psnr: refined without depth is not told apart from without refinement, enlarged bicubically (0.20"
        " [-0.10, 0.50] dB).",
        "- PSNR of a single sample: 19.60 dB; 19.5 dB reached.",
        "- PSNR of the mean of the samples: 20.40 dB; 20.5 dB not reached.",
        "- The seam's change is larger than that between other neighbours: 1.20 [1.10, 1.30] times it (true"
        " views: 1.00 [0.90, 1.10]), and 1.00 [0.90, 1.10] times that from the first view to the second.",
        "- chamfer_mean: M = 16 is ahead of M = 0.",
        "- volume_iou_64: M = 16 is behind M = 32.",
    ]


def test_choice(words: list[str], tmp_path: Path) -> None:
    script = load_script("papers/hi3d/choose.py")
    own = [*words, "--work", str(tmp_path / "work"), "--results", str(tmp_path), "--limit", "1"]
    own += [
        "--sigma-max",
        "700",
        "20",
        "--steps",
        "1",
        "2",
        "--guidance",
        "1",
        "3",
        "--shapes",
        "linear",
        "constant",
    ]
    assert script.main(own) == 0
    choice = json.loads((tmp_path / "hi3d_choice.json").read_text())
    # Guidance 1 everywhere in one shape, 3 in two; then the best of these with the other three pairs of noise
    # and steps.
    assert len(choice["tried"]) == 6
    best = max(choice["tried"], key=lambda one: one["psnr"])["asked"]
    settings = choice["settings"]
    assert settings["steps"] == best["num_steps"]
    assert settings["guidance"] == best["guidance"]
    assert settings["guidance_shape"] == best["guidance_shape"]
    assert settings["sigma_max"] == best["sigma_max"]
    assert set(settings) == {"steps", "guidance", "guidance_shape", "sigma_max"}
    assert len({one["psnr"] for one in choice["tried"]}) == 6  # noise makes a difference
    assert script.main(own) == 2  # already there


def test_pictures(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first row shows the true views from the input on: greys of 0.1 + 0.03 k without noise's pattern
    are told by their means."""
    script = load_script("papers/hi3d/pictures.py")
    own = [*words, "--scene", "cup", "--input", "3", "--seeds", "0", "5", "--images", str(tmp_path)]
    assert script.main(own) == 0
    said = capsys.readouterr().out
    assert "seed 5: from the last view to the first" in said
    assert "180.0 degrees: deviation between seeds" in said
    page = read_image(tmp_path / "hi3d_cup.png")[0]
    cell = 192 + 2 * 4 + 8
    assert page.shape[1:] == (3 * (cell + 18) + 8, 8 * cell + 8)
    scene = Path(own[1]) / "cup"
    true = read_scene(scene).over(1.0)[[3, 5]].mean(dim=(1, 2, 3))
    shown = [page[:, 20 : 20 + 180, x : x + 180].mean() for x in (20, 20 + cell)]
    assert torch.stack(shown) == pytest.approx(true, abs=0.02)
    assert script.main([*own[:-1], str(tmp_path), "--input", "16"]) == 2
    assert "--input" in capsys.readouterr().err


def test_the_second_stage_is_chosen_after_the_first() -> None:
    """Scores made up: guidance 2 is best, then 10 steps with it."""
    script = load_script("papers/hi3d/choose.py")

    class Trial(script.Trial):
        def __init__(self) -> None:
            self.given = Namespace(
                low=1.0, refine_guidance=[1.5, 2.0, 2.5], refine_steps=[25, 10], refine_sigma_max=[9.0]
            )
            self.pipeline = tiny_pipeline()
            self.asked: list[dict[str, Any]] = []

        def score(self, row: str, **asked: Any) -> float:
            assert row == "hi3d"
            self.asked.append(asked)
            return -abs(asked["refine_guidance"][1] - 2) - asked.get("refine_steps", 0)

    trial, first = Trial(), {"num_steps": 5, "guidance_shape": "triangular"}
    assert script.choose_second(trial, first) == {
        "refine_guidance": [1.0, 2.0],
        "refine_steps": 10,
        "refine_sigma_max": 9.0,  # the only one, not tried
    }
    assert trial.asked[-1] == {**first, "refine_guidance": (1.0, 2.0), "refine_steps": 10}
    assert trial.pipeline.config["default_shape"] == "triangular"
    trial.given.refine_guidance = trial.given.refine_steps = trial.given.refine_sigma_max = []
    assert script.choose_second(trial, first) == {}
