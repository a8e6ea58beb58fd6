"""Flags that the scripts under papers/ have in common, and where their tables go."""

from __future__ import annotations

import argparse
from pathlib import Path

from manyview.bench.pages import fill_place
from manyview.io.atomic import write_text_atomic


def add_run_flags(parser: argparse.ArgumentParser, root: Path, data: str) -> None:
    """What is measured, on what, and where its numbers go. `root`: of the repository; `data`: in words, what
    data is asked for."""
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--weights", default="compact", help="compact, a folder, a hub id")
    parser.add_argument("--limit", type=int, help="only the first objects, this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--results", type=Path, default=root / "docs" / "results", help="folder written to")
    parser.add_argument("--force", action="store_true", help="replace earlier results")


def add_work_flag(parser: argparse.ArgumentParser) -> None:
    """For scripts that go on where they were stopped."""
    parser.add_argument("--work", type=Path, required=True, help="folder where finished answers are kept")


def add_table_flags(parser: argparse.ArgumentParser, page: Path) -> None:
    """What a table over a data set has beside them; `page`: where its figures are shown."""
    parser.add_argument("--every", type=int, default=1, help="every so many scenes")
    parser.add_argument("--no-perceptual", action="store_true", help="leave out stlpips_vgg and lpips_vgg")
    parser.add_argument("--page", type=Path, default=page, help="page to put it in")


def publish(
    given: argparse.Namespace, stem: str, title: str, page: str, marks: tuple[str, str], text: str, shown: str
) -> None:
    """Write `text` under its title to <results>/<stem>.md, and `shown` between the marks of the page, whose
    text so far is `page`."""
    write_text_atomic(given.results / f"{stem}.md", f"# {title}\n\n{text}")
    write_text_atomic(given.page, fill_place(page, *marks, shown), argument="--page")
