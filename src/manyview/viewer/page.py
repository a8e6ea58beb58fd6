"""One file that shows a scene or result in any browser, from disk, without a server or the network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.viewer.contents import Contents
from manyview.viewer.payload import build_payload

SCRIPTS = ("matrices.js", "canvas.js", "shapes.js", "splats.js", "stage.js", "panel.js", "main.js")
"""In the order in which the page runs them; they share one strict scope."""
DEFAULT_IMAGE_SIZE = 512


def export_page(
    contents: Contents,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    image_size: int = DEFAULT_IMAGE_SIZE,
    argument: str = "--export",
) -> int:
    """Write the page and return its size in bytes. Atomic.

    Everything is inside: script, style, pictures, splats, points and mesh. A content security policy forbids
    the page to ask for anything else. Pictures longer than `image_size` pixels are shrunk, which the page
    says. Raises `InputError` for a name that is not .html and for an existing file without `force`.
    """
    check_page_path(path, force=force, argument=argument)
    text = build_page(contents, image_size=image_size)
    write_text_atomic(path, text, argument=argument)
    return len(text.encode("utf-8"))


def check_page_path(path: str | os.PathLike[str], *, force: bool, argument: str = "--export") -> None:
    """Raise `InputError` unless a page may be written to `path`."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(argument, os.fspath(path), "expected a file name that ends in .html")
    if Path(path).is_dir():
        raise InputError(argument, os.fspath(path), "is a folder, expected a file name")
    if Path(path).exists() and not force:
        raise InputError(argument, os.fspath(path), "already exists; choose another name or give --force")


def build_page(contents: Contents, *, image_size: int = DEFAULT_IMAGE_SIZE) -> str:
    """The text of the page, the same for the same contents."""
    payload, block = build_payload(contents, image_size)
    style, script = _read("page.css"), _script(SCRIPTS)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in payload["facts"]
    )
    return _fill(
        _read("page.html"),
        {
            "POLICY": html.escape(policy, quote=False),
            "TITLE": html.escape(contents.title),
            "STYLE": style,
            "FACTS": rows,
            "PAYLOAD": _inert_json(payload),
            "BLOCK": block,
            "SCRIPT": script,
        },
    )


def _fill(template: str, parts: dict[str, str]) -> str:
    """`template` with each `@NAME@` replaced once, left to right, so that a part may hold any text."""
    pieces, rest = [], template
    for name, value in parts.items():
        before, mark, rest = rest.partition(f"@{name}@")
        assert mark, f"the template has {name} in its place"
        pieces += [before, value]
    return "".join([*pieces, rest])


def _inert_json(value: object) -> str:
    """Json that cannot end the element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _script(names: Sequence[str]) -> str:
    return '"use strict";\n' + "\n".join(_read(name) for name in names)


def _read(name: str) -> str:
    return resources.files("manyview.viewer").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
