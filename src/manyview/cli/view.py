"""`manyview view`: look at a scene or result in the browser, live or as one file to keep or send."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.progress import Progress

SUMMARY = "Look at a scene or result: cameras, images, splats, points, mesh, depth, difference to the truth."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview view`."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A scene or a result folder."""
    host: str = "127.0.0.1"
    """Address to listen on; with 127.0.0.1 only this machine can look."""
    port: int = 8080
    """Port to listen on; 0 takes any free one."""
    export: Path | None = None
    """Write one html file that needs no server and no network, instead of serving."""
    truth: Path | None = None
    """A scene with the real images of the views, found by camera or else by name."""
    force: bool = False
    """Replace an exported file that already exists."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there; when serving, at the end."""


def run(options: Options, progress: Progress) -> Answer:
    """Check, then write the page, or serve until interrupted."""
    if not options.folder.is_dir():
        raise InputError("DIR", str(options.folder), "expected an existing scene or result folder")
    if options.truth is not None and not options.truth.is_dir():
        raise InputError("--truth", str(options.truth), "expected an existing scene folder")
    return _serve(options) if options.export is None else _export(options, options.export)


def _export(options: Options, path: Path) -> Answer:
    from manyview.viewer.contents import load_contents
    from manyview.viewer.page import check_page_path, export_page

    check_page_path(path, force=options.force)
    size = export_page(load_contents(options.folder, options.truth), path, force=options.force)
    data = {"command": "view", "folder": str(options.folder), "export": str(path), "bytes": size}
    return Answer(data=data, text=f"wrote {path} ({size / 1e6:.1f} MB); open it in a browser")


def _serve(options: Options) -> Answer:
    from manyview.viewer.server import check_address, require_viser, serve_contents

    require_viser()
    check_address(options.host, options.port)
    from manyview.viewer.contents import load_contents

    contents = load_contents(options.folder, options.truth)
    live = serve_contents(contents, host=options.host, port=options.port)
    # Said at once: the answer only comes when the page is closed.
    out = sys.stderr if options.json else sys.stdout
    open_to_all = options.host not in ("127.0.0.1", "localhost", "::1")
    print(f"{live.address}  (Ctrl-C ends it)", file=out, flush=True)
    if open_to_all:
        print("anyone who can reach this address can look", file=sys.stderr, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        live.stop()
    return Answer(
        data={"command": "view", "folder": str(options.folder), "address": live.address}, text="closed"
    )
