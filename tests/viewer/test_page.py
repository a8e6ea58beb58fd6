"""The exported page as text: whole, the same every time, and unable to ask for anything."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from box_world import COLORS, as_dc, splat_bytes, write_box_result
from PIL import Image

from manyview.errors import InputError
from manyview.viewer.contents import load_contents
from manyview.viewer.page import build_page, export_page
from manyview.viewer.pictures import HEAT, as_data_uri, color_by

TITLE = "a </script><b>&amp; @BLOCK@"
GAUSSIAN = {
    "xyz": [0.25, 0.5, -1.0],
    "f_dc": as_dc((1, 0.5, 0)),
    "f_rest": [0.125 * i for i in range(9)],
    "opacity": 0.0,
    "scale": [-3.0, -2.0, -1.0],
    "rot": [0, 0, 2, 0],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page") / "result"
    write_box_result(folder)
    (folder / "splats.ply").write_bytes(splat_bytes([GAUSSIAN]))
    contents = dataclasses.replace(load_contents(folder), title=TITLE)
    text = build_page(contents)
    assert text == build_page(contents), "the same contents give the same page"
    return text


def element(page: str, name: str) -> str:
    found = re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def test_nothing_outside_is_named(page: str) -> None:
    pictures = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page)
    code = pictures.replace(element(page, "block"), "")
    assert re.findall(r"(?:https?:|ftp:|ws:)?//[a-z0-9.-]+\.[a-z]+", code) == []
    assert re.findall(r"""\b(?:src|href)\s*=\s*["'](?!data:)""", code) == []
    assert re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts|sendBeacon)\b", code) is None
    assert "default-src 'none'" in page


def test_the_policy_allows_exactly_the_own_script_and_style(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        bodies = re.findall(pattern, page, re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_a_title_cannot_break_out(page: str) -> None:
    assert "<title>a &lt;/script&gt;&lt;b&gt;&amp;amp; @BLOCK@</title>" in page
    assert json.loads(element(page, "payload"))["title"] == TITLE
    assert "<b>" not in page


def test_facts_are_in_the_text_itself(page: str) -> None:
    for words in ("seeds</th><td>31<", "licence</th><td>Apache-2.0<", "2 observed, 2 generated"):
        assert words in page


def test_arrays_arrive(page: str) -> None:
    payload = json.loads(element(page, "payload"))
    block = gzip.decompress(base64.b64decode(element(page, "block")))

    def array(place: list[int], kind: str) -> np.ndarray:
        return np.frombuffer(block, kind, place[1] // np.dtype(kind).itemsize, place[0])

    splats, mesh = payload["splats"], payload["mesh"]
    assert array(splats["means"], "<f4").tolist() == GAUSSIAN["xyz"]
    texels = array(splats["texels"], "<f2").reshape(6, 4)
    assert texels[0].tolist() == [0, 0, 1, 0]  # unit length
    assert texels[1].tolist() == [-3, -2, -1, 0.5]  # the sigmoid of 0
    np.testing.assert_allclose(texels[2, :3], GAUSSIAN["f_dc"], atol=1e-3)
    # The file holds red, then green, then blue; a texel holds one coefficient of each.
    assert texels[3, :3].tolist() == [0, 0.375, 0.75]
    vertices = array(mesh["vertices"], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(vertices.max(axis=0), [0.4, 0.3, 0.25], atol=1e-6)
    corners = vertices[array(mesh["indices"], "<u4")].reshape(-1, 3, 3)
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((outward * corners.mean(axis=1)).sum(axis=1) > 0).all()
    texture = Image.open(io.BytesIO(base64.b64decode(mesh["texture"].split(",")[1])))
    assert texture.getpixel((4, 4)) == tuple(COLORS[0])


def test_large_pictures_are_shrunk_and_the_page_says_so(tmp_path: Path) -> None:
    write_box_result(tmp_path / "result")
    contents = load_contents(tmp_path / "result")
    small = json.loads(element(build_page(contents, image_size=12), "payload"))
    picture = Image.open(io.BytesIO(base64.b64decode(small["views"][0]["image"].split(",")[1])))
    assert picture.size == (12, 12)
    assert ["pictures", "shown at 12 pixels a side at most"] in small["facts"]


def test_writing(tmp_path: Path) -> None:
    write_box_result(tmp_path / "result")
    contents = load_contents(tmp_path / "result")
    size = export_page(contents, tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").stat().st_size == size
    with pytest.raises(InputError, match="--force"):
        export_page(contents, tmp_path / "new" / "page.html")
    assert export_page(contents, tmp_path / "new" / "page.html", force=True) == size
    with pytest.raises(InputError, match="html"):
        export_page(contents, tmp_path / "page.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "result"]


def test_colours_of_numbers() -> None:
    # Halfway between the second and third of four stops lies at 1/2.
    expected = np.round((np.array(HEAT[1]) + HEAT[2]) / 2)
    assert np.abs(color_by(np.array([[0.5]]), HEAT)[0, 0] - expected).max() <= 1
    assert color_by(np.array([[-1.0, 9.0]]), HEAT)[0].tolist() == [list(HEAT[0]), list(HEAT[3])]


def test_pictures_are_lossless() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    data = base64.b64decode(as_data_uri(noise).split(",")[1])
    assert (np.asarray(Image.open(io.BytesIO(data))) == noise).all()
