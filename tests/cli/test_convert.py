"""`manyview convert`: the listing, the bundle, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manyview.cli import main
from manyview.errors import InputError
from manyview.methods import CONVERTERS, METHODS, find_converter
from manyview.methods.sparsefusion.convert import published_name
from manyview.methods.sparsefusion.eft import build_eft
from manyview.weights import open_bundle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The EFT at its published size under its published names, in half precision to be small."""
    with torch.device("meta"):
        ours = build_eft("paper").state_dict()
    stored = {
        published_name("eft", name): torch.zeros(value.shape, dtype=torch.half)
        for name, value in ours.items()
    }
    stored["encoder_model.fc.bias"] = torch.zeros(10)
    path = tmp_path_factory.mktemp("published") / "eft.safetensors"
    save_file(stored, path)
    return path


def test_a_dry_run_lists_what_does_not_fit(checkpoint: Path, tmp_path: Path, capsys):
    assert main(["convert", str(checkpoint), "--method", "sparsefusion", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["parts"]["eft"]["passed_over"] == ["encoder_model.fc.bias"]
    wrong = {
        "t1.pre.0.weight": torch.zeros(3, 3),
        "t1.pre.0.bias": torch.zeros(256),
        "t9.odd": torch.zeros(1),
    }
    torch.save({"model": wrong}, tmp_path / "wrong.pt")
    assert main(["convert", str(tmp_path / "wrong.pt"), "--method", "sparsefusion", "--dry-run"]) == 0
    lines = capsys.readouterr().out
    assert "unknown: t9.odd" in lines
    assert "misshapen: t1.pre.0.weight [3, 3], expected [256, 606]" in lines
    assert "it cannot be converted" in lines
    assert "missing: color_layer.0.bias" in lines


def test_a_bundle_with_a_codec(checkpoint: Path, tmp_path: Path):
    codec = tmp_path / "codec"
    codec.mkdir()
    (codec / "config.json").write_text(json.dumps({"sample_size": 512}))
    save_file({"x": torch.zeros(1)}, codec / "weights.safetensors")
    words = ("--method", "sparsefusion", "--codec", str(codec), "--licence", "MIT")
    assert main(["convert", str(checkpoint), *words, "--out", str(tmp_path / "out")]) == 0
    bundle = open_bundle(tmp_path / "out", "sparsefusion")
    assert sorted(bundle.components) == ["eft", "scheduler", "vae"]
    assert bundle.licence == "MIT"
    assert bundle.settings["resolution"] == 256


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--method", "dimvis", "--out", "x"),
            "--method: dimvis: expected one of hi3d, refiner, sparsefusion, tunet",
        ),
        (("--method", "sparsefusion"), "--out: not given: expected a folder, or --dry-run"),
        (("--method", "sparsefusion", "--out", "x", "--codec", "none"), "--codec: none: expected a folder"),
    ],
)
def test_refused_in_one_line(checkpoint: Path, tmp_path: Path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(checkpoint), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_converters_are_methods_with_both_functions():
    assert set(CONVERTERS) <= set(METHODS)
    for name in CONVERTERS:
        converter = find_converter(name)
        assert callable(converter.survey)
        assert callable(converter.convert)
    with pytest.raises(InputError, match="--method: dimvis"):
        find_converter("dimvis")
