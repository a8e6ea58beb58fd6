"""Names of the published weights to ours and back, and files that hold them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.sparsefusion.convert import (
    convert_checkpoints,
    from_published,
    our_name,
    published_name,
    read_checkpoint,
    to_published,
)
from manyview.methods.sparsefusion.eft import EpipolarTransformer, build_eft
from manyview.methods.sparsefusion.unet import build_vldm


def paper_state(part: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return (build_eft("paper") if part == "eft" else build_vldm("paper")).state_dict()


@pytest.mark.parametrize("part", ["eft", "unet"])
def test_every_name_goes_there_and_back(part):
    ours = paper_state(part)
    theirs = to_published(part, ours)
    assert len(theirs) == len(ours)  # no two became one
    again = from_published(part, theirs)
    assert {name: value.shape for name, value in again.items()} == {n: v.shape for n, v in ours.items()}


def test_some_names():
    assert our_name("eft", "encoder_model.layer2.0.downsample.1.bias") == "encoder.stages.1.0.shortcut.1.bias"
    assert our_name("eft", "t3.encoder.layers.3.norm2.weight") == "ray_mixer.layers.3.norm2.weight"
    assert published_name("unet", "down.3.leave.narrow.bias") == "downs.3.4.fns.1.bias"
    assert published_name("unet", "up.0.attention.attention.context_norm.weight") == (
        "ups.0.2.layers.0.0.fn.to_context.0.weight"
    )


def test_what_nothing_reads():
    assert our_name("eft", "encoder_model.layer4.1.conv2.weight") is None
    assert our_name("eft", "encoder_model.fc.bias") is None
    assert our_name("unet", "null_conditional_embed") is None
    with pytest.raises(InputError, match="expected the names of SparseFusion's eft"):
        our_name("eft", "encoder_model.layer5.0")
    with pytest.raises(InputError, match="a name of our unet"):
        published_name("unet", "view_mixer.enter.weight")


def test_a_checkpoint_file_becomes_a_folder(tmp_path):
    # The published sizes, filled with numbers that tell the tensors apart.
    ours = {
        name: torch.full(value.shape, place, dtype=value.dtype)
        for place, (name, value) in enumerate(paper_state("eft").items())
    }
    published = to_published("eft", ours)
    published["encoder_model.fc.bias"] = torch.zeros(1000)
    file = tmp_path / "ckpt_latest.pt"
    stored = {f"module.{name}": value for name, value in published.items()}
    torch.save({"epoch": 3, "model": {"state": stored}, "note": "text"}, file)
    folders = convert_checkpoints([file], tmp_path / "out")
    again = EpipolarTransformer.from_pretrained(folders["eft"])
    for name, value in again.state_dict().items():
        assert_close(value, ours[name], atol=0, rtol=0)

    with pytest.raises(InputError, match="--out"):
        convert_checkpoints([file], tmp_path / "out")


def test_a_checkpoint_that_does_not_fit_leaves_nothing(tmp_path):
    file, stored = tmp_path / "a.pt", {"t1.pre.0.weight": torch.zeros(256, 606)}
    torch.save(stored, file)
    with pytest.raises(InputError, match=r"CHECKPOINT: eft: encoder_model.conv1.weight: is missing"):
        convert_checkpoints([file], tmp_path / "out")
    torch.save({**stored, "encoder_model.conv1.weight": torch.zeros(7)}, file)
    with pytest.raises(InputError, match=r"conv1.weight \[7\]: expected \[64, 3, 7, 7\]"):
        convert_checkpoints([file], tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Gadget:
    """Something that a weights-only reader must not build."""


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "a.pt"
    with pytest.raises(InputError, match="no such file"):
        read_checkpoint(file)
    torch.save({"weights": Gadget()}, file)
    with pytest.raises(InputError, match="damaged, or it holds more than tensors"):
        read_checkpoint(file)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(file)
    torch.save({"layer.weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match="holds neither"):
        read_checkpoint(file)
