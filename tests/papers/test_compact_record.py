"""The page that papers/compact/record.py writes of a run, from files as the training loop leaves them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.training.task import Task

SCRIPT = Path(__file__).parents[2] / "papers" / "compact" / "record.py"


class Line(Task):
    """A weight that is drawn to 1; its validation is its distance."""

    name = "line"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"initial": "/home/someone/runs/first/export", "crop": 48}

    def build(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        return {"ones": torch.ones(len(items), 1)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        error = (model(batch["ones"]) - 1).square().mean()
        return error, {"half": error / 2}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"distance": float((next(model.parameters()) - 1).abs().mean())}

    def export(self, model: nn.Module, folder: Path) -> None:
        (folder / "weight.txt").write_text("none")


@pytest.fixture(scope="module")
def record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compact_record", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "line"
    config = TrainConfig(
        steps=40,
        batch_size=2,
        lr=0.02,
        warmup_steps=0,
        log_every=1,
        validate_every=20,
        device="cpu",
        dtype="fp32",
    )
    fit(Line(), config, out, progress=False)
    return out


def words(*runs: Path, out: Path, **changes: str) -> list[str]:
    given = {"component": "line", "command": "manyview train line --out runs/line", "data": "ones", **changes}
    flags = [part for name, value in given.items() for part in ("--" + name, value)]
    return [*flags, "--run", *map(str, runs), "--out", str(out)]


def test_page(record: ModuleType, run: Path, tmp_path: Path) -> None:
    assert record.main(words(run, run, out=tmp_path)) == 0
    page = (tmp_path / "line.md").read_text()
    assert "manyview train line --out runs/line" in page
    assert "- Data: ones" in page
    # Two parts of 40 steps of 2 items.
    assert "- Steps: 80, items seen: 160" in page
    assert page.count("\n## line\n") == 2
    assert "initial first, crop 48" in page
    assert "/home" not in page
    assert str(run.parent) not in page
    table = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert table[0][0] == "| step"
    assert [cell.strip(" |") for cell in table[0]] == ["step", "loss", "half", "distance", ""]
    rows = table[1 : 1 + record.NUM_ROWS]
    # 12 of 40 evenly: the ends of twelfths, floor(40 k / 12).
    assert [int(row[0].strip("| ")) for row in rows] == [40 * k // 12 for k in range(1, 13)]
    for row in rows:
        step, loss, half, distance = (cell.strip("| ") for cell in row[:4])
        # Both figures are rounded to four digits.
        assert float(half) == pytest.approx(float(loss) / 2, rel=1e-3)
        assert bool(distance) == (int(step) >= 20)
    bars = [len(row[4].strip("| ")) for row in rows]
    assert bars[0] == record.BAR
    assert bars[-1] == 1
    assert bars == sorted(bars, reverse=True)


def test_bars_are_logarithmic(record: ModuleType) -> None:
    # Loss 1, 0.1, 0.01: the middle one is halfway, 1 + 29 / 2 rounded to even = 1 + 14 (14.5 to even).
    lines = record.draw_curve([{"step": n, "loss": 10.0**-n, "lr": 1.0, "grad_norm": 1.0} for n in range(3)])
    assert [line.count("#") for line in lines[2:]] == [record.BAR, 15, 1]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"command": "python /home/someone/x.py"}, "/home/someone/x.py"),
        ({"component": "../line"}, "plain name"),
    ],
)
def test_refuses(
    record: ModuleType,
    run: Path,
    tmp_path: Path,
    changes: dict[str, str],
    shown: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert record.main(words(run, out=tmp_path / "pages", **changes)) == 2
    assert shown in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()


def test_refuses_a_run_that_is_not_finished(
    record: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.main(words(tmp_path, out=tmp_path / "pages")) == 2
    assert "expected a finished run" in capsys.readouterr().err
