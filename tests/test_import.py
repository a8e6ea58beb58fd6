"""Importing the package does nothing but define names: no torch, no files, no network, no global settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Run in a fresh interpreter. Blame falls on the innermost frame that is not the standard library's, so that
# what a third-party package does while it loads is not counted as ours.
PROBE = r"""
import importlib, json, os, pkgutil, sys, sysconfig, warnings

OPTIONAL = ("bpy", "viser", "stlpips_pytorch", "pillow_heif", "torchvision")
for name in OPTIONAL:
    sys.modules[name] = None  # importing one raises ImportError

stdlib = (sysconfig.get_paths()["stdlib"] + os.sep, "<frozen")
third_party = os.sep + "site-packages" + os.sep
faults = []

def blame():
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        ours = frame.f_globals.get("__name__", "").startswith("manyview")
        if ours:
            return frame.f_globals["__name__"] + ":" + str(frame.f_lineno)
        if third_party in name or not name.startswith(stdlib):
            return None
        frame = frame.f_back
    return None

def audit(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in ("os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "os.chdir", "os.putenv"):
        pass
    elif not event.startswith("socket."):
        return
    place = blame()
    if place:
        faults.append(f"{place} {event} {arguments[:1]}")

sys.addaudithook(audit)
for name in ("filterwarnings", "simplefilter"):
    def recorded(*args, _real=getattr(warnings, name), _name=name, **kwargs):
        place = blame()
        if place:
            faults.append(f"{place} warnings.{_name}")
        return _real(*args, **kwargs)
    setattr(warnings, name, recorded)

# The probe must be able to find faults: a module of ours that does two forbidden things.
exec("import os, warnings\nopen(os.devnull, 'w').close()\nwarnings.simplefilter('default')",
     {"__name__": "manyview.sample"})
caught = len(faults)
faults.clear()

before = set(sys.modules)
import manyview
light = sorted({name.split(".")[0] for name in set(sys.modules) - before})

import torch, diffusers, transformers
def state():
    return [os.getcwd(), str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.initial_seed(), torch.are_deterministic_algorithms_enabled(),
            str(torch.get_default_device()), torch.get_float32_matmul_precision()]
start = state()
loaded = []
for info in pkgutil.walk_packages(manyview.__path__, "manyview."):
    if not info.name.endswith("__main__"):
        importlib.import_module(info.name)
        loaded.append(info.name)
print(json.dumps({"light": light, "faults": faults, "caught": caught, "start": start, "end": state(),
                  "loaded": loaded,
                  "public": [name for name in manyview.__all__ if not hasattr(manyview, name)]}))
"""


def test_import_has_no_side_effects(tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "rich", "tyro"}
    assert heavy.isdisjoint(report["light"])
    assert report["caught"] == 2
    assert report["faults"] == []
    assert report["start"] == report["end"]
    assert report["public"] == []
    assert len(report["loaded"]) > 20
    assert list(work.iterdir()) == []
