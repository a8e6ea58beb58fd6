"""`manyview view` as typed: an exported page, refusals in one line, a served page that ends with Ctrl-C."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from manyview.cli import main
from manyview.io.scene import write_scene
from manyview.types import Views


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    views = Views(images=torch.linspace(0, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8), names=("a", "b", "c"))
    write_scene(views, tmp_path / "scene")
    return tmp_path / "scene"


def test_export(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = scene.parent / "page.html"
    assert main(["view", str(scene), "--export", str(page), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "command": "view",
        "folder": str(scene),
        "export": str(page),
        "bytes": page.stat().st_size,
    }
    before = page.read_bytes()
    assert main(["view", str(scene), "--export", str(page)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["view", str(scene), "--export", str(page), "--force", "--truth", str(scene)]) == 0
    assert page.read_bytes() != before
    assert b"PSNR against truth" in page.read_bytes()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere"),
        (["scene", "--export", "page.txt"], ".html"),
        (["scene", "--truth", "nowhere", "--export", "page.html"], "--truth: nowhere"),
        (["scene", "--port", "99999"], "65535"),
        (["scene", "--host", "no such host"], "--host"),
    ],
)
def test_bad_input_is_one_line(
    scene: Path,
    words: list[str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--port" in words or "--host" in words:
        pytest.importorskip("viser", reason="the extra [viewer] is not installed")
    monkeypatch.chdir(scene.parent)
    assert main(["view", *words]) == 2
    line = capsys.readouterr().err
    assert part in line
    assert line.count("\n") == 1
    assert not (scene.parent / "page.html").exists()


def test_serving_says_its_address_and_ends_with_ctrl_c(scene: Path) -> None:
    pytest.importorskip("viser", reason="the extra [viewer] is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "manyview.cli", "view", str(scene), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A runner in the background may have Ctrl-C ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 120)
        assert ready
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "closed\n"
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
