"""papers/refiner/table.py: what the figures become on the page, and the script from end to end at toy
size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from tiny_refiner import write_single_views, write_tiny_bundle

SCRIPT = Path(__file__).parents[2] / "papers" / "refiner" / "table.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refiner_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(ssim: float, frechet: float) -> dict:
    return {
        "reached": {"mean": 0.9, "ci95": [0.8, 1.0]},
        "yaw_deg": {"mean": 20.0, "ci95": None},
        "ssim_skimage": {"mean": ssim, "ci95": None},
        "identity": {"mean": 0.9, "ci95": None},
        "warp_l1": {"mean": 0.05, "ci95": None},
        "frechet": {"mean": frechet, "ci95": [frechet - 0.1, frechet + 0.1]},
        "kernel": {"skipped": "too few"},
    }


def less(mean: float) -> dict:
    return {"mean": mean, "ci95": [mean - 0.01, mean + 0.01]}


def test_page(script: ModuleType) -> None:
    ranges = ("20", "40", "full")
    difference = {
        zone: {"ssim_skimage": less(0.05), "identity": less(0.0), "warp_l1": less(0.02)} for zone in ranges
    }
    report = {
        "method": "refiner",
        "weights": {"sha256": "a" * 64},
        "scenes": 100,
        "frontal_deg": 15.0,
        "tolerance_deg": 1.0,
        "targets_deg": [-10.0, 10.0],
        "renders": 1500,
        "feature_net": {"name": "image_encoder_compact", "sha256": "b" * 64},
        "seconds": 120.0,
        "device": "cpu",
        "by_range": {zone: part(0.7, 1.5) for zone in ranges},
        "rows": {
            "ganspace": {"by_range": {zone: part(0.65, 1.2) for zone in ranges}, "difference": difference},
            "no_warp": {"by_range": {zone: part(0.6, 2.0) for zone in ranges}, "difference": difference},
            "drag": {"skipped": "no weights given"},
        },
    }
    toy = {
        "measured": {
            "yaw_error_deg": 2.5,
            "turned_deg": 25.0,
            "depth_rank": 0.85,
            "round_rank": 0.68,
            "nuisance_removed": 0.75,
            "kept_yaw_off_deg": 1.0,
        },
        "wanted": {"yaw_error_deg": 3.0, "depth_rank": 0.8, "nuisance_removed": 0.7},
    }
    text = script.draw_page(report, "python papers/refiner/table.py", toy)
    assert "**refined** | **0.90 [0.80, 1.00]** | **20.0** | **0.700**" in text
    assert "| paper: GANSpace | - | - | 0.583 | 0.984 | - | 47.560 | 0.0119 |" in text
    assert (
        "- ssim_skimage over all yaws, target by target: refined is ahead of GANSpace, without the warp"
        in text
    )
    assert "- identity over all yaws, target by target: refined is not told apart from GANSpace" in text
    assert "- warp_l1 over all yaws, target by target: refined is behind GANSpace" in text
    assert "- frechet: refined 1.500 is larger than GANSpace's 1.200 [1.100, 1.300]." in text
    assert "- without the warp loss hurts: ssim_skimage." in text
    assert "- dragged: skipped, no weights given." in text
    assert "takes back 75 % (wanted: 70 %)" in text


def test_from_end_to_end(script: ModuleType, tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "held_out", count=30)
    weights = write_tiny_bundle(tmp_path / "weights")
    words = [
        "--data",
        str(data),
        "--work",
        str(tmp_path / "work"),
        "--weights",
        str(weights),
        "--device",
        "cpu",
    ]
    words += ["--sources", "2", "--only", "refiner", "ganspace", "--pictures", "1"]
    words += [f"--{name}={tmp_path / name}" for name in ("results", "images")]
    words.append(f"--page={tmp_path / 'page.md'}")
    assert script.main(words) == 0
    report = json.loads((tmp_path / "results" / "refiner_yaw.json").read_text())
    assert report["scenes"] == 2
    page = (tmp_path / "page.md").read_text()
    assert "+-40 degrees:" in page
    assert str(tmp_path) not in page.split("--results")[0]
    assert (tmp_path / "images" / "refiner_0.png").is_file()
    assert script.main(words) == 2  # there already
    kept = (tmp_path / "work" / "refiner_yaw.json.partial.jsonl").read_text()
    assert script.main([*words, "--force"]) == 0
    assert (tmp_path / "work" / "refiner_yaw.json.partial.jsonl").read_text() == kept
