"""Runs in processes of their own: killed ones, and two that train together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_task import TinyTask, tiny_config

from manyview.training.loop import fit

HERE = Path(__file__).parent


def run(*words: str) -> str:
    # A launcher around the tests must not lend its process group to these.
    clean = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    done = subprocess.run(
        [sys.executable, *words],
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its workers")
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    found = json.loads(run(str(HERE / "kill_often.py"), str(tmp_path), "20").splitlines()[-1])
    assert found["kills"] == 20
    # Most attempts went on from a checkpoint, so this is not about fresh starts.
    assert found["resumed"] >= 10
    assert found["runs"] >= 1
    assert found["equal"] == found["runs"]


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(HERE / "tiny_task.py"), str(tmp_path / "two"), "2"),
    )
    one = fit(TinyTask(dropout=0), tiny_config(batch_size=4), tmp_path / "one")
    two = json.loads((tmp_path / "two" / "train.json").read_text())
    assert two["processes"] == 2
    assert two["items"] == one.items
    assert len(two["curve"]) == len(one.curve) == 3
    for mine, theirs in zip(one.curve, two["curve"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    exported = load_file(tmp_path / "two" / "export" / "weights.safetensors")
    for name, value in load_file(one.export / "weights.safetensors").items():
        torch.testing.assert_close(value, exported[name], rtol=0, atol=2e-3)
