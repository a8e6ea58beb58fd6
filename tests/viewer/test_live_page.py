"""The live page: its address, what it refuses, and what a headless browser sees of it."""

from __future__ import annotations

import io
import socket
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from box_world import COLORS, write_box_result, write_box_truth
from headless_chromium import Chromium

from manyview.errors import InputError, MissingDependency
from manyview.viewer.contents import load_contents
from manyview.viewer.server import check_address, serve_contents


def test_without_viser_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_box_result(tmp_path / "result")
    contents = load_contents(tmp_path / "result")
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingDependency, match=r"manyview\[viewer\].*--export"):
        serve_contents(contents)


def test_addresses_that_cannot_be_had() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port}: is in use"):
            check_address("127.0.0.1", port)
    assert check_address("127.0.0.1", port) == port
    assert check_address("127.0.0.1", 0) > 0
    with pytest.raises(InputError, match="--port"):
        check_address("127.0.0.1", 70000)
    # A documentation address (RFC 5737), which no machine has.
    with pytest.raises(InputError, match="--host"):
        check_address("192.0.2.1", 8080)


def test_the_live_page(chromium: Chromium, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="the extra [viewer] is not installed")
    write_box_result(tmp_path / "my box")
    write_box_truth(tmp_path / "truth")
    said = io.StringIO()
    with redirect_stdout(said):
        live = serve_contents(load_contents(tmp_path / "my box", tmp_path / "truth"), port=0)
    try:
        assert said.getvalue() == "", "nothing below the command line prints"
        assert live.address.startswith("http://127.0.0.1:")
        chromium.open(live.address)
        chromium.wait_for("Boolean(document.body?.innerText.includes('Apache-2.0'))")
        text = chromium.evaluate("document.body.innerText")
        for words in ("my box", "2 observed, 2 generated", "box-net", "31", "observed", "front"):
            assert words in text
        # On a busy machine the page may be compared before all of it has arrived, so it is asked again.
        for _ in range(30):
            chromium.evaluate(button("Compare what is drawn"))
            chromium.wait_for("document.body.innerText.includes('drawn against truth:')")
            score = chromium.evaluate(
                r"Number(/drawn against truth: ([0-9.]+) dB/.exec(document.body.innerText)[1])"
            )
            if score > 24:
                break
            time.sleep(1)
        # Edges are smoothed otherwise; a box turned, mirrored or lit would be below 20 dB.
        assert score > 24
        chromium.wait_for("Number(document.querySelector('canvas').style.opacity || 1) === 1")
        seen = chromium.screenshot(tmp_path / "live.png")[:, :600]
        near = [int((abs(seen.astype(int) - COLORS[face]).max(axis=-1) < 50).sum()) for face in (0, 2, 4)]
        assert min(near) > 200, "three faces of the box, if with compressed tones"
        outside = [a for a in chromium.requests if not a.startswith((live.address, "data:", "blob:"))]
        assert outside == []
    finally:
        chromium.open("about:blank")
        live.stop()
    with socket.socket() as trial:
        assert trial.connect_ex(("127.0.0.1", int(live.address.rsplit(":", 1)[1]))) != 0, "the port is closed"


def button(words: str) -> str:
    """Code that presses the button whose text begins with `words`."""
    return f"[...document.querySelectorAll('button')].find(b => b.innerText.startsWith('{words}')).click()"
