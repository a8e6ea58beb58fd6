"""The exported page in a headless browser, opened from disk, against pictures made apart from it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from box_world import (
    COLORS,
    SIZE,
    as_dc,
    box_cameras,
    box_views,
    splat_bytes,
    write_box_result,
    write_box_truth,
)
from headless_chromium import Chromium
from splat_formula import draw_splats

from manyview.io.scene import write_scene
from manyview.types import Views
from manyview.viewer.contents import load_contents
from manyview.viewer.page import export_page

READY = "document.body?.dataset.state === 'ready'"

# Overlapping, long and turned, one of them coloured by direction, one half transparent.
SPLATS = [
    {
        "xyz": [0.1, 0.0, 0.05],
        "f_dc": as_dc((0.9, 0.2, 0.1)),
        "opacity": 3.0,
        "scale": [-1.6, -3.0, -2.6],
        "rot": [0.8, 0.1, 0.5, -0.3],
    },
    {
        "xyz": [-0.15, 0.1, 0.0],
        "f_dc": as_dc((0.1, 0.5, 0.9)),
        "opacity": 0.0,
        "scale": [-2.0, -1.8, -3.5],
        "rot": [0.2, -0.6, 0.3, 0.7],
    },
    {
        "xyz": [0.0, -0.25, -0.15],
        "f_dc": as_dc((0.5, 0.5, 0.5)),
        "f_rest": [0.0, 0.0, 0.7, 0.7, 0.0, 0.0, 0.0, 0.7, 0.0],
        "opacity": 4.0,
        "scale": [-2.4] * 3,
        "rot": [1, 0, 0, 0],
    },
]


@pytest.fixture(scope="module")
def box_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box's result with its truth as a page."""
    folder = tmp_path_factory.mktemp("box")
    write_box_result(folder / "my box")
    write_box_truth(folder / "truth")
    export_page(load_contents(folder / "my box", folder / "truth"), folder / "page.html")
    return folder / "page.html"


def choose(chromium: Chromium, index: int) -> None:
    """Move the slider as a hand would, and wait for the pictures."""
    chromium.evaluate(
        f"document.getElementById('view').value = {index};"
        "document.getElementById('view').dispatchEvent(new Event('input'))"
    )
    chromium.wait_for(f"{READY} && document.getElementById('place').textContent.startsWith('{index + 1} ')")


def drawn(chromium: Chromium) -> np.ndarray:
    """[H, W, 3] in [0, 1]: what the page drew through the chosen camera."""
    values = chromium.evaluate(
        "(c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
        "(document.querySelector('#picture-render canvas'))"
    )
    width, height, *rest = values
    return np.array(rest, dtype=np.float64).reshape(height, width, 4)[..., :3] / 255


def decibels(error: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(error).mean()))


def count(picture: np.ndarray, color: tuple[int, ...], within: int = 6) -> int:
    """Pixels of a colour."""
    return int((np.abs(picture.astype(int) - color).max(axis=-1) <= within).sum())


def mean_row(picture: np.ndarray, color: tuple[int, ...]) -> float:
    """Middle height of the pixels of a colour, from the top."""
    return float(np.argwhere(np.abs(picture.astype(int) - color).max(axis=-1) <= 6)[:, 0].mean())


def test_the_box_page(chromium: Chromium, box_page: Path, tmp_path: Path) -> None:
    chromium.open(box_page.as_uri())
    chromium.wait_for(READY)
    seen = chromium.screenshot(tmp_path / "box.png")
    assert chromium.complaints == []
    outside = [address for address in chromium.requests if not address.startswith("data:")]
    assert outside == [box_page.as_uri()], "nothing but the file itself"

    scene = seen[:, : int(0.6 * seen.shape[1])]
    assert 0.5 < (scene == 255).all(axis=-1).mean() < 0.98, "an object on white"
    # From beside the first camera (azimuth 20 + 20 degrees, above): the faces +x, +y and +z, upright.
    red, green, yellow = (count(scene, tuple(COLORS[face])) for face in (0, 2, 4))
    assert min(red, green, yellow) > 1000
    assert mean_row(scene, tuple(COLORS[4])) < mean_row(scene, tuple(COLORS[0])), "the top face is above"
    # Frames of given views in grey, of generated ones in green.
    assert count(scene, (70, 70, 70)) > 100
    assert count(scene, (26, 152, 80)) > 50

    text = chromium.evaluate("document.body.innerText")
    for words in ("my box", "4 (2 observed, 2 generated)", "31", "Apache-2.0", "box-net", "12 triangles"):
        assert words in text
    assert chromium.evaluate("document.getElementById('badge').textContent") == "observed"


def test_the_box_drawn_through_each_camera(chromium: Chromium, box_page: Path) -> None:
    chromium.open(box_page.as_uri())
    chromium.wait_for(READY)
    views, truth = box_views(), load_contents(box_page.parent / "my box", box_page.parent / "truth").truth
    assert truth is not None
    real = views.over(1.0).permute(0, 2, 3, 1).double().numpy()
    for index in range(4):
        choose(chromium, index)
        picture = drawn(chromium)
        # The same box by another program: only the smoothing of edges differs (4 samples against 16).
        assert decibels(picture - real[index]) > 29
        if index > 0:
            assert decibels(picture - real[0]) < 20, "the views do differ"
        captions = chromium.evaluate("document.getElementById('pictures').innerText")
        score = re.search(r"difference to truth: PSNR ([0-9.]+) dB", captions)
        if index >= 2:
            assert score is not None
            assert float(score[1]) == pytest.approx(float(truth.psnr[index]), abs=0.01)
        drawn_score = re.search(r"drawn against truth: PSNR ([0-9.]+) dB", captions)
        assert drawn_score is not None
        # The truth went through 8 bits.
        assert float(drawn_score[1]) == pytest.approx(decibels(picture - real[index]), abs=0.2)
    assert chromium.evaluate("document.getElementById('badge').textContent") == "generated"


def test_splats_are_drawn_by_the_formula(chromium: Chromium, tmp_path: Path) -> None:
    write_scene(box_views(observed=4), tmp_path / "scene")
    # Thousands that cannot be seen go before: the tables the page looks them up in have 4096 entries a row.
    hidden = [
        {**SPLATS[0], "xyz": place, "opacity": -20.0}
        for place in np.random.default_rng(0).uniform(-0.4, 0.4, (4200, 3)).tolist()
    ]
    (tmp_path / "scene" / "splats.ply").write_bytes(splat_bytes([*hidden, *SPLATS]))
    export_page(load_contents(tmp_path / "scene"), tmp_path / "page.html")
    chromium.open((tmp_path / "page.html").as_uri())
    chromium.wait_for(READY)
    assert chromium.complaints == []
    cameras = box_cameras()
    for index in range(4):
        choose(chromium, index)
        expected = draw_splats(
            SPLATS, cameras.world_from_cam[index].double().numpy(), cameras.K[index].double().numpy(), SIZE
        )
        error = np.abs(drawn(chromium) - np.clip(expected, 0, 1))
        # 8 bits a blend, 16-bit floats, and a cut-off that may fall on either side of a pixel.
        assert error.max() < 0.03
        assert error.mean() < 0.003
        assert (expected < 0.9).any(axis=-1).mean() > 0.05
    big = chromium.screenshot(tmp_path / "splats.png")[:, : int(0.6 * 1000)]
    assert count(big, (255, 255, 255), 0) < 0.99 * big[..., 0].size


def test_the_policy_holds(chromium: Chromium, box_page: Path) -> None:
    chromium.open(box_page.as_uri())
    chromium.wait_for(READY)
    chromium.requests.clear()
    refused = chromium.evaluate(
        "new Promise(done => {"
        " document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " new Image().src = 'http://127.0.0.1:9/picture.png'; })"
    )
    assert refused == "img-src"
    assert (
        chromium.evaluate("fetch('http://127.0.0.1:9/data').then(() => 'sent', () => 'refused')") == "refused"
    )


def test_a_narrow_window_and_views_without_cameras(chromium: Chromium, tmp_path: Path) -> None:
    views = box_views()
    write_scene(Views(images=views.images, names=views.names), tmp_path / "plain")
    export_page(load_contents(tmp_path / "plain"), tmp_path / "page.html")
    chromium.resize(375, 700)
    try:
        chromium.open((tmp_path / "page.html").as_uri())
        chromium.wait_for(READY)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= 375
        assert chromium.evaluate("getComputedStyle(document.getElementById('stage')).display") == "none"
        assert chromium.evaluate("document.querySelector('#picture-view img').naturalWidth") == SIZE
        assert count(chromium.screenshot(tmp_path / "plain.png"), tuple(COLORS[0])) > 500
    finally:
        chromium.resize(1000, 640)
