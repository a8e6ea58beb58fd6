"""Figures as the scripts put them into pages: commands, rows of tables, the place between two marks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.errors import InputError


def open_page(path: Path, begin: str, end: str, title: str) -> str:
    """The page's text, with a section for figures at its end where it has none yet; a page that is not there
    is begun with its title. Raises `InputError` for a page whose place for them is damaged."""
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {title}\n"
    if begin not in text and end not in text:
        text = f"{text.rstrip()}\n\n## Measured\n\n{begin}\n\n{end}\n"
    if text.count(begin) != 1 or end not in text.split(begin)[1] or text.count(end) != 1:
        raise InputError("--page", str(path), "expected one place for the table, between its two marks")
    return text


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


def standing(differences: Mapping[str, Mapping[str, Any]], more_is_better: bool) -> str:
    """Whom the row stands ahead of and behind, whose differences from the others (label -> estimate) these
    are; in words, by their intervals. Empty without differences."""
    ahead: list[str] = []
    open_: list[str] = []
    behind: list[str] = []
    for label, less in differences.items():
        low, high = less["ci95"] or (less["mean"], less["mean"])
        low, high = (low, high) if more_is_better else (-high, -low)
        (ahead if low > 0 else behind if high < 0 else open_).append(label)
    words = (("ahead of", ahead), ("not told apart from", open_), ("behind", behind))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in words if names)


def number_cell(value: float | None, digits: int) -> str:
    """A number, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
