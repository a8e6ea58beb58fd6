"""Figures as the scripts put them into pages: commands, rows of tables, the place between two marks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def fill_place(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` in place of what stands between its marks."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n{end}{rest.split(end)[1]}"


def shown_command(script: str, words: Sequence[str], folders: Iterable[object]) -> str:
    """The command as anyone would type it: `folders` by their names, since others keep them elsewhere."""
    places = {str(folder) for folder in folders}
    shown = [Path(word).name if word in places else word for word in words]
    return f"python {script} {shlex.join(shown)}"


def table_line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def table_row(cells: Iterable[str], bold: bool = False) -> str:
    """A row of a table, its numbers printed bold if asked."""
    return table_line(f"**{cell}**" if bold and cell not in ("", "-") else cell for cell in cells)


def estimate_cell(value: Mapping[str, Any] | None, digits: int) -> str:
    """A mean with its interval, `-` where it was not computed."""
    if value is None or "mean" not in value:
        return "-"
    cell = f"{value['mean']:.{digits}f}"
    if value["ci95"]:
        cell += f" [{value['ci95'][0]:.{digits}f}, {value['ci95'][1]:.{digits}f}]"
    return cell


def number_cell(value: float | None, digits: int) -> str:
    """A number, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
