"""Writes that are all or nothing: a temporary sibling, then a rename.

A killed process or a full disk leaves the old file or folder, or none, never half of a new one. (A power
cut is not covered: nothing is flushed to the platter.) What the system refuses becomes a one-line
`InputError`.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from manyview.errors import InputError

FOLDER_MARKS = (
    *("manifest.json", "metrics.json", "model_index.json", "packed.json", "transforms.json"),
    "train_test_split_*.json",
)
"""A non-empty folder is replaced by force only where it, or a folder in it, holds one of these (glob
patterns)."""

_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "a file would be larger than this system allows",
    errno.EACCES: "cannot be written: permission denied",
    errno.EPERM: "cannot be written: permission denied",
    errno.EROFS: "cannot be written: the file system is read-only",
    errno.ENOTDIR: "a part of this path is a file, expected a folder",
    errno.EEXIST: "a part of this path is a file, expected a folder",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EBUSY: "is in use (a mounted folder?); choose a folder inside it",
}


@contextmanager
def reporting_refusals(path: str | os.PathLike[str], argument: str = "--out") -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` naming `argument` and `path`."""
    try:
        yield
    except OSError as error:
        reason = _REFUSALS.get(error.errno or 0) or f"cannot be written: {error.strerror or error}"
        raise InputError(argument, os.fspath(path), reason) from error


def write_text_atomic(path: str | os.PathLike[str], text: str, *, argument: str = "--out") -> None:
    """Write `text` as UTF-8; as `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"), argument=argument)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes, *, argument: str = "--out") -> None:
    """Write `data` and replace what was there. Parent folders are made.

    Raises `InputError` naming `argument` where the system refuses (full disk, no permission, ...).
    """
    with writing_file(path, argument=argument) as temporary:
        # Created with open's usual mode, so that the umask holds as for any other file.
        temporary.write_bytes(data)


@contextmanager
def writing_file(path: str | os.PathLike[str], *, argument: str = "--out") -> Iterator[Path]:
    """A path beside `path` to write to, for programs that need a name; renamed to `path` if the block ends
    well.

    It has the same suffix. Whatever was written is deleted if the block raises. Raises as
    `write_bytes_atomic`.
    """
    target = Path(path)
    with reporting_refusals(target, argument), _parents_of(target):
        temporary = _sibling(target)
        try:
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing_folder(
    path: str | os.PathLike[str],
    force: bool = False,
    *,
    marks: Collection[str] = FOLDER_MARKS,
    argument: str = "--out",
) -> Iterator[Path]:
    """A new folder beside `path` to fill; renamed to `path` if the block ends well, else deleted.

    An existing empty folder counts as absent. A filled one is refused, or with `force` replaced as a whole,
    once the new one is complete; but only if it, or a folder in it, holds a file named in `marks`, so that
    a mistyped `path` cannot cost somebody's other files. Raises `InputError` for what is refused and as
    `write_bytes_atomic`.
    """
    target = Path(os.path.realpath(path))
    with reporting_refusals(path, argument):
        _check_replaceable(Path(path), target, force, marks, argument)
        with _parents_of(target):
            temporary = _sibling(target)
            temporary.mkdir()
            try:
                yield temporary
                _swap(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


def _check_replaceable(shown: Path, target: Path, force: bool, marks: Collection[str], argument: str) -> None:
    """Raise `InputError` unless `target` is absent, empty, or may be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(argument, str(shown), "is a file, expected a folder")
    here = Path.cwd()
    if target == here or target in here.parents:
        raise InputError(argument, str(shown), "is the current folder or holds it; choose a folder inside")
    if not any(target.iterdir()):
        return
    if not force:
        raise InputError(argument, str(shown), "already holds files; choose another folder or give --force")
    if not any(any(target.glob(pattern)) for mark in marks for pattern in (mark, f"*/{mark}")):
        raise InputError(
            argument, str(shown), "holds files that manyview did not write; choose another folder"
        )


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`, which may be absent, empty or filled."""
    if not target.exists() or not any(target.iterdir()):
        os.replace(temporary, target)
        return
    old = _sibling(target)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """Make the folders above `target`; take back those made if the block raises."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            try:
                folder.rmdir()
            except OSError:
                break
        raise


def _sibling(target: Path) -> Path:
    """An unused hidden name beside `target`, with its suffix."""
    return target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix}")
