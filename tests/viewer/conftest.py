"""One browser for all tests of this folder: starting it costs more than any of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from headless_chromium import Chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser of 1000 x 640 pixels; skips where there is none."""
    browser = Chromium((1000, 727))
    yield browser
    browser.close()
