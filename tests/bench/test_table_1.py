"""The script behind the table, on a tiny bundle: from weights on disk to the page, and `manyview eval`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from manyview.cli.shell import run_command
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.report import Skipped
from manyview.weights.bundle import write_bundle

ROOT = Path(__file__).parents[2]
PARTS = ("vae", "image_encoder", "unet", "conditioner", "scheduler")


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, dimvis: DimvisPipeline, one2one: One2OnePipeline
) -> dict[str, Path]:
    folders = {}
    for method, pipeline in (("dimvis", dimvis), ("one2one", one2one)):
        folder = folders[method] = tmp_path_factory.mktemp("bundles") / method
        for part in PARTS:
            getattr(pipeline, part).save_pretrained(folder / part)
        settings = {"guidance_by_references": [3.0, 1.0, 1.0]} if method == "dimvis" else {}
        write_bundle(
            folder,
            name="tiny",
            method=method,
            licence="none",
            components={part: part for part in PARTS},
            settings=settings,
        )
    return folders


def test_table(bundles: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    script = load_script("papers/dimvis/table_1.py")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    words = [
        "--data",
        str(dataset),
        "--weights",
        str(bundles["dimvis"]),
        "--one2one",
        str(bundles["one2one"]),
    ]
    words += ["--steps", "1", "--samples", "2", "--limit", "1", "--batch", "28", "--no-perceptual"]
    words += ["--device", "cpu", "--results", str(tmp_path), "--page", str(page)]
    assert script.main(words) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    report = json.loads((tmp_path / "dimvis_orbit4.json").read_text())
    for count in "123":
        mean = report["by_references"][count]["psnr"]["mean"]
        guidance = report["by_references"][count]["guidance"]
        assert f"| **ours, one sample (guidance {guidance:g})** | **{mean:.2f}** |" in text
    assert "| DiMViS, as the paper reports it (guidance 3) | 16.32 | 0.780 | 0.171 |" in text
    assert "one-to-one model" in text
    assert "ours, mean of 2 samples" in text
    assert str(tmp_path) not in text  # no folder of this machine
    assert (tmp_path / "dimvis_orbit4.md").read_text().endswith("skipped, not asked for.\n")
    assert script.main(words) == 2, "finished results are replaced with --force only"


def test_claims_follow_the_numbers() -> None:
    script = load_script("papers/dimvis/table_1.py")

    def part(mean: float) -> dict:
        return {"psnr": {"mean": mean, "ci95": [mean - 0.5, mean + 0.5]}, "pixel_std": {"mean": 1 / mean}}

    rising = {"1": part(18), "2": part(20), "3": part(22)}
    rows = {"copy_nearest": {"by_references": {"1": part(17), "2": part(20.1), "3": part(16)}}}
    said = script.claims({"by_references": rising, "rows": rows})
    assert said[0].endswith("do not overlap.")
    assert said[1] == "- Single samples are not above: copy of the nearest reference at 2."
    assert said[2].endswith("(falls).")
    said = script.claims({"by_references": {"1": part(18), "2": part(18.9)}, "rows": {}})
    assert "overlap, or" in said[0]
    assert "above every baseline" in said[1]


def test_eval_command(
    bundles: dict[str, Path],
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As where the extra is not installed: the metric is skipped with a word (and the test is quick).
    monkeypatch.setattr("manyview.bench.scoring.load_stlpips", lambda net: Skipped(f"no weights of {net}"))
    out = tmp_path / "metrics.json"
    words = ["dimvis", "--data", str(dataset), "--out", str(out), "--weights", str(bundles["dimvis"])]
    words += ["--steps", "1", "--limit", "1", "--guidance", "1", "--device", "cpu"]
    assert run_command("eval", words) == 0
    assert "psnr" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["metrics"]["psnr"]["mean"] > 0
    assert report["metrics"]["stlpips_vgg"] == {"skipped": "no weights of vgg"}
    assert report["weights"]["sha256"]
    assert run_command("eval", words) == 2  # already there
    assert run_command("eval", [*words, "--force", "--data", str(tmp_path)]) == 2
    assert "holds no scene" in capsys.readouterr().err
