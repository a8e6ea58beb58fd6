"""The scripts behind TUNet's tables, on toy weights: page, choice of settings, pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_scenes import grey_views

from manyview.io.images import read_image
from manyview.io.scene import write_scene
from manyview.methods import load
from manyview.weights import write_bundle

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from tiny_tunet import tiny_network, write_tiny_tunet

ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tunet_{name}", ROOT / "papers" / "tunet" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for weights and data that all scripts take."""
    root = tmp_path_factory.mktemp("table")
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.1 + 0.03 * k for k in range(16)], number), root / "set" / name)
    weights = write_tiny_tunet(root / "weights", candidates=["A:eps_t", "B:latent_T"])
    return ["--data", str(root / "set"), "--weights", str(weights), "--device", "cpu"]


def test_table(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("table")
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nText.\n")
    changes: dict[str, Any] = {"cross_attention": False, "sweep_depths": 0, "blend": False}
    tiny_network(**changes).save_pretrained(tmp_path / "runs/nothing/export/tunet")
    own = [*words, "--one2one", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]
    own += ["--variants", f"no_cross_attention={tmp_path / 'runs/nothing/export'}", "--no-perceptual"]
    own += [
        "--only",
        "tunet",
        "mean_only",
        "fusion_a",
        "oracle",
        "no_cross_attention",
        "one2one",
        "copy_input",
    ]
    own += ["--results", str(tmp_path / "results"), "--page", str(page), "--images", str(tmp_path / "images")]
    assert script.main(own) == 0
    text = page.read_text()
    assert text.startswith("# Page\n\nText.\n\n## Measured\n\n" + script.BEGIN)
    report = json.loads((tmp_path / "results" / "tunet_pair.json").read_text())
    assert f"| **{script.LABELS['tunet']}** | **{report['metrics']['psnr']['mean']:.2f} [" in text
    gain = report["rows"]["copy_input"]["difference"]["psnr"]["mean"]
    assert f"| {gain:.2f} [" in text
    assert "| paper, 167 classes, 90 px: tunet | 16.16 | 0.578 | 0.409 |" in text
    assert f"| {report['by_distance']['180']['psnr']['mean']:.2f} |\n" in text
    assert "- oracle: skipped, chooses by stlpips_vgg" in text
    assert "- one2one: skipped, no weights" in text
    assert "19 dB not reached" in text
    assert "no_cross_attention=nothing" in text
    assert str(tmp_path) not in text  # no folder of this machine
    assert "](images/tunet_spectrum.png)" in text
    plot = read_image(tmp_path / "images" / "tunet_spectrum.png")[0]
    assert plot.shape == (3, 420, 720)
    assert float((plot < 0.5).any(dim=0).float().mean()) > 0.003  # lines are drawn
    assert script.main(own) == 2, "finished results are replaced with --force only"
    assert script.main([*own, "--force"]) == 0
    again = json.loads((tmp_path / "results" / "tunet_pair.json").read_text())
    assert again["by_distance"] == report["by_distance"]
    assert page.read_text().count(script.BEGIN) == 1
    assert script.main([*own, "--force", "--variants", "concat"]) == 2
    assert "--variants" in capsys.readouterr().err


def estimate(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high]}


def test_claims_follow_the_numbers() -> None:
    script = load_script("table")

    def row(psnr: float, *gain: float, near: float = 18.0) -> dict[str, Any]:
        found: dict[str, Any] = {"metrics": {"psnr": estimate(psnr, psnr, psnr)}}
        found["by_distance"] = {"22.5": {"psnr": {"mean": near}}, "180": {"psnr": {"mean": psnr}}}
        return found | ({"difference": {"psnr": estimate(*gain)}} if gain else {})

    report = {
        "method": "tunet",
        **row(19.2, near=20.0),
        "rows": {
            "mean_only": row(19.9, -0.7, -0.9, -0.5),
            "copy_input": row(17.0, 2.2, 2.0, 2.4, near=20.5),
            "full_short": row(18.5, 0.7, -0.1, 1.5),
            "concat": row(17.5, 1.7, 1.5, 1.9),
            "oracle": {"skipped": "x"},
        },
    }
    assert script.claims(report) == [
        "- psnr: TUNet, fusion selected is ahead of copy of the reference, cameras beside the input alone"
        " (concat); not told apart from full, trained as briefly as the next two; behind no fusion: the"
        " translated mean.",
        "- PSNR over all distances: 19.20 dB; 19 dB reached.",
        "- Fusion changes PSNR by -0.70 [-0.90, -0.50] dB against the mean alone: more than the 0.5 dB it may"
        " lose.",
        "- TUNet, fusion selected is above the copy of the reference but at 22.5 degrees.",
        "- Trained for equally many steps: full, trained as briefly as the next two 18.50 dB, cameras beside"
        " the input alone (concat) 17.50 dB.",
    ]


def test_choice(words: list[str], tmp_path: Path) -> None:
    script = load_script("choose")
    own = [*words, "--work", str(tmp_path / "work"), "--results", str(tmp_path), "--limit", "1"]
    own += ["--by", "psnr", "--steps", "1", "2", "--alone", "A:eps_t", "B:gaussian", "--together", "2"]
    assert script.main(own) == 0
    choice = json.loads((tmp_path / "tunet_choice.json").read_text())
    # Two numbers of steps with A; B with the better; both together under two rules.
    assert len(choice["tried"]) == 5
    settings = choice["settings"]
    assert set(settings) == {"t_star", "mean_steps", "candidates", "selection"}
    best = max(choice["tried"], key=lambda one: one["psnr"])
    assert settings == best["settings"]
    assert script.main(own) == 2  # already there
    # What it writes can be recorded with weights.
    folder = Path(words[3])
    record = json.loads((folder / "manyview.json").read_text())
    parts = {name: entry["path"] for name, entry in record["components"].items()}
    write_bundle(folder, name="tiny", method="tunet", licence="none", components=parts, settings=settings)
    plan = load("tunet", folder).plan()
    assert plan.mean_steps == settings["mean_steps"]
    assert [one.name for one in plan.candidates] == settings["candidates"]


def test_the_best_by_a_distance_may_lose_little_psnr() -> None:
    script = load_script("choose")
    scores = [
        {"psnr": 20.0, "stlpips_vgg": 0.30},
        {"psnr": 19.6, "stlpips_vgg": 0.20},
        {"psnr": 18.0, "stlpips_vgg": 0.10},
    ]
    assert script.best_of(scores, "psnr", 0.5) == 0
    assert script.best_of(scores, "stlpips_vgg", 0.5) == 1
    assert script.best_of(scores, "stlpips_vgg", 5.0) == 2

    class Trial(script.Trial):
        def __init__(self) -> None:
            self.given = Namespace(by="psnr", within=0.5)

        def score(self, settings: dict[str, Any]) -> dict[str, Any]:
            return {"psnr": {"A": 18.0, "B": 20.0, "C": 19.0}[settings["candidates"][0]]}

    alone = [{"candidates": [name]} for name in "ABC"]
    assert script.rank(Trial(), alone) == ["B", "C", "A"]


def test_pictures(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("pictures")
    own = [*words, "--scene", "cup", "--images", str(tmp_path)]
    assert script.main(own) == 0
    assert "5 rows of 7 views" in capsys.readouterr().out
    page = read_image(tmp_path / "tunet_cup.png")[0]
    cell = 192 + 2 * 4 + 8
    assert page.shape[1:] == (5 * (cell + 18) + 8, 8 * cell + 8)
    assert script.main([*own[:-3], "hat", "--images", str(tmp_path)]) == 2
    assert "scenes" in capsys.readouterr().err
