"""What a metric says when it cannot be computed, and numbers with their uncertainty as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """A metric that could not be computed, and why. Never stands for a number."""

    reason: str

    def __str__(self) -> str:
        return f"skipped: {self.reason}"

    def as_json(self) -> dict[str, str]:
        """`{"skipped": reason}` for metrics.json."""
        return {"skipped": self.reason}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95% confidence interval."""

    mean: float
    ci95: tuple[float, float] | None
    """None where one group gives no idea of the spread."""
    num_items: int
    num_groups: int

    def as_json(self) -> dict[str, float | list[float] | None]:
        """`{"mean", "ci95"}` for metrics.json."""
        return {"mean": self.mean, "ci95": None if self.ci95 is None else list(self.ci95)}


def format_table(rows: Mapping[str, Mapping[str, Estimate | Skipped | float]], *, digits: int = 3) -> str:
    """A Markdown table, one row a key of `rows`, columns in the order they first appear.

    An estimate is shown as `mean [low, high]`, a skipped metric as the word, a missing one as a dash; the
    reasons of skipped metrics follow the table, one a line.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [_table_line(["", *columns]), _table_line(["---"] * (len(columns) + 1))]
    for label, row in rows.items():
        lines.append(_table_line([label, *(_cell(row.get(name), digits) for name in columns)]))
    skipped = {
        name: value.reason
        for row in rows.values()
        for name, value in row.items()
        if isinstance(value, Skipped)
    }
    if skipped:
        lines += ["", *(f"{name}: skipped, {reason}" for name, reason in skipped.items())]
    return "\n".join(lines) + "\n"


def _cell(value: Estimate | Skipped | float | None, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, Skipped):
        return "skipped"
    if isinstance(value, Estimate):
        if value.ci95 is None:
            return f"{value.mean:.{digits}f}"
        return f"{value.mean:.{digits}f} [{value.ci95[0]:.{digits}f}, {value.ci95[1]:.{digits}f}]"
    return f"{value:.{digits}f}"


def _table_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
