"""Real commands in real processes: what a user types, and what is on disk afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from manyview.cli import COMMANDS

# What `--help` must never load.
HEAVY = "('torch', 'diffusers', 'transformers', 'numpy')"


def manyview(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "manyview.cli", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import contextlib, io, sys
from manyview.cli import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["--help"]) == 0
    assert "tyro" not in sys.modules, "the overview needs no parser"
    for name in {sorted(COMMANDS)!r}:
        assert main([name, "--help"]) == 0
        assert main([name, "--no-such-flag"]) == 2
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_doctor(tmp_path: Path) -> None:
    done = manyview("doctor", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["required"] and not check["ok"]]
    assert failed == []
    assert report["ok"] is True
    assert done.returncode == 0
    names = {check["name"] for check in report["checks"]}
    assert {"python", "torch", "gpu", "ffmpeg", "current folder"} <= names
    assert all(
        check["fix"] for check in report["checks"] if check["name"].startswith("extra") and not check["ok"]
    )


def test_render_a_cube(tmp_path: Path) -> None:
    import trimesh

    trimesh.creation.box((1, 1, 1)).export(tmp_path / "cube.ply")
    words = ("render", "cube.ply", "--out", "set", "--size", "16", "--json")
    done = manyview(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == "set"
    scenes = sorted((tmp_path / "set").rglob("transforms.json"))
    assert len(scenes) == 1
    transforms = json.loads(scenes[0].read_text())
    assert len(transforms["frames"]) == 16
    assert (transforms["w"], transforms["h"]) == (16, 16)
    # 35 mm on a 32 mm sensor: 35 / 32 * 16 pixels.
    assert abs(transforms["fl_x"] - 17.5) < 1e-6
    for frame in transforms["frames"]:
        assert (scenes[0].parent / frame["file_path"]).is_file()

    # The same again keeps what is there; other options are refused.
    again = manyview(*words, cwd=tmp_path)
    assert json.loads(again.stdout)["kept"] == ["cube"]
    other = manyview(*words, "--seed", "1", cwd=tmp_path)
    assert other.returncode == 2
    assert json.loads(other.stdout)["error"]["argument"] == "--out"
