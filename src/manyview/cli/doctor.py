"""`manyview doctor`: what is installed, what is missing, and the line that mends it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from manyview import __version__
from manyview.cli.shell import BAD_INPUT, DONE, Answer
from manyview.errors import InputError
from manyview.methods import METHODS
from manyview.progress import Progress
from manyview.weights import open_bundle
from manyview.weights.bundle import COMPACT

SUMMARY = "Check this installation: versions, processor, extras, bundled weights, ffmpeg, write access."

# Extra -> the module it brings and what it is for.
_EXTRAS = {
    "render": ("bpy", "manyview render --engine cycles"),
    "bench": ("stlpips_pytorch", "the perceptual metric of manyview eval"),
    "viewer": ("viser", "the browser view"),
    "spz": ("gsply", "splats in .spz files"),
    "masks": ("rembg", "manyview synth --masks rembg"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview doctor`."""

    json: bool = False
    """Print one JSON object on stdout and nothing else there."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str
    required: bool = True
    fix: str = ""


def run(options: Options, progress: Progress) -> Answer:
    """Run every check; the exit code is 2 if something required is broken."""
    groups: list[Callable[[], list[Check]]] = [
        _packages,
        _machine,
        _extras,
        _weights,
        _ffmpeg,
        _write_access,
    ]
    checks = [check for group in groups for check in group()]
    broken = [check for check in checks if check.required and not check.ok]
    lines = [
        f"{_mark(check)} {check.name}: {check.detail}" + (f" -> {check.fix}" if check.fix else "")
        for check in checks
    ]
    lines.append(f"{len(broken)} required checks failed" if broken else "everything required is in order")
    data = {"command": "doctor", "ok": not broken, "checks": [asdict(check) for check in checks]}
    return Answer(data=data, text="\n".join(lines), code=BAD_INPUT if broken else DONE)


def _mark(check: Check) -> str:
    return "ok     " if check.ok else ("BROKEN " if check.required else "absent ")


def _packages() -> list[Check]:
    checks = [
        Check(name="manyview", ok=True, detail=__version__),
        Check(name="python", ok=True, detail=platform.python_version()),
    ]
    try:
        wanted = importlib.metadata.requires("manyview") or []
    except importlib.metadata.PackageNotFoundError:
        fix = "pip install ."
        return [*checks, Check(name="package data", ok=False, detail="manyview is not installed", fix=fix)]
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None, f"a requirement starts with a name: {requirement}"
        try:
            version = importlib.metadata.version(match[0])
            checks.append(Check(name=match[0], ok=True, detail=version))
        except importlib.metadata.PackageNotFoundError:
            fix = f"pip install '{requirement}'"
            checks.append(Check(name=match[0], ok=False, detail="not installed", fix=fix))
    return checks


def _machine() -> list[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = Check(name="cpu", ok=True, detail=f"{cores} cores, {torch.get_num_threads()} torch threads")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    else:
        gpu = "no CUDA GPU usable by this torch; the compact weights run on the CPU"
    return [
        processor,
        Check(name="gpu", ok=torch.cuda.is_available(), detail=gpu, required=False),
        Check(name="memory", ok=True, detail=_memory()),
    ]


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every platform tells
        return "unknown"
    return f"{total / 1e9:.0f} GB"


def _extras() -> list[Check]:
    checks = []
    for extra, (module, use) in _EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        fix = "" if there else f"pip install 'manyview[{extra}]'"
        checks.append(
            Check(name=f"extra {extra}", ok=there, detail=f"{module}, for {use}", required=False, fix=fix)
        )
    return checks


def _weights() -> list[Check]:
    checks = []
    for method in METHODS:
        name = f"weights compact/{method}"
        if not (COMPACT / method).is_dir():
            fix = f"manyview train {method} makes some; name them with --weights"
            checks.append(Check(name=name, ok=False, detail="not in this package", required=False, fix=fix))
            continue
        try:
            bundle = open_bundle("compact", method)
            detail = f"sha256 {bundle.sha256[:12]}, {bundle.licence}"
            checks.append(Check(name=name, ok=True, detail=detail))
        except InputError as error:
            fix = "pip install --force-reinstall manyview"
            checks.append(Check(name=name, ok=False, detail=error.accepted, fix=fix))
    there = any(check.ok for check in checks)
    detail = "at least one method runs without a download" if there else "none found"
    return [*checks, Check(name="bundled weights", ok=there, detail=detail)]


def _ffmpeg() -> list[Check]:
    try:
        program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        fix = "pip install --force-reinstall imageio-ffmpeg"
        return [
            Check(
                name="ffmpeg", ok=False, detail=" ".join(str(error).split()) or type(error).__name__, fix=fix
            )
        ]
    return [Check(name="ffmpeg", ok=True, detail=done.stdout.splitlines()[0].split(" Copyright")[0])]


def _write_access() -> list[Check]:
    checks = []
    for name, folder in (("current folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            checks.append(Check(name=name, ok=True, detail=f"{folder} is writable"))
        except OSError as error:
            fix = "run from a folder you may write to, or set TMPDIR"
            checks.append(Check(name=name, ok=False, detail=f"{folder}: {error.strerror}", fix=fix))
    return checks
