"""Files stay small enough to read at one sitting."""

from __future__ import annotations

from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
LONGEST = 600
TYPICAL = 130


def lengths(*folders: str) -> dict[str, int]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in paths}


def test_no_file_is_too_long() -> None:
    counted = lengths("src", "tests", "examples", "papers", "benchmarks")
    assert counted
    assert {path: lines for path, lines in counted.items() if lines > LONGEST} == {}


def test_the_typical_module_is_short() -> None:
    # An `__init__` of one line is no module to read; counting it would hide long ones.
    counted = [lines for lines in lengths("src").values() if lines > 2]
    assert median(counted) <= TYPICAL


def test_no_drawer_modules() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    names = {path: set(Path(path).with_suffix("").parts) for path in lengths("src", "tests")}
    assert [path for path, parts in names.items() if parts & drawers] == []
