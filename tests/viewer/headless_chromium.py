"""A headless Chromium steered through its debugging pipe: open a page, ask it things, take its picture.

The pipe (file descriptors 3 and 4, messages of json ended by a zero byte) needs no port and no package.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120.0


def find_chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return found


class Chromium:
    """One browser with one page. Keeps the address of everything the page asks for in `requests`."""

    def __init__(self, size: tuple[int, int] = (900, 600)) -> None:
        program = find_chromium()
        self._home = tempfile.TemporaryDirectory(prefix="chromium-test-", ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = [
            "--headless",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-extensions",
            "--disable-sync",
        ]
        flags += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]
        flags += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
        flags += [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={self._home.name}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        # The browser wants its ends of the pipe as 3 and 4, wherever they are now.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *flags, "--remote-debugging-pipe"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number, self._pending, self._session = 0, b"", None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go to a page; what it asked for before is forgotten."""
        self.requests.clear()
        self.complaints.clear()
        self._ask("Page.navigate", url=address)

    def evaluate(self, code: str) -> Any:
        """The value of an expression in the page, promises awaited."""
        answer = self._ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, code: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(code):
            assert time.monotonic() < end, f"the page never reached: {code}; {self.complaints}"
            time.sleep(0.05)

    def screenshot(self, path: Path | None = None) -> np.ndarray:
        """[H, W, 3] uint8 of what is on the screen."""
        data = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def resize(self, width: int, height: int) -> None:
        """Give the page another window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self._send("Browser.close")
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._home.cleanup()

    def _send(self, method: str, **parameters: object) -> int:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        return self._number

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        number = self._send(method, **parameters)
        end = time.monotonic() + SECONDS
        while True:
            message = self._receive(end)
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _receive(self, end: float) -> dict[str, Any]:
        parts = [self._pending]
        while b"\0" not in parts[-1]:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser ended"
            parts.append(part)
        first, _, self._pending = b"".join(parts).partition(b"\0")
        return json.loads(first)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        if message.get("method") == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
