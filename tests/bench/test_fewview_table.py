"""The scripts behind SparseFusion's table, on toy weights: the page, and the choice that weights record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fewview_weights import SIZE, write_bundles

from manyview.data.render.jobs import render_procedural
from manyview.methods.sparsefusion.distill_options import DistillOptions

ROOT = Path(__file__).parents[2]


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for weights and data that both scripts take."""
    root = tmp_path_factory.mktemp("table")
    render_procedural(4, 2, root / "set", protocol="orbit32", size=SIZE, samples=1)
    folders = write_bundles(root / "bundles")
    flags = ["--data", str(root / "set"), "--weights", str(folders["sparsefusion"]), "--device", "cpu"]
    return [*flags, "--inputs", "1", "2", "--scored", "2"]


def test_table(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("papers/sparsefusion/table.py")
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nText.\n")
    own = [*words, "--regressor", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]
    own += ["--only", "eft", "vldm", "pixelnerf", "copy_nearest", "--rows", "2", "--no-perceptual"]
    own += ["--results", str(tmp_path / "results"), "--page", str(page)]
    assert script.main(own) == 0
    text = page.read_text()
    assert text.startswith("# Page\n\nText.\n\n## Measured\n\n" + script.BEGIN)
    report = json.loads((tmp_path / "results" / "sparsefusion_fewview.json").read_text())
    assert report["method"] == "eft"  # the first of the rows asked for
    for count in "12":
        mean = report["by_references"][count]["psnr"]["mean"]
        assert f"| **EFT alone** | **{mean:.2f} [" in text
        gain = report["rows"]["vldm"]["by_references"][count]["difference"]["psnr"]["mean"]
        assert f"| {gain:.2f} [" in text
    assert "| paper: sparsefusion | 21.34 | - | 0.225 |  |  |" in text
    assert "- pixelnerf: skipped, no weights" in text
    assert "lpips_vgg: skipped, not asked for." in text
    assert str(tmp_path) not in text  # no folder of this machine
    assert (tmp_path / "results" / "sparsefusion_fewview.md").read_text().startswith("# SparseFusion under")
    assert script.main(own) == 2, "finished results are replaced with --force only"
    # Again, from the answers that were kept: the same page, but for the time it took.
    assert script.main([*own, "--force"]) == 0
    assert page.read_text().count(script.BEGIN) == 1
    again = json.loads((tmp_path / "results" / "sparsefusion_fewview.json").read_text())
    assert again["by_references"] == report["by_references"]
    page.write_text(script.END + script.BEGIN)
    assert script.main([*own, "--force"]) == 2
    assert "expected one place for the table" in capsys.readouterr().err


def test_claims_follow_the_numbers() -> None:
    script = load_script("papers/sparsefusion/table.py")

    def row(mean: float, low: float, high: float, metric: str = "psnr") -> dict[str, Any]:
        return {"by_references": {"2": {"difference": {metric: {"mean": mean, "ci95": [low, high]}}}}}

    rows = {"eft": row(1, 0.5, 1.5), "vldm": row(0.2, -0.1, 0.5), "field_fit": row(-1, -2, -0.5)}
    report = {
        "by_references": {"2": {"psnr": {"mean": 20.0}}},
        "rows": {**rows, "pixelnerf": {"skipped": "x"}},
    }
    assert script.claims(report) == [
        "- psnr, 2 inputs: ahead of EFT alone; not told apart from diffusion alone (VLDM); behind field"
        " fitted to the inputs."
    ]
    # Of a distance less is better: the first row's is smaller by 0.05 to 0.01.
    report = {
        "by_references": {"2": {"stlpips_vgg": {"mean": 0.2}}},
        "rows": {"eft": row(-0.03, -0.05, -0.01, "stlpips_vgg")},
    }
    assert script.claims(report) == ["- stlpips_vgg, 2 inputs: ahead of EFT alone."]


def test_choice(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("papers/sparsefusion/choose.py")
    own = [*words, "--work", str(tmp_path / "work"), "--results", str(tmp_path), "--limit", "1"]
    assert script.main([*own, "--steps", "1", "2", "--guidance", "1", "2"]) == 0
    choice = json.loads((tmp_path / "sparsefusion_choice.json").read_text())
    assert len(choice["tried"]) == 4
    means = {
        (one["asked"]["num_steps"], one["asked"]["guidance"]): sum(one["psnr"].values())
        for one in choice["tried"]
    }
    settings = choice["settings"]
    assert means[settings["steps"], settings["guidance"]] == max(means.values())
    assert settings["solver"] == "ddim"
    # What the weights had recorded for the distillation stays where nothing was tried.
    assert settings["distill"] == {"rounds": 2, "field": {"rays": 64}}


def test_distillation_is_chosen_one_option_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores made up: 4 rounds are best, then guidance 2 with them; a value that is no better is left."""
    import argparse

    script = load_script("papers/sparsefusion/choose.py")

    class Trial:
        given = argparse.Namespace(**{name: [] for name in script.TRIED})
        pipeline = argparse.Namespace(default_distillation=DistillOptions())

        def __init__(self) -> None:
            self.asked: list[tuple[int, float, int]] = []

        def score(self, row: str, distill: Any) -> float:
            self.asked.append((distill.rounds, distill.guidance, distill.targets))
            return -abs(distill.rounds - 4) + distill.guidance - 0.1 * (distill.targets != 20)

    trial = Trial()
    trial.given.rounds, trial.given.distill_guidance, trial.given.targets = [2, 4, 6], [1.0, 2.0], [30]
    assert script.choose_distillation(trial) == {"distill": {"rounds": 4, "guidance": 2.0}}
    # First the defaults (8 rounds, guidance 1, 20 targets); they are never scored twice.
    assert trial.asked == [
        (8, 1.0, 20),
        (2, 1.0, 20),
        (4, 1.0, 20),
        (6, 1.0, 20),
        (4, 2.0, 20),
        (4, 2.0, 30),
    ]
