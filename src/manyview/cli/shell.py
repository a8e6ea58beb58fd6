"""What every command shares: parsing, one-line errors, exit codes, and the single JSON object on stdout.

A command module holds `Options` (a dataclass whose fields become flags), `SUMMARY` (its help text) and
`run(options, progress) -> Answer`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import tyro

from manyview.errors import InputError, Stopped

DONE, BAD_INPUT, STOPPED = 0, 2, 130


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command has to say when it is done."""

    data: dict[str, Any] = field(default_factory=dict)
    """The object printed with `--json`."""
    text: str = ""
    """The lines printed without it."""
    code: int = DONE
    """The exit code."""


def command_module(command: str) -> ModuleType:
    """The module of a command; loads its flags but no torch."""
    return importlib.import_module(f"manyview.cli.{command}")


def parse(command: str, words: Sequence[str]) -> Any:
    """The `Options` of a command for `words`.

    Raises `InputError` when the words do not fit, and `SystemExit(0)` after printing help.
    """
    module = command_module(command)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _wide_messages(unless="-h" in words or "--help" in words):
            return tyro.cli(
                module.Options,
                prog=f"manyview {command}",
                description=module.SUMMARY,
                args=list(words),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(command, _one_line(messages.getvalue()), f"see manyview {command} --help") from None


def run_command(command: str, words: Sequence[str]) -> int:
    """Parse, run and report one command; returns the exit code. Exceptions that are bugs pass through."""
    as_json = "--json" in words
    try:
        options = parse(command, words)
        from manyview.cli.progress import TerminalProgress

        progress = TerminalProgress()
        try:
            with _stdout_reserved(as_json):
                answer: Answer = command_module(command).run(options, progress)
        finally:
            progress.finish()
    except InputError as error:
        return refuse(error.argument, error.value, error.accepted, as_json=as_json)
    except (KeyboardInterrupt, Stopped) as error:
        line = str(error) or "stopped; what is done is on disk"
        return _report({"argument": "", "line": line}, as_json, STOPPED)
    except SystemExit:  # after help
        return DONE
    if as_json:
        print(json.dumps(answer.data, allow_nan=False, default=str))
    elif answer.text:
        print(answer.text)
    return answer.code


def refuse(argument: str, value: object, accepted: str, *, as_json: bool) -> int:
    """Report unusable input and return its exit code."""
    error = InputError(argument, value, accepted)
    return _report({"argument": argument, "line": str(error)}, as_json, BAD_INPUT)


def _report(error: dict[str, str], as_json: bool, code: int) -> int:
    if as_json:
        print(json.dumps({"error": {**error, "code": code}}))
    else:
        word = "stopped" if code == STOPPED else "error"
        print(f"manyview: {word}: {error['line']}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    """The first statement of the parser's boxed message, and its suggestion where it has one."""
    kept: list[str] = []
    section = 0
    suggests = False
    for raw in message.splitlines():
        if raw.startswith(("╭", "╰")):
            continue
        row = raw.strip("│").rstrip()[1:]
        if row and not row.strip("─"):
            section += 1
            continue
        indent = len(row) - len(row.lstrip())
        suggests = suggests or row.startswith("Perhaps you meant")
        # Deeper lines repeat the help text of a flag.
        if indent < 8 and (section == 0 or (section == 1 and suggests)):
            kept.append(row.strip())
    return re.sub(r"\s+", " ", " ".join(kept)).strip() or "the options could not be read"


@contextlib.contextmanager
def _wide_messages(*, unless: bool) -> Iterator[None]:
    """Keep the parser from wrapping its messages, which would break paths in two."""
    before = os.environ.get("COLUMNS")
    if not unless:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


@contextlib.contextmanager
def _stdout_reserved(wanted: bool) -> Iterator[None]:
    """Send whatever a library prints to stderr, child processes included, so stdout carries one object."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
