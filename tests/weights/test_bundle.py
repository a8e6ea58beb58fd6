"""Bundles of weights: what was written is found and checked; anything else is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manyview.errors import InputError
from manyview.weights import Bundle, component_hash, open_bundle, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of method m with a component of its own and one that it shares with others."""
    for place in ("bundle/unet", "shared/vae"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text(json.dumps({"place": place}))
        (tmp_path / place / "model.safetensors").write_bytes(b"weights of " + place.encode())
    target = tmp_path / "bundle"
    write_bundle(
        target,
        name="tiny",
        method="m",
        licence="CC-BY-4.0",
        components={"unet": "unet", "vae": "../shared/vae"},
        settings={"guidance": [3.0, 1.0]},
    )
    return target


def refusal(folder: Path | str, method: str = "m") -> str:
    with pytest.raises(InputError) as caught:
        open_bundle(folder, method)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"--weights: {folder}: ")
    return line


def test_round_trip(folder: Path) -> None:
    bundle = open_bundle(folder, "m")
    assert (bundle.method, bundle.licence) == ("m", "CC-BY-4.0")
    assert bundle.components == {"unet": folder / "unet", "vae": folder.parent / "shared/vae"}
    assert bundle.hashes == {name: component_hash(path) for name, path in bundle.components.items()}
    assert bundle.settings == {"guidance": [3.0, 1.0]}
    entries = bundle.manifest_entries()
    assert [entry["name"] for entry in entries] == [f"{folder}/unet", f"{folder}/vae"]
    assert {entry["licence"] for entry in entries} == {"CC-BY-4.0"}
    assert not list(folder.glob(".*"))


def test_bundles_read_the_same_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    before = open_bundle(folder, "m")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("bundle", "shared"):
        (tmp_path / name).rename(moved / name)
    after = open_bundle(moved / "bundle", "m")
    assert after.hashes == before.hashes
    assert after.sha256 == before.sha256


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_one_byte_changes_the_hash(folder: Path, name: str) -> None:
    before = component_hash(folder / "unet")
    path = folder / "unet" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert component_hash(folder / "unet") != before
    line = refusal(folder)
    assert f"unet has sha256 {component_hash(folder / 'unet')[:12]}..., expected {before[:12]}..." in line


def test_names_count_towards_the_hash(folder: Path) -> None:
    before = component_hash(folder / "unet")
    (folder / "unet/model.safetensors").rename(folder / "unet/other.safetensors")
    assert component_hash(folder / "unet") != before


def test_a_bundle_hash_covers_every_component() -> None:
    options = {"name": "n", "method": "m", "licence": "l", "components": {}}
    base = Bundle(**options, hashes={"unet": "a", "vae": "b"}).sha256
    assert Bundle(**options, hashes={"vae": "b", "unet": "a"}).sha256 == base
    assert Bundle(**options, hashes={"unet": "b", "vae": "a"}).sha256 != base
    assert Bundle(**options, hashes={"unet": "a"}).sha256 != base


def test_another_method_is_refused(folder: Path) -> None:
    assert refusal(folder, "n").endswith("holds weights of m, expected n")


def test_a_missing_component_is_named(folder: Path) -> None:
    (folder / "unet/config.json").unlink()
    (folder / "unet/model.safetensors").unlink()
    (folder / "unet").rmdir()
    assert refusal(folder).endswith("component unet is missing")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "stats.npz", "weights.pt", "Model.PKL"])
def test_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "unet" / name).write_bytes(b"")
    assert refusal(folder).endswith(f"unet/{name} is not safetensors; convert it first")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"method": "m"}',
        '{"method": "m", "components": ["unet"]}',
        '{"method": "m", "components": {"unet": "unet"}}',
        '{"method": "m", "components": {"unet": {"path": "unet"}}}',
    ],
)
def test_damaged_records_are_refused(folder: Path, text: str) -> None:
    (folder / "manyview.json").write_text(text)
    assert "manyview.json is damaged" in refusal(folder)


def test_records_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "manyview.json").write_bytes(b"\xff\xfe\x00")
    assert "manyview.json is damaged" in refusal(folder)


def test_components_a_method_needs_are_asked_for_by_name(folder: Path) -> None:
    bundle = open_bundle(folder, "m")
    assert bundle.folders("vae") == {"vae": str(folder.parent / "shared/vae")}
    with pytest.raises(InputError, match="component image_encoder is missing"):
        bundle.folders("vae", "image_encoder")


def test_folders_without_a_record_are_refused(tmp_path: Path) -> None:
    assert "holds neither manyview.json nor model_index.json" in refusal(tmp_path)


def test_absent_folders_and_files_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    assert "no such folder" in refusal("absent")
    assert "no such folder" in refusal("./a/b")
    (tmp_path / "file.safetensors").write_bytes(b"")
    assert "is a file" in refusal(tmp_path / "file.safetensors")


def test_compact_weights_of_an_unknown_method() -> None:
    assert "the package holds no compact weights of nothing" in refusal("compact", "nothing")


def test_hub_ids_stay_offline_when_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = refusal("nobody/nothing")
    assert "the hub did not give it" in line


def test_hub_layout_without_a_record(folder: Path) -> None:
    """A diffusers folder: its components come from model_index.json, its licence is unknown."""
    record = {
        "_class_name": "MPipeline",
        "_diffusers_version": "0.42",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
    }
    (folder / "manyview.json").unlink()
    (folder / "model_index.json").write_text(json.dumps(record))
    bundle = open_bundle(folder, "m")
    assert dict(bundle.components) == {"unet": folder / "unet"}
    assert bundle.licence == "unknown"
    assert "holds weights of MPipeline, expected n" in refusal(folder, "n")
    (folder / "model_index.json").write_text("{")
    assert "model_index.json is damaged" in refusal(folder)
    (folder / "model_index.json").write_text("[]")
    assert "model_index.json is damaged" in refusal(folder)
    (folder / "model_index.json").write_text(json.dumps({**record, "vae": ["diffusers", "AutoencoderKL"]}))
    assert "component vae is missing" in refusal(folder)
