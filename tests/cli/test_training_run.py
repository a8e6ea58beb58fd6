"""Every target of `manyview train` on tiny data, and `manyview synth` with what came out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.cli import main
from manyview.cli.recipes import TARGETS, default_config
from manyview.cli.train import _OVERRIDES, Options, train_config
from manyview.data.packed import describe, write_shard
from manyview.errors import InputError
from manyview.io.images import write_png
from manyview.io.scene import read_scene, write_scene
from manyview.training.config import TrainConfig
from manyview.types import Views
from manyview.weights import write_bundle

SHORT = ("--steps", "2", "--batch-size", "2", "--device", "cpu", "--dtype", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of three orbits of 4 noise views, 128 pixels a side as the compact codec's."""
    folder = tmp_path_factory.mktemp("train")
    describe(folder / "packed", {"source": "noise", "size": [128, 128]})
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 4, 8, 8, 3), dtype=np.uint8)
    write_shard(folder / "packed", 0, coarse.repeat(16, axis=2).repeat(16, axis=3))
    return folder


def train(work: Path, target: str, *more: str) -> int:
    out = str(work / target)
    return main(["train", target, "--data", str(work / "packed"), "--out", out, *SHORT, *more])


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """All four networks after two steps, and bundles made of them."""
    assert train(work, "vae") == 0
    assert train(work, "image_encoder") == 0
    codec = ("--vae", str(work / "vae" / "export"), "--image-encoder", str(work / "image_encoder" / "export"))
    assert train(work, "dimvis", *codec) == 0
    assert train(work, "one2one", *codec) == 0
    for method in ("dimvis", "one2one"):
        parts = {name: f"{method}/export/{name}" for name in ("unet", "conditioner", "scheduler")}
        shared = {name: f"{name}/export" for name in ("vae", "image_encoder")}
        components = {name: f"../{path}" for name, path in {**parts, **shared}.items()}
        folder = work / f"bundle_{method}"
        folder.mkdir()
        write_bundle(folder, name="tiny", method=method, licence="none", components=components)
    return work


def test_train_reports_and_refuses_to_overwrite(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in TARGETS:
        record = json.loads((trained / target / "train.json").read_text())
        assert record["steps"] == 2
        assert record["method"] == target
    assert train(trained, "vae") == 2
    assert "--resume" in capsys.readouterr().err


def test_stop_and_resume(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "image_encoder", "--data", str(work / "packed"), "--out", str(work / "stopped"), *SHORT]
    assert main([*words, "--stop-after-steps", "1"]) == 130
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


def test_scenes_are_packed_once(work: Path) -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    write_scene(Views(images=images), work / "scenes" / "a")
    from manyview.cli.recipes import packed_folder
    from manyview.data.packed import PackedViews
    from manyview.progress import silent

    # A scene without cameras has no transforms.json; its images are what dates it.
    folder = packed_folder(work / "scenes", 16, silent)
    views = PackedViews(folder)
    assert len(views) == 1
    expected = (read_scene(work / "scenes" / "a").images * 255).round().permute(0, 2, 3, 1)
    assert np.array_equal(views[0], expected.numpy().astype(np.uint8))
    assert packed_folder(work / "scenes", 16, silent) == folder


def test_synth_dimvis(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(1))
    write_png(trained / "photo.png", image)
    words = ["synth", str(trained / "photo.png"), "--weights", str(trained / "bundle_dimvis")]
    words += ["--slots", "2", "--steps", "2", "--samples", "2", "--device", "cpu", "--json"]
    assert main([*words, "--out", str(trained / "made")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["observed"] == [2]
    assert answer["manifest"]["options"]["slots"] == [2]
    views = read_scene(trained / "made", split=1)
    assert len(views) == 4
    assert views.observed.tolist() == [False, False, True, False]
    assert (trained / "made" / "video.mp4").is_file()
    assert len(list((trained / "made" / "samples").iterdir())) == 2
    # Same seed, same result; another seed, another.
    assert main([*words, "--out", str(trained / "again")]) == 0
    assert main([*words, "--out", str(trained / "other"), "--seed", "1"]) == 0
    again, other = (read_scene(trained / name, split=1) for name in ("again", "other"))
    assert torch.equal(views.images, again.images)
    assert not torch.equal(views.images[0], other.images[0])

    # A result is a scene: its split says what is given.
    capsys.readouterr()
    words = ["synth", str(trained / "made"), "--weights", str(trained / "bundle_dimvis"), "--steps", "1"]
    assert main([*words, "--out", str(trained / "from_scene"), "--json"]) == 0
    given = read_scene(trained / "from_scene", split=1)
    assert torch.equal(given.images[given.observed], views.images[2:3])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--slots", "0,0"), ["--slots"]),
        (("--slots", "4"), ["--slots", "3"]),
        (("--slots", "0,1"), ["--slots", "which are 1"]),
        (("--steps", "0"), ["--steps", "1000"]),
        (("--targets", "orbit:4"), ["--targets", "rig"]),
        (("--max-memory", "1MB"), ["--max-memory", "MB"]),
        (("--weights", "nowhere"), ["--weights", "nowhere"]),
        (("--method", "one2one"), ["--targets"]),
    ],
)
def test_synth_refuses(
    words: tuple[str, ...], parts: list[str], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(trained / "small.png", torch.zeros(3, 8, 8))
    given = () if "--weights" in words else ("--weights", str(trained / "bundle_dimvis"))
    out = trained / "refused"
    assert main(["synth", str(trained / "small.png"), "--out", str(out), *given, *words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert all(part in shown for part in parts), shown
    assert not out.exists()


def test_synth_one2one_turns_from_the_given_camera(trained: Path) -> None:
    from manyview.geometry.trajectories import orbit, spherical_angles

    cameras = orbit(1, 20.0, 1.5, start_azimuth_deg=50.0, size=32)
    write_scene(Views(images=torch.rand(1, 3, 32, 32), cameras=cameras), trained / "posed")
    words = ["synth", str(trained / "posed"), "--method", "one2one", "--steps", "1", "--targets", "orbit:4"]
    words += ["--weights", str(trained / "bundle_one2one"), "--out", str(trained / "turned")]
    assert main(words) == 0
    views = read_scene(trained / "turned", split=1)
    assert views.cameras is not None
    azimuth, elevation, _ = spherical_angles(views.cameras.centers)
    # Three more on a circle of four through azimuth 50.
    assert torch.allclose(azimuth, torch.tensor([50.0, 140.0, 230.0, 320.0]), atol=1e-3)
    assert torch.allclose(elevation, torch.full((4,), 20.0), atol=1e-3)


def test_every_override_is_a_training_option() -> None:
    fields = set(TrainConfig.__dataclass_fields__)
    assert set(_OVERRIDES) <= fields
    options = Options(target="vae", out=Path("x"), steps=7, lr=0.5)
    config = train_config(options)
    assert (config.steps, config.lr, config.warmup_steps) == (7, 0.5, 0)
    assert config.batch_size == default_config("vae", "compact").batch_size
    with pytest.raises(InputError, match="--lr"):
        train_config(Options(target="vae", out=Path("x"), lr=-1.0))


def test_the_papers_batch() -> None:
    # DiMViS section 4.1: 112 items a pass, 12 passes a step, 15750 steps.
    config = default_config("dimvis", "paper")
    assert (config.batch_size, config.accumulate, config.steps, config.lr) == (112, 12, 15_750, 5e-5)
