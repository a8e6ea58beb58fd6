"""Every target of `manyview train` on tiny data, and `manyview synth` with what came out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPVisionModelWithProjection

from manyview.cli import main
from manyview.cli.recipes import TARGETS
from manyview.cli.train import _OVERRIDES, Options, train_config
from manyview.cli.train_defaults import default_config
from manyview.data.latents import LatentCache
from manyview.data.packed import PackedViews, describe, write_shard
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.images import write_png
from manyview.io.scene import read_scene, write_scene
from manyview.nets.autoencoder import encode
from manyview.training import encoding
from manyview.training.config import TrainConfig
from manyview.types import Views
from manyview.weights import write_bundle
from manyview.weights.packing import pack_component, read_packed

SHORT = ("--steps", "2", "--batch-size", "2", "--device", "cpu", "--dtype", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of three orbits of 4 noise views, 128 pixels a side as the compact codec's."""
    folder = tmp_path_factory.mktemp("train")
    rig = orbit(4, size=128)
    cameras = {"world_from_cam": rig.world_from_cam.tolist(), "K": rig.K.tolist()}
    describe(folder / "packed", {"source": "noise", "size": [128, 128], **cameras})
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 4, 8, 8, 3), dtype=np.uint8)
    write_shard(folder / "packed", 0, coarse.repeat(16, axis=2).repeat(16, axis=3))
    return folder


def train(work: Path, target: str, *more: str) -> int:
    out = str(work / target)
    return main(["train", target, "--data", str(work / "packed"), "--out", out, *SHORT, *more])


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """All networks after two steps, and bundles made of two of them."""
    assert train(work, "vae") == 0
    assert train(work, "image_encoder") == 0
    codec = ("--vae", str(work / "vae" / "export"), "--image-encoder", str(work / "image_encoder" / "export"))
    assert train(work, "dimvis", *codec) == 0
    assert train(work, "one2one", *codec) == 0
    few = ("--context-views", "1", "1", "--rays-at-once", "4", "--noise-levels", "1", "--batch-size", "1")
    assert train(work, "sparsefusion", *codec[:2], *few) == 0
    assert train(work, "hi3d", *codec, "--closed", "--window", "2", "--log-sigma", "-0.5", "1.2") == 0
    for method in ("dimvis", "one2one"):
        parts = {name: f"{method}/export/{name}" for name in ("unet", "conditioner", "scheduler")}
        shared = {name: f"{name}/export" for name in ("vae", "image_encoder")}
        components = {name: f"../{path}" for name, path in {**parts, **shared}.items()}
        folder = work / f"bundle_{method}"
        folder.mkdir()
        write_bundle(folder, name="tiny", method=method, licence="none", components=components)
    return work


def test_train_reports_and_refuses_to_overwrite(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # TUNet's and the refiner's first stages need the exports of others: tests/cli/test_train_tunet.py and
    # test_train_refiner.py have them all.
    for target in (name for name in TARGETS if name not in ("tunet", "refiner")):
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


@pytest.fixture
def scenes(trained: Path, tmp_path: Path) -> Path:
    """The packed objects as scenes without cameras."""
    pixels = np.load(trained / "packed" / "views_00000000.npy")
    for number, views in enumerate(torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).float() / 255):
        write_scene(Views(images=views), tmp_path / "scenes" / f"{number}")
    return tmp_path / "scenes"


def networks(trained: Path) -> list[str]:
    return ["--vae", str(trained / "vae/export"), "--image-encoder", str(trained / "image_encoder/export")]


class Encodings:
    """Counts the images that go through the codec; interrupts, as Ctrl-C does, when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_before: int = 10**9) -> None:
        self.images = 0
        self.stop_before = stop_before
        monkeypatch.setattr(encoding, "encode", self)

    def __call__(self, codec: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
        if self.images + len(images) > self.stop_before:
            raise KeyboardInterrupt
        self.images += len(images)
        return encode(codec, images)


def test_stopped_and_resumed_training_encodes_each_view_once(
    trained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_OBJECTS_AT_ONCE", 1)
    words = ["train", "one2one", "--data", str(scenes), "--out", str(tmp_path / "run"), *SHORT]
    words += networks(trained)
    # Two of three objects, 4 views each, then Ctrl-C while encoding.
    first = Encodings(monkeypatch, stop_before=8)
    assert main(words) == 130
    assert first.images == 8
    again = Encodings(monkeypatch)
    assert main([*words, "--stop-after-steps", "1"]) == 130
    assert again.images == 4
    # Not even the scenes' arrays are needed any more; that nothing reads them shows in their absence.
    shutil.rmtree(scenes / ".arrays")
    last = Encodings(monkeypatch)
    assert main([*words, "--resume"]) == 0
    assert last.images == 0
    assert not (scenes / ".arrays").exists()
    # The same pictures in a packed set: the same latents, bit for bit, kept in another place.
    words[words.index(str(scenes))] = str(trained / "packed")
    words[words.index(str(tmp_path / "run"))] = str(tmp_path / "other")
    before = {path.name for path in (trained / "packed").iterdir()}
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 0
    assert {path.name for path in (trained / "packed").iterdir()} == before
    kept = [LatentCache(path.parent).load() for path in (scenes / ".latents").rglob("index.json")]
    others = [LatentCache(path.parent).load() for path in (tmp_path / "cache").rglob("index.json")]
    assert sorted(tuple(part.shape) for part in kept) == [(12, 8, 16, 16), (12, 128)]
    for part in kept:
        assert any(torch.equal(part, other) for other in others if part.shape == other.shape)


def test_latents_belong_to_the_encoding_half_and_its_statistics(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = AutoencoderKL.from_pretrained(trained / "vae/export").float()
    clip = CLIPVisionModelWithProjection.from_pretrained(trained / "image_encoder/export")
    source = PackedViews(trained / "packed")

    def count(codec: AutoencoderKL) -> int:
        counter = Encodings(monkeypatch)
        found, _ = encoding.encode_views([source], [tmp_path], codec, clip, device=torch.device("cpu"))
        monkeypatch.undo()
        flat = torch.from_numpy(source[1].copy()).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            torch.testing.assert_close(found[1].float(), encode(codec, flat), atol=2e-3, rtol=2e-3)
        return counter.images

    assert count(vae) == 12
    assert count(AutoencoderKL.from_pretrained(trained / "vae/export").float()) == 0
    with torch.no_grad():
        vae.decoder.conv_out.weight.add_(1)
    assert count(vae) == 0
    vae.register_to_config(latents_std=[2 * value for value in vae.config["latents_std"]])
    assert count(vae) == 12
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1.1)
    assert count(vae) == 12


def test_several_sources_stand_in_order(trained: Path, tmp_path: Path) -> None:
    pixels = np.load(trained / "packed" / "views_00000000.npy")
    for name, part in (("a", pixels[2:]), ("b", pixels[:2]), ("odd", pixels[:1, :2])):
        describe(tmp_path / name, {"source": name})
        write_shard(tmp_path / name, 0, part)
    vae = AutoencoderKL.from_pretrained(trained / "vae/export")
    clip = CLIPVisionModelWithProjection.from_pretrained(trained / "image_encoder/export")

    def encoded(*names: str) -> tuple[torch.Tensor, torch.Tensor]:
        sources = [PackedViews(tmp_path / name) for name in names]
        roots = [tmp_path / "cache"] * len(names)
        return encoding.encode_views(sources, roots, vae, clip, device=torch.device("cpu"))

    both, first, second = encoded("a", "b"), encoded("a"), encoded("b")
    for together, one, two in zip(both, first, second, strict=True):
        assert torch.equal(together, torch.cat([one, two]))
    with pytest.raises(InputError, match="same number and size of views"):
        encoded("a", "odd")


def test_shared_nets_train_on_scenes(scenes: Path, tmp_path: Path) -> None:
    words = ["train", "vae", "--data", str(scenes), "--size", "32", "--crop", "16", "--negatives", "0.25"]
    words += ["--validation", str(scenes), "--validate-every", "2", "--cache", str(tmp_path / "cache")]
    assert main([*words, "--out", str(tmp_path / "run"), *SHORT]) == 0
    record = json.loads((tmp_path / "run/train.json").read_text())
    assert record["settings"]["crop"] == 16
    assert record["settings"]["negatives"] == 0.25
    (folder,) = (tmp_path / "cache/arrays").iterdir()
    assert PackedViews(folder)[2].shape == (4, 32, 32, 3)


def test_rays_are_trained(trained: Path, tmp_path: Path) -> None:
    words = ["train", "dimvis", "--data", str(trained / "packed"), "--rays", *networks(trained), *SHORT]
    words += ["--validation", str(trained / "packed"), "--validate-every", "2"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run/train.json").read_text())["settings"]["rays"] is True
    unet = json.loads((tmp_path / "run/export/unet/config.json").read_text())
    assert unet["in_channels"] == 8 + 6
    assert json.loads((tmp_path / "run/export/conditioner/config.json").read_text())["rays"] is True


def test_sweep_and_blend_are_trained_and_gone_on_with(trained: Path, tmp_path: Path) -> None:
    words = ["train", "dimvis", "--data", str(trained / "packed"), *networks(trained), *SHORT]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    grown = ["--sweep-depths", "2", "--blend", "--time-exponent", "0.5", "--optimizer", "muon"]
    grown += ["--initial", str(tmp_path / "plain/export")]
    assert main([*words, *grown, "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run/train.json").read_text())
    assert record["settings"]["time_exponent"] == 0.5
    assert record["config"]["optimizer"] == "muon"
    unet = json.loads((tmp_path / "run/export/unet/config.json").read_text())
    assert unet["in_channels"] == 8 + 2 * 6
    assert unet["out_channels"] == 8 + 1 + 3 * 3


def test_packed_components_serve_as_ordinary_ones(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As codec and encoder, as what a run begins with, and as weights of `synth`."""
    places = ["vae", "image_encoder", "dimvis/unet", "dimvis/conditioner"]
    for place in places:
        folder = trained / place / "export" if "/" not in place else trained / "dimvis/export" / place[7:]
        pack_component(folder, tmp_path / place)
    shutil.copytree(trained / "dimvis/export/scheduler", tmp_path / "dimvis/scheduler")
    common = ["--data", str(trained / "packed"), *SHORT]
    nets = ["--vae", str(tmp_path / "vae"), "--image-encoder", str(tmp_path / "image_encoder")]
    runs = {
        "dimvis": [*nets, "--initial", str(tmp_path / "dimvis")],
        "vae": ["--initial", str(tmp_path / "vae"), "--freeze-encoder"],
    }
    for target, words in runs.items():
        assert main(["train", target, *common, *words, "--out", str(tmp_path / "runs" / target)]) == 0
    # A frozen encoder leaves as it came: expanded, and float16 again.
    codec = AutoencoderKL.from_pretrained(tmp_path / "runs/vae/export").state_dict()
    assert (tmp_path / "runs/vae/export/diffusion_pytorch_model.safetensors").is_file()
    for name, value in read_packed(tmp_path / "vae").items():
        if name.startswith("encoder."):
            assert torch.equal(codec[name], value.half().float())

    names = {"vae": "../vae", "image_encoder": "../image_encoder"}
    own = {part: part for part in ("unet", "conditioner", "scheduler")}
    write_bundle(
        tmp_path / "dimvis", name="tiny", method="dimvis", licence="none", components={**names, **own}
    )
    write_png(tmp_path / "a.png", torch.full((3, 64, 64), 0.5))
    words = ["synth", str(tmp_path / "a.png"), "--method", "dimvis", "--steps", "1", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--weights", str(tmp_path / "dimvis")]
    assert main(words) == 0
    assert len(read_scene(tmp_path / "out")) == 4
    # A damaged file is one line, though the bundle would take it for its own by the hash.
    (tmp_path / "vae/packed.safetensors").write_bytes(b"0")
    capsys.readouterr()
    assert main(["train", "dimvis", *common, *nets, "--out", str(tmp_path / "more")]) == 2
    assert "--vae: " in (line := capsys.readouterr().err)
    assert "packed.safetensors is damaged" in line


@pytest.mark.parametrize(
    ("target", "words", "parts"),
    [
        ("vae", ("--rays",), ["--rays", "vae", "only for dimvis"]),
        ("dimvis", ("--crop", "32"), ["--crop", "only for vae"]),
        ("image_encoder", ("--initial", "."), ["--initial", "vae and dimvis and one2one"]),
        ("one2one", ("--blend",), ["--blend", "only for dimvis"]),
        ("dimvis", ("--blend", "--prediction", "epsilon"), ["--blend", "v_prediction"]),
        ("dimvis", ("--time-exponent", "0"), ["--time-exponent", "0.1"]),
        ("dimvis", ("--optimizer", "sgd"), ["--optimizer", "muon"]),
        ("sparsefusion", ("--stage", "vldm"), ["--initial", "not given", "trained the EFT"]),
        ("dimvis", ("--stage", "eft"), ["--stage", "only for sparsefusion and hi3d"]),
        ("hi3d", ("--stage", "joint"), ["--stage", "joint", "orbit, refine"]),
        ("hi3d", ("--stage", "refine"), ["--coarse", "not given", "stage refine"]),
        ("hi3d", ("--coarse", "."), ["--coarse", "given", "stage refine"]),
        ("hi3d", ("--joint-drop", "1"), ["--joint-drop", "0 to 0.99"]),
        ("dimvis", ("--closed",), ["--closed", "only for hi3d"]),
        (
            "sparsefusion",
            ("--image-encoder", "."),
            ["--image-encoder", "only for dimvis and one2one and hi3d"],
        ),
        ("dimvis", ("--shares", "1"), ["--shares", "vae and image_encoder"]),
        ("vae", ("--crop", "20"), ["--crop", "20", "multiple of 8"]),
        ("vae", ("--negatives", "1.5"), ["--negatives", "0 to 1"]),
        ("vae", ("--size", "4"), ["--size", "8"]),
        ("vae", ("--validation", "{work}/empty"), ["--validation", "holds no scene"]),
        ("vae", ("--cache", "{work}/packed/packed.json"), ["--cache", "is a file"]),
    ],
)
def test_train_refuses(
    target: str, words: tuple[str, ...], parts: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "empty").mkdir(exist_ok=True)
    given = [word.format(work=work) for word in words]
    out = work / "refused"
    assert main(["train", target, "--data", str(work / "packed"), "--out", str(out), *given]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert all(part in shown for part in parts), shown
    assert not out.exists()


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


def test_the_papers_numbers_of_hi3d_go_by_stage() -> None:
    # The paper: 80 000 steps of 16 clips at 1e-5, then 20 000 of 8 at 5e-5.
    first, second = (default_config("hi3d", "paper", stage) for stage in (None, "refine"))
    assert (first.steps, first.batch_size, first.lr) == (80_000, 16, 1e-5)
    assert (second.steps, second.batch_size, second.lr) == (20_000, 8, 5e-5)
