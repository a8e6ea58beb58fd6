"""All compact weights from nothing at toy size: killed, gone on with, opened by `manyview.methods.load`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import trimesh

from manyview.bench.fewview_rows import regressor_row
from manyview.geometry.trajectories import orbit
from manyview.methods import load
from manyview.training.checkpoint import newest_checkpoint
from manyview.training.interrupts import Interrupts
from manyview.types import Views
from manyview.weights.packing import is_packed

SCRIPT = Path(__file__).parents[2] / "papers" / "compact" / "train_all.py"
VAE_STEPS = 30
# The real recipe with fewer and smaller examples; run here and, to be killed, in another process.
SMALL = f"""
import importlib.util, sys
from dataclasses import replace

def small():
    sys.path.insert(0, {str(SCRIPT.parent)!r})  # as where the script is run
    spec = importlib.util.spec_from_file_location("train_all", {str(SCRIPT)!r})
    module = sys.modules["train_all"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SIZE, module.NUM_OBJECTS, module.MESH_TURNS = 64, 20, 1
    module.NUM_RIGS, module.RIG_OBJECTS = 1, 10
    module.ELEVATIONS, module.ORBIT_OBJECTS, module.ORBIT_TURNS = (10.0,), 10, 1
    module.FINE_ELEVATIONS, module.FINE_OBJECTS, module.OWN_STEPS = (30.0,), 10, 1
    module.MORE_MEAN_MESHES, module.MEAN_STEPS = 1, 1
    module.ANIMALS, module.HELD_OUT_ANIMALS = 20, 40
    module.SEARCH = module.SearchOptions(num_samples=200, num_components=6, searched=6, num_codes=4)
    for name, part in module.PARTS.items():
        steps = {VAE_STEPS * 10} if name == "vae" else 20
        options = {{**part.options, "crop": 8}} if part.stage == "hi3d_refine" else part.options
        # After two steps an autoencoder draws one picture of all codes, in which no sweep finds a turn.
        options = {{}} if part.stage == "refiner_generator" else options
        module.PARTS[name] = replace(part, steps=steps, batch_size=2, options=options)
    return module
"""
SHORT = ("--scale", "0.1", "--device", "cpu", "--dtype", "fp32", "--threads", "1", "--workers", "1")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    names: dict[str, Any] = {}
    exec(SMALL, names)
    return names["small"]()


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(12):
        box = trimesh.creation.box((1, 1 + number, 1))
        if number in (0, 1, 10):
            box.export(folder / f"{number:03d}.ply")
    return folder


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_from_nothing_through_a_kill_to_a_bundle(
    script: ModuleType, meshes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    driver = tmp_path / "driver.py"
    driver.write_text(SMALL + "\nsys.exit(small().main(sys.argv[1:]))\n")
    words = ["--work", str(work), "--meshes", str(meshes), *SHORT, "--checkpoint-minutes", "0"]
    process = subprocess.Popen(
        [sys.executable, str(driver), *words], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 600
    while newest_checkpoint(work / "runs" / "vae" / "checkpoints") is None:
        assert process.poll() is None, "ended before its second part began"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    checkpoint = newest_checkpoint(work / "runs" / "vae" / "checkpoints")
    assert checkpoint is not None
    reached = int(checkpoint.name.partition("-")[2])
    assert 1 <= reached < VAE_STEPS
    assert not (work / "runs" / "vae" / "train.json").exists()

    # Every tenth of the names 000, 001, 010 is the first alone.
    held_out = json.loads((work / "data" / "done.json").read_text())
    assert held_out == {"objects": 2, "turns": 1, "held_out": ["000.ply"]}
    assert json.loads((work / "data" / "meshes" / "packed.json").read_text())["source"] == ["001", "010"]

    # No minutes left: nothing happens. What is done stays as it is. A stage that needs another says so.
    before = stamps(work)
    assert script.main([*words, "--minutes", "0"]) == 130
    assert script.main([*words, "--stage", "dimvis"]) == 2
    shown = capfd.readouterr().err
    assert "the same command goes on" in shown
    assert "needs the stage vae" in shown
    assert script.main([*words[:-2], "--scale", "0.2"]) == 2
    assert "was begun with 0.1" in capfd.readouterr().err
    assert stamps(work) == before

    # The rest, without the meshes: they are in the data already.
    words.remove("--meshes")
    words.remove(str(meshes))
    assert script.main(words) == 0
    shown = capfd.readouterr()
    left = (VAE_STEPS - reached) * 2
    assert f"train vae: {left}/{left} " in shown.err
    assert "vae_48: done before" in shown.out
    after = stamps(work)
    kept = [path for path in before if "/data/" in path or "/vae_48/" in path]
    assert len(kept) > 5
    assert all(after[path] == before[path] for path in kept)
    assert json.loads((work / "runs" / "vae" / "train.json").read_text())["steps"] == VAE_STEPS
    assert json.loads((work / "runs" / "dimvis" / "train.json").read_text())["settings"]["slot_time"]

    bundle = work / "bundle"
    pipeline = load("dimvis", bundle / "dimvis")
    views = Views(images=torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    made = pipeline(views, num_steps=1).views.images
    assert made.shape == (4, 3, 128, 128)
    assert torch.equal(made[0], views.images[0])
    pair = load("one2one", bundle / "one2one")
    cameras = orbit(4, size=128)
    posed = Views(images=views.images, cameras=cameras[0])
    assert len(pair(posed, cameras[[1]], num_steps=1).views) == 2

    posed = json.loads((work / "runs" / "sparsefusion_eft" / "train.json").read_text())
    assert posed["settings"]["shares"] == [0.5, 0.25, 0.25]
    assert (work / "data" / "random" / "rig00" / "packed.json").is_file()
    fields = load("sparsefusion", bundle / "sparsefusion")
    assert set(fields.bundle.components) == {"vae", "eft", "unet", "scheduler"}
    drawn = fields(Views(images=views.images, cameras=cameras[0]), cameras[[1]], mode="vldm", num_steps=1)
    assert drawn.views.images.shape == (2, 3, 128, 128)
    baseline = regressor_row(str(bundle / "pixelnerf"), 4, "cpu")
    given = Views(images=views.images, cameras=cameras[0])
    assert baseline.answer(given, cameras[[1]], 0).shape == (1, 3, 128, 128)

    for stage, wanted in {
        "depth": "relative_val",
        "elevation": "error_deg_val",
        "orbit": "loss_val_high",
        "refine": "loss_val_low",
    }.items():
        assert wanted in json.loads((work / f"runs/hi3d_{stage}/train.json").read_text())["validation"]
    turning = load("hi3d", bundle / "hi3d")
    parts = {"unet", "scheduler", "refiner", "refine_scheduler", "depth", "elevation"}
    assert set(turning.bundle.components) == {"vae", "image_encoder", *parts}
    assert turning.unet.config["sweep_depths"] == 12
    given = Views(images=views.images, cameras=cameras[0])
    made = turning(given, num_steps=1, refine_steps=1).views.images
    assert made.shape == (16, 3, 256, 256)

    run = json.loads((work / "runs/tunet/train.json").read_text())
    assert run["settings"]["shares"] == [0.25] * 4
    # Both procedural objects at this scale, both meshes, two objects of the other elevation and one mesh.
    assert run["settings"]["examples"] == 2 + 2 + 2 + 1
    assert set(run["validation"]) == {"loss_val", "copy_val"}
    pairs = load("tunet", bundle / "tunet")
    assert set(pairs.bundle.components) == {"vae", "image_encoder", "tunet", "base", "scheduler"}
    drawn = pairs(given, cameras[[1, 2]], mean_steps=1).views.images
    assert drawn.shape == (3, 3, 128, 128)
    assert not (work / "runs/tunet_concat").exists()  # only where it is named
    for stage, wanted in {
        "generator": "kernel_val",
        "yaw": "error_deg_val",
        "depth": "yaw_error_deg_val",
    }.items():
        assert wanted in json.loads((work / f"runs/refiner_{stage}/train.json").read_text())["validation"]
    sweeping = load("refiner", bundle / "refiner")
    assert set(sweeping.bundle.components) == {"generator", "depth", "pose", "directions", "refiner", "yaw"}
    assert not is_packed(bundle / "refiner" / "directions")
    assert all(is_packed(bundle / "refiner" / name) for name in ("refiner", "generator", "pose"))
    assert sweeping(targets=[0.0, 5.0], points=False).views.images.shape == (2, 3, 64, 64)

    # All done: the same words change nothing but the bundle, which is copied again.
    assert script.main(words) == 0
    assert {p: t for p, t in stamps(work).items() if "/bundle/" not in p} == {
        p: t for p, t in after.items() if "/bundle/" not in p
    }


def test_the_clock_lets_a_training_write_its_checkpoint(script: ModuleType) -> None:
    clock = script.Clock(0.0)
    clock.start(3, "steps")
    clock.training = True
    with Interrupts() as interrupts:
        clock.advance()
        assert interrupts.requested
        clock.advance()  # no second signal, which would be a KeyboardInterrupt
    clock.training = False
    endless = script.Clock(None)
    endless.check()
    with pytest.raises(script.Stopped):
        script.Clock(0.0).advance()


def test_numbers_at_a_scale(script: ModuleType) -> None:
    # 0.1 x 15 = 1.5 rounds to 2; two is the least.
    assert [script.scaled(number, 0.1) for number in (3000, 26, 3)] == [300, 3, 2]


def test_meshes_are_asked_for_before_any_work(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--work", str(tmp_path / "work")]) == 2
    assert script.main(["--work", str(tmp_path / "work"), "--meshes", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 2
    assert "at least two mesh files" in shown
    assert not (tmp_path / "work").exists()


def test_bundle_refuses_what_is_no_component(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bundle", SCRIPT.with_name("bundle.py"))
    assert spec is not None
    assert spec.loader is not None
    bundle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bundle)
    (tmp_path / "run").mkdir()
    assert bundle.main(["--vae", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "expected a component" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
