"""papers/compact/bundle.py: what of given exports comes into the bundles, packed or as it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyview.errors import InputError
from manyview.weights import component_hash, open_bundle
from manyview.weights.packing import PACKED_FILE, is_packed, pack_component, read_packed

SCRIPT = Path(__file__).parents[2] / "papers" / "compact" / "bundle.py"
ORDINARY = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compact_bundle", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """What training leaves of the codec, the image encoder and DiMViS, each network one tensor."""
    generator = torch.Generator().manual_seed(0)
    for name in ("vae", "image_encoder", "dimvis/unet", "dimvis/conditioner"):
        folder = tmp_path / "exports" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"of": name}))
        save_file({"weight": torch.randn(64, 64, generator=generator).half()}, folder / ORDINARY)
    (tmp_path / "exports/dimvis/scheduler").mkdir()
    (tmp_path / "exports/dimvis/scheduler/scheduler_config.json").write_text("{}")
    return tmp_path / "exports"


def flags(exports: Path) -> list[str]:
    shared = ["--vae", str(exports / "vae"), "--image-encoder", str(exports / "image_encoder")]
    return [*shared, "--dimvis", str(exports / "dimvis")]


def test_networks_are_packed(script: ModuleType, exports: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert script.main([*flags(exports), "--out", str(out), "--guidance", "2", "1", "1"]) == 0
    bundle = open_bundle(out / "dimvis", "dimvis")
    assert bundle.settings["guidance_by_references"] == [2, 1, 1]
    assert {name: is_packed(path) for name, path in bundle.components.items()} == {
        **dict.fromkeys(("vae", "image_encoder", "unet", "conditioner"), True),
        "scheduler": False,
    }
    weight = load_file(exports / "vae" / ORDINARY)["weight"].float()
    error = (read_packed(out / "vae")["weight"] - weight).abs()
    assert bool((error <= weight.abs().amax(1, keepdim=True) / 127 * 0.5001).all())
    total = sum(path.stat().st_size for path in out.rglob(PACKED_FILE))
    assert capsys.readouterr().out == f"weights in {out}: {total / 1e6:.1f} MB\n"
    assert not list(out.rglob(".*"))


def test_where_a_network_was_trained_is_not_told(script: ModuleType, exports: Path, tmp_path: Path) -> None:
    told = {"of": "vae", "_name_or_path": str(tmp_path)}
    (exports / "vae" / "config.json").write_text(json.dumps(told))
    assert script.main([*flags(exports), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/vae/config.json").read_text()) == {"of": "vae"}


def test_some_stay_as_they_are_until_they_are_packed_in_place(
    script: ModuleType, exports: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert script.main([*flags(exports), "--out", str(out), "--float16", "vae", "dimvis/unet"]) == 0
    assert component_hash(out / "vae") == component_hash(exports / "vae")
    assert component_hash(out / "dimvis/unet") == component_hash(exports / "dimvis/unet")
    assert is_packed(out / "image_encoder")
    assert is_packed(out / "dimvis/conditioner")
    before = open_bundle(out / "dimvis", "dimvis")

    # The bundle's own folders as exports: packed where they were not, and their settings stay.
    assert script.main([*flags(out), "--out", str(out)]) == 0
    after = open_bundle(out / "dimvis", "dimvis")
    assert all(is_packed(out / name) for name in ("vae", "dimvis/unet", "image_encoder"))
    assert not (out / "vae" / ORDINARY).exists()
    assert after.hashes["conditioner"] == before.hashes["conditioner"]
    pack_component(exports / "dimvis/unet", tmp_path / "alone")
    assert after.hashes["unet"] == component_hash(tmp_path / "alone")
    assert after.settings == before.settings


def test_a_packed_export_is_copied(script: ModuleType, exports: Path, tmp_path: Path) -> None:
    pack_component(exports / "vae", tmp_path / "packed")
    words = [*flags(exports), "--vae", str(tmp_path / "packed")]
    assert script.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert component_hash(tmp_path / "out/vae") == component_hash(tmp_path / "packed")


def test_refused_before_anything_is_replaced(
    script: ModuleType, exports: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    words = [*flags(exports), "--out", str(out)]
    assert script.main([*words, "--float16", "unet"]) == 2
    assert "--float16: unet: expected one of vae, image_encoder, dimvis/unet" in capsys.readouterr().err
    assert not out.exists()
    assert script.main(words) == 0
    before = open_bundle(out / "dimvis", "dimvis")
    save_file({"weight": torch.ones(64, 64)}, exports / "vae" / ORDINARY)
    (exports / "dimvis/conditioner" / ORDINARY).write_bytes(b"")  # comes after the codec
    assert script.main(words) == 2
    assert "is damaged" in capsys.readouterr().err
    assert open_bundle(out / "dimvis", "dimvis").sha256 == before.sha256
    assert not list(out.rglob(".*"))


def test_a_pickle_beside_packed_weights_is_refused(script: ModuleType, exports: Path, tmp_path: Path) -> None:
    assert script.main([*flags(exports), "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out/vae/model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"vae/model\.bin is not safetensors"):
        open_bundle(tmp_path / "out/dimvis", "dimvis")


def test_tunet_comes_with_its_base_and_what_was_chosen(
    script: ModuleType, exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tunet/tunet", "tunet_base/base"):
        (exports / name).mkdir(parents=True)
        (exports / name / "config.json").write_text(json.dumps({"of": name}))
        save_file({"weight": torch.ones(64, 64).half()}, exports / name / ORDINARY)
    (exports / "tunet_base/scheduler").mkdir()
    (exports / "tunet_base/scheduler/scheduler_config.json").write_text("{}")
    choice = tmp_path / "tunet_choice.json"
    choice.write_text(json.dumps({"settings": {"mean_steps": 20, "candidates": ["B:gaussian"]}}))
    out = tmp_path / "out"
    words = [*flags(exports)[:4], "--out", str(out), "--tunet", str(exports / "tunet")]
    assert script.main(words) == 2
    assert "--tunet-base: not given" in capsys.readouterr().err
    assert not out.exists()
    base = ["--tunet-base", str(exports / "tunet_base")]
    assert script.main([*flags(exports)[:4], "--out", str(out), *base]) == 2
    assert "--tunet: not given" in capsys.readouterr().err
    assert script.main([*words, *base, "--tunet-settings", str(choice)]) == 0
    bundle = open_bundle(out / "tunet", "tunet")
    assert set(bundle.components) == {"vae", "image_encoder", "tunet", "base", "scheduler"}
    assert bundle.settings == {"mean_steps": 20, "candidates": ["B:gaussian"]}
    assert is_packed(bundle.components["base"])
    assert is_packed(bundle.components["tunet"])
    # A translator trained anew: its base and what was chosen stay.
    save_file({"weight": torch.zeros(64, 64).half()}, exports / "tunet/tunet" / ORDINARY)
    assert script.main(words) == 0
    again = open_bundle(out / "tunet", "tunet")
    assert again.hashes["base"] == bundle.hashes["base"]
    assert again.hashes["tunet"] != bundle.hashes["tunet"]
    assert again.settings == bundle.settings
