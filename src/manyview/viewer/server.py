"""The live page: viser draws the scene in a browser, with the pictures of one view beside it."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyview.errors import InputError, MissingDependency
from manyview.viewer.contents import Contents

if TYPE_CHECKING:
    from viser import ViserServer

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080


@dataclass(frozen=True, kw_only=True)
class LiveView:
    """A page being served from a thread of this process until `stop`."""

    address: str
    server: ViserServer

    def stop(self) -> None:
        """Close the port and end the thread."""
        # It reports that it stopped on stdout, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()


def serve_contents(contents: Contents, *, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> LiveView:
    """Start to serve a page that shows `contents`, and return.

    Only this machine can reach it as long as `host` is 127.0.0.1. `port` 0 takes any free one. Raises
    `MissingDependency` without viser and `InputError` for a host or port that cannot be had.
    """
    require_viser()
    chosen = check_address(host, port)
    # Late: an optional package. It reports its address on stdout, which belongs to the caller.
    with contextlib.redirect_stdout(io.StringIO()):
        import viser

        server = viser.ViserServer(host=host, port=chosen, label=contents.title, verbose=False)
    from manyview.viewer.live import fill_server

    try:
        fill_server(server, contents)
    except BaseException:
        server.stop()
        raise
    shown = f"[{host}]" if ":" in host else host
    return LiveView(address=f"http://{shown}:{server.get_port()}", server=server)


def require_viser() -> None:
    """Raise `MissingDependency` unless viser is installed."""
    found: Any = None
    with contextlib.suppress(ValueError):
        found = importlib.util.find_spec("viser")
    if found is None:
        raise MissingDependency(
            "view",
            "viser is not installed",
            "pip install 'manyview[viewer]', or write a page with --export page.html, which needs nothing",
        )


def check_address(host: str, port: int) -> int:
    """The port to listen on: `port`, or a free one for 0. Raises `InputError` where it cannot be had.

    viser would quietly move on to the next port.
    """
    if not 0 <= port <= 65535:
        raise InputError("--port", port, "expected a number from 0 to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            # As servers do, so that the port of one that just ended is free.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            return int(trial.getsockname()[1])
    except (socket.gaierror, UnicodeError):
        raise InputError("--host", host, "is no address of this machine; expected 127.0.0.1") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError("--host", host, "is no address of this machine; expected 127.0.0.1") from None
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise InputError("--port", port, f"{reason}; choose another, or 0 for any free one") from None
