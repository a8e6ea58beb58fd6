"""Names of the published weights to ours and back, files that hold them, and weights to start from."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from tiny_hi3d import tiny_unet
from torch import nn
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.hi3d import convert
from manyview.methods.hi3d.conditions import sinusoids
from manyview.methods.hi3d.convert import (
    convert_checkpoints,
    from_published,
    published_names,
    survey_checkpoints,
)
from manyview.methods.hi3d.initial import load_initial
from manyview.methods.hi3d.unet import OrbitUNet, build_unet
from manyview.weights import open_bundle


def paper(stage: str) -> OrbitUNet:
    with torch.device("meta"):
        return build_unet("paper", stage)


def test_names_of_the_release():
    unet = paper("orbit")
    names = published_names(unet)
    assert len(set(names.values())) == len(unet.state_dict()) == 1428
    theirs = {
        # The counts go through the levels: two layers and a halving each, then three layers.
        "down_blocks.0.resnets.0.spatial_res_block.conv1.weight": "input_blocks.1.0.in_layers.2.weight",
        "down_blocks.1.downsamplers.0.conv.bias": "input_blocks.6.0.op.bias",
        "down_blocks.3.resnets.1.time_mixer.mix_factor": "input_blocks.11.0.time_mixer.mix_factor",
        "mid_block.attentions.0.time_pos_embed.linear_2.bias": "middle_block.1.time_pos_embed.2.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.attentions.2.temporal_transformer_blocks.0.norm_in.bias": (
            "output_blocks.11.1.time_stack.0.norm_in.bias"
        ),
    }
    assert {ours: names[ours] for ours in theirs} == theirs


def published(unet: OrbitUNet) -> dict[str, torch.Tensor]:
    state = unet.state_dict()
    return {name: state[ours] for ours, name in published_names(unet).items()}


def test_there_and_back():
    unet = tiny_unet()
    again = from_published(unet, published(unet))
    assert all(torch.equal(again[name], value) for name, value in unet.state_dict().items())
    with pytest.raises(InputError, match=r"CHECKPOINT: odd: expected the names of Hi3D's U-Net"):
        from_published(unet, {"odd": torch.zeros(1)})


def test_survey_at_release_size(tmp_path):
    # Views of one number: the shapes of the release in a small file.
    files = []
    for stage in ("orbit", "refine"):
        weights = {
            name: torch.zeros(1).expand(value.shape) for name, value in published(paper(stage)).items()
        }
        prefix = "model.diffusion_model."
        stored = {prefix + name: value for name, value in weights.items()}
        stored["first_stage_model.decoder.weight"] = torch.zeros(1)
        files.append(tmp_path / f"{stage}.pt")
        torch.save({"state_dict": stored, "step": 5}, files[-1])
    survey = survey_checkpoints(files)
    assert survey.fits
    assert {name: part.matched for name, part in survey.parts.items()} == {"unet": 1428, "refiner": 1428}
    with pytest.raises(InputError, match="the stage orbit that another file has too"):
        survey_checkpoints([files[0], files[0]])
    torch.save({"a": torch.zeros(1)}, files[0])
    with pytest.raises(InputError, match="holds no U-Net of Hi3D"):
        survey_checkpoints(files)


def test_files_become_a_bundle(tmp_path, monkeypatch):
    sizes = {"orbit": tiny_unet(8), "refine": tiny_unet(17)}
    empty = {stage: tiny_unet(unet.config["in_channels"]).to("meta") for stage, unet in sizes.items()}
    monkeypatch.setattr(convert, "_build_paper", lambda stage: empty[stage])
    files = []
    for stage, unet in sizes.items():
        files.append(tmp_path / f"{stage}.pt")
        torch.save(published(unet), files[-1])
    folders = convert_checkpoints(files, tmp_path / "out", licence="MIT")
    assert sorted(folders) == ["refiner", "scheduler", "unet"]
    again = OrbitUNet.from_pretrained(folders["refiner"], local_files_only=True)
    for name, value in again.state_dict().items():
        assert torch.equal(value, sizes["refine"].state_dict()[name])
    bundle = open_bundle(tmp_path / "out", "hi3d")
    assert bundle.settings["guidance"] == [1.0, 2.5]
    assert json.loads((folders["scheduler"] / "scheduler_config.json").read_text())["sigma_max"] == 700
    with pytest.raises(InputError, match="--out"):
        convert_checkpoints(files, tmp_path / "out")
    lacking = published(sizes["orbit"])
    del lacking["out.2.bias"]
    torch.save(lacking, files[0])
    with pytest.raises(InputError, match=r"unet: out.2.bias: is missing"):
        convert_checkpoints(files, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def video_unet() -> UNetSpatioTemporalConditionModel:
    """Of the sizes of `tiny_unet`, as Stable Video Diffusion has them: 8 channels, three slots of 8."""
    torch.manual_seed(3)
    return UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=8,
        num_attention_heads=(2, 2),
    )


@torch.no_grad()
def test_starting_from_stable_video_diffusion(tmp_path):
    video = video_unet().eval()
    video.save_pretrained(tmp_path)
    first = tiny_unet(8, vector_dim=24, vector_slots=3, norm_groups=32, feedforward=4)
    load_initial(first, tmp_path)
    for module in (*video.modules(), *first.modules()):
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-5  # where theirs are 1e-6 the two differ, for with 2 x 2 cells it shows
    sample, tokens, told = (
        torch.randn(1, 4, 8, 2, 2),
        torch.randn(1, 1, 8),
        torch.tensor([[6.0, 127.0, 0.02]]),
    )
    vector = sinusoids(told.flatten(), 8).flatten()[None]
    level = torch.tensor([0.3])
    theirs = video(sample, level, tokens, told, return_dict=False)[0]
    assert_close(first(sample, level, tokens, vector), theirs, atol=1e-4, rtol=0)

    # The second stage: at first it looks at no depth, and knows only the noise of the condition.
    second = tiny_unet(17, vector_dim=16, vector_slots=2, norm_groups=32, feedforward=4)
    load_initial(second, tmp_path)
    quiet = vector.clone()
    quiet[:, :16] = 0
    wide = torch.cat([sample[:, :, :4], torch.randn(1, 4, 9, 2, 2), sample[:, :, 4:]], dim=2)
    vector = torch.cat([torch.randn(1, 8), vector[:, 16:]], dim=1)
    assert_close(second(wide, level, tokens, vector), first(sample, level, tokens, quiet), atol=1e-4, rtol=0)

    wrong = tiny_unet(8, block_out_channels=(32, 64), norm_groups=32)
    with pytest.raises(InputError, match="--initial"):
        load_initial(wrong, tmp_path)
