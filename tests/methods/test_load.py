"""Finding a method by name, and every way in which its weights are refused."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from tiny_dimvis import tiny_pipeline

import manyview
from manyview.errors import InputError
from manyview.methods import METHODS, load
from manyview.weights import write_bundle

NAMES = ("vae", "image_encoder", "unet", "conditioner", "scheduler")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny_pipeline().save_pretrained(folder)
    return folder


def bundle(weights: Path, target: Path, method: str = "dimvis", names: tuple[str, ...] = NAMES) -> Path:
    """A bundle record in its own folder, pointing at the components beside it."""
    target.mkdir(exist_ok=True)
    for name in names:
        (target / name).symlink_to(weights / name)
    write_bundle(
        target,
        name="t",
        method=method,
        licence="Apache-2.0",
        components={name: name for name in names},
    )
    return target


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_its_pipeline_and_a_torch_free_spec(name: str) -> None:
    module, class_name = METHODS[name]
    pipeline = getattr(importlib.import_module(module), class_name)
    assert class_name.lower() == f"{name}pipeline"  # what model_index.json of its weights says
    assert callable(pipeline.from_bundle)
    spec = importlib.import_module(module.replace(".pipeline", ".spec"))
    assert name == spec.NAME


def test_a_bundle_loads(weights: Path, tmp_path: Path) -> None:
    pipeline = load("dimvis", bundle(weights, tmp_path / "b"))
    assert pipeline.unet.dtype == torch.float32
    assert not pipeline.unet.training
    assert pipeline.bundle.method == "dimvis"
    assert load("dimvis", tmp_path / "b", dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    assert manyview.load is load or callable(manyview.load)


def test_a_folder_in_the_hubs_layout_loads(weights: Path) -> None:
    pipeline = load("dimvis", weights)
    assert pipeline.bundle.licence == "unknown"
    assert pipeline.num_views == 4


def test_options_in_model_index_are_kept(tmp_path: Path) -> None:
    tiny_pipeline(guidance=(2.0, 1.5)).save_pretrained(tmp_path)
    pipeline = load("dimvis", tmp_path)
    assert [pipeline.default_guidance(count) for count in (1, 2, 3)] == [2.0, 1.5, 1.0]


def test_refusals(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method: zero456: expected one of dimvis, hi3d, one2one"):
        load("zero456")
    with pytest.raises(InputError, match="holds weights of DimvisPipeline, expected one2one"):
        load("one2one", weights)
    with pytest.raises(InputError, match="holds weights of one2one, expected dimvis"):
        load("dimvis", bundle(weights, tmp_path / "other", method="one2one"))
    with pytest.raises(InputError, match="component vae is missing"):
        load("dimvis", bundle(weights, tmp_path / "part", names=NAMES[1:]))
    with pytest.raises(InputError, match="no such folder"):
        load("dimvis", tmp_path / "absent")
