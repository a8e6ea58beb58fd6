"""Docs that can be checked are: docstrings exist, links lead somewhere, printed commands parse."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import manyview
from manyview.cli import COMMANDS
from manyview.cli.shell import parse

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "manyview").rglob("*.py"))
SKIPPED = {".venv", ".git", "node_modules", "out", "runs", "demo"}
PAGES = [path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(path.relative_to(ROOT).parts)]


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_names(tree: ast.Module) -> list[Definition]:
    """Public functions, classes, and methods that no base class or protocol describes already."""
    found: list[Definition] = []
    for node in tree.body:
        if not isinstance(node, Definition) or node.name[0] == "_":
            continue
        found.append(node)
        inherits = isinstance(node, ast.ClassDef) and bool(node.bases)
        for child in node.body if isinstance(node, ast.ClassDef) and not inherits else []:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
                found.append(child)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src" / "manyview")))
def test_public_names_have_docstrings_and_return_types(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), f"{path.name} has no first line that says what it is"
    bare = []
    for node in public_names(tree):
        if not ast.get_docstring(node):
            bare.append(f"{node.name} (line {node.lineno}): no docstring")
        if not isinstance(node, ast.ClassDef) and node.returns is None:
            bare.append(f"{node.name} (line {node.lineno}): no return annotation")
    assert bare == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def printed_commands() -> list[tuple[str, str]]:
    """Every complete `manyview ...` line of a page, continuation lines joined."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^\s*(?:\$ )?(?:\.venv/bin/)?manyview ([a-z][^\n`]*)$", text, re.MULTILINE):
            found.append((str(page.relative_to(ROOT)), line.split("  #")[0].strip()))
    return found


def test_printed_commands_parse() -> None:
    for page, line in printed_commands():
        words = shlex.split(line)
        assert words[0] in COMMANDS, f"{page}: manyview {line}"
        assert parse(words[0], words[1:]) is not None, f"{page}: manyview {line}"


def test_changelog_names_the_version() -> None:
    assert f"## {manyview.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_contributing_names_only_real_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^ +make ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
