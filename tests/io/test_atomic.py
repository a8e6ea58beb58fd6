"""Writes are all or nothing, and a refusal of the system is one line."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic, write_text_atomic, writing_file, writing_folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    write_text_atomic(path, "eins")
    write_bytes_atomic(path, "zwölf".encode())
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert everything(tmp_path) == ["new", "new/deep", "new/deep/file.txt"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "file", "x")
    finally:
        os.umask(old)
    # 0666 without the bits of the mask 027 is 0640.
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.txt"
    write_text_atomic(path, "old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"^--out: .*kept\.txt: the disk is full") as caught:
        write_text_atomic(path, "new")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["kept.txt"]


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    # A process that may write files of 4096 bytes at most: the write itself fails half way.
    script = f"""
    import resource, signal
    from pathlib import Path
    from manyview.errors import InputError
    from manyview.io.atomic import write_bytes_atomic
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    write_bytes_atomic(Path({str(tmp_path)!r}) / "small", b"x" * 4096)
    try:
        write_bytes_atomic(Path({str(tmp_path)!r}) / "made" / "large", b"x" * 4097)
    except InputError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    expected = f"--out: {tmp_path}/made/large: a file would be larger than this system allows"
    assert done.stdout.strip() == expected
    assert everything(tmp_path) == ["small"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a part of this path is a file"):
        write_text_atomic(tmp_path / "file" / "below", "y")
    with pytest.raises(InputError, match="is a file, expected a folder"), writing_folder(tmp_path / "file"):
        pytest.fail("must not start")
    assert (tmp_path / "file").read_text() == "x"


def test_writing_file_keeps_the_suffix(tmp_path: Path) -> None:
    with writing_file(tmp_path / "video.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"1")
    assert everything(tmp_path) == ["video.mp4"]


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with writing_folder(out) as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
    assert everything(tmp_path) == ["a", "a/out", "a/out/x"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failed_folder_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def fill() -> None:
        with writing_folder(tmp_path / "new" / "out") as folder:
            (folder / "half").write_text("1")
            raise failure

    with pytest.raises(failure):
        fill()
    assert everything(tmp_path) == []


def test_full_disk_inside_a_folder(tmp_path: Path) -> None:
    def fill() -> None:
        with writing_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("1")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"^--out: .*/out: the disk is full"):
        fill()
    assert everything(tmp_path) == []


def test_filled_folder_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing_folder(out) as folder:
        (folder / "manifest.json").write_text("{}")
        (folder / "old").write_text("1")
    with pytest.raises(InputError, match="--force"), writing_folder(out):
        pytest.fail("must not start")
    with writing_folder(out, force=True) as folder:
        (folder / "manifest.json").write_text("{}")
    assert everything(tmp_path) == ["out", "out/manifest.json"]


def test_force_spares_folders_of_others(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(InputError, match="did not write"), writing_folder(tmp_path / "photos", force=True):
        pytest.fail("must not start")
    assert everything(tmp_path) == ["photos", "photos/holiday.jpg"]


def test_failed_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("old")

    def fill() -> None:
        with writing_folder(out, force=True) as folder:
            (folder / "manifest.json").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fill()
    assert (out / "manifest.json").read_text() == "old"
    assert everything(tmp_path) == ["out", "out/manifest.json"]


def test_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="current folder"), writing_folder("."):
        pytest.fail("must not start")
