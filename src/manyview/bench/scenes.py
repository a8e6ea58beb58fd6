"""What every protocol checks before it starts: the scenes it asks about and the file it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manyview.errors import InputError
from manyview.io.scene import list_scenes


def choose_scenes(
    data: Path, names: Sequence[str] | None = None, limit: int | None = None, every: int = 1
) -> list[Path]:
    """Scene folders of a data set: those named (all when None), of these every so many, of these the first.

    Raises `InputError` for names that the data set has not got.
    """
    folders = list_scenes(data)
    if names is not None:
        unknown = sorted(set(names) - {folder.name for folder in folders})
        if unknown or not names:
            raise InputError("scenes", ", ".join(unknown), f"expected names of scenes in {data}")
        folders = [folder for folder in folders if folder.name in set(names)]
    return folders[::every][:limit]


def check_limit(limit: int | None) -> None:
    """Raises `InputError` for a limit that leaves nothing."""
    if limit is not None and limit < 1:
        raise InputError("--limit", limit, "expected at least 1")


def check_report(out: Path | None, force: bool) -> None:
    """Raises `InputError` for a report that cannot be written, or is there already without `force`."""
    if out is not None and out.is_dir():
        raise InputError("--out", str(out), "is a folder, expected a file")
    if out is not None and out.exists() and not force:
        raise InputError("--out", str(out), "already exists; choose another file or give --force")
