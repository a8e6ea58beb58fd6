"""The published Hi3D weights and ours: name for name, both ways, for both stages.

The published network counts its blocks through all levels where diffusers counts them by level, so the table
of names is made by walking a network of ours. Tensors change their names only, never their shape.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_folder
from manyview.methods.hi3d.noise_levels import build_scheduler
from manyview.methods.hi3d.spec import PAPER_SAMPLING, PAPER_TRAINING
from manyview.methods.hi3d.unet import OrbitUNet, Stage, build_unet
from manyview.weights import write_bundle
from manyview.weights.checkpoints import codec_files, find_marked, read_stored, require_fit, survey_tensors
from manyview.weights.conversion import PartSurvey, Survey

COMPONENTS: dict[Stage, str] = {"orbit": "unet", "refine": "refiner"}
"""What a stage's network is called in a bundle."""

_MARK = "input_blocks.0.0.weight"
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def published_names(unet: OrbitUNet) -> dict[str, str]:
    """Our name of every tensor of the network -> the published one."""
    modules = {ours: theirs for theirs, ours in _modules(unet)}
    names = {}
    for name in unet.state_dict():
        parts = name.split(".")
        prefix = next(
            (found for cut in range(len(parts), 0, -1) if (found := ".".join(parts[:cut])) in modules), None
        )
        assert prefix is not None, f"{name} belongs to no published module"
        names[name] = modules[prefix] + name[len(prefix) :]
    return names


def from_published(unet: OrbitUNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for `unet` of a published one of its sizes. Raises `InputError` for a name that is not
    of it."""
    names = {theirs: ours for ours, theirs in published_names(unet).items()}
    return {_known(names, name): value for name, value in weights.items()}


def survey_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> Survey:
    """How the keys of published files meet our networks at their published sizes. Nothing is written.

    Raises `InputError` for files that cannot be read as weights alone or hold no network of Hi3D.
    """
    return Survey(parts={COMPONENTS[stage]: _survey(stage, part) for stage, part in _read(paths).items()})


def convert_checkpoints(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> dict[str, Path]:
    """Write the published weights in `paths` as a bundle: folders `unet` (first stage) and `refiner` (second)
    of `out`, `scheduler`, and with `codec` (a folder of diffusers' AutoencoderKL) a copy of it.

    A pipeline needs also an `image_encoder` there: transformers' OpenCLIP ViT-H/14 with projection, as
    Stable Video Diffusion comes with; and its second stage a network for `depth`
    (`depth.RELEASED_MODEL`). Raises `InputError` as `survey_checkpoints`, for a name or a shape that does
    not fit, for a codec that is none, and for a folder `out` that is in use (see `force`), with nothing
    written.
    """
    networks: dict[Stage, OrbitUNet] = {}
    for stage, weights in _read(paths).items():
        network = _build_paper(stage)
        names = published_names(network)
        found = from_published(network, weights)
        require_fit(COMPONENTS[stage], network.state_dict(), found, names.__getitem__)
        network.load_state_dict(found, assign=True)
        networks[stage] = network
    files = [] if codec is None else codec_files(Path(codec))
    with writing_folder(out, force, marks=("config.json", "manyview.json")) as folder:
        for stage, network in networks.items():
            network.save_pretrained(folder / COMPONENTS[stage])
        build_scheduler().save_pretrained(folder / "scheduler")
        if files:
            (folder / "vae").mkdir()
            for file in files:
                shutil.copyfile(file, folder / "vae" / file.name)
        parts = [COMPONENTS[stage] for stage in networks]
        names_written = [*parts, "scheduler", *(["vae"] if files else [])]
        guidance = cast(Mapping[str, tuple[float, float]], PAPER_SAMPLING["guidance"])
        settings: dict[str, Any] = {
            "steps": PAPER_SAMPLING["steps"],
            "guidance": list(guidance["orbit"]),
            "refine_guidance": list(guidance["refine"]),
            "augmentation": PAPER_SAMPLING["augmentation"],
            "condition": "pixels",
            "depth_normalize": "frame",
            "resolution": PAPER_TRAINING["orbit"]["resolution"],
        }
        write_bundle(
            folder,
            name="converted hi3d",
            method="hi3d",
            licence=licence,
            components={name: name for name in names_written},
            settings=settings,
        )
    return {name: Path(out) / name for name in names_written}


class Hi3dConverter:
    """This module as `manyview convert` calls it."""

    survey = staticmethod(survey_checkpoints)
    convert = staticmethod(convert_checkpoints)


def _modules(unet: OrbitUNet) -> list[tuple[str, str]]:
    """(published name, ours) of every module whose tensors have the same names on both sides."""
    pairs = list(_OUTER.items())
    number = 0
    for level, block in enumerate(cast(Any, unet.down_blocks)):
        ours = f"down_blocks.{level}"
        for place in range(len(block.resnets)):
            number += 1
            pairs += _layer(f"input_blocks.{number}", ours, place, block)
        if block.downsamplers is not None:
            number += 1
            pairs.append((f"input_blocks.{number}.0.op", f"{ours}.downsamplers.0.conv"))
    pairs += _residual("middle_block.0", "mid_block.resnets.0")
    pairs += _attention("middle_block.1", "mid_block.attentions.0")
    pairs += _residual("middle_block.2", "mid_block.resnets.1")
    number = -1
    for level, block in enumerate(cast(Any, unet.up_blocks)):
        ours = f"up_blocks.{level}"
        for place in range(len(block.resnets)):
            number += 1
            pairs += _layer(f"output_blocks.{number}", ours, place, block)
        if block.upsamplers is not None:
            after = 1 + hasattr(block, "attentions")
            pairs.append((f"output_blocks.{number}.{after}.conv", f"{ours}.upsamplers.0.conv"))
    return pairs


def _layer(theirs: str, ours: str, place: int, block: Any) -> list[tuple[str, str]]:
    pairs = _residual(f"{theirs}.0", f"{ours}.resnets.{place}")
    if hasattr(block, "attentions"):
        pairs += _attention(f"{theirs}.1", f"{ours}.attentions.{place}")
    return pairs


def _residual(theirs: str, ours: str) -> list[tuple[str, str]]:
    pairs = [(f"{theirs}.time_mixer", f"{ours}.time_mixer")]
    for old, new in _RESIDUAL.items():
        pairs.append((f"{theirs}.{old}", f"{ours}.spatial_res_block.{new}"))
        pairs.append((f"{theirs}.time_stack.{old}", f"{ours}.temporal_res_block.{new}"))
    return pairs


def _attention(theirs: str, ours: str) -> list[tuple[str, str]]:
    return [
        (theirs, ours),  # norm, proj_in, transformer_blocks, proj_out and time_mixer have the same names
        (f"{theirs}.time_stack", f"{ours}.temporal_transformer_blocks"),
        (f"{theirs}.time_pos_embed.0", f"{ours}.time_pos_embed.linear_1"),
        (f"{theirs}.time_pos_embed.2", f"{ours}.time_pos_embed.linear_2"),
    ]


def _known(names: Mapping[str, str], name: str) -> str:
    if name not in names:
        raise InputError("CHECKPOINT", name, "expected the names of Hi3D's U-Net")
    return names[name]


def _read(paths: Sequence[str | os.PathLike[str]]) -> dict[Stage, dict[str, Tensor]]:
    """The networks in the files under their published names; the stage shows in the input channels."""
    found: dict[Stage, dict[str, Tensor]] = {}
    for path in paths:
        tables = list(find_marked(read_stored(path), _MARK))
        if not tables:
            raise InputError("CHECKPOINT", os.fspath(path), "holds no U-Net of Hi3D")
        weights = tables[0]
        channels = weights[_MARK].shape[1] if weights[_MARK].ndim == 4 else 0
        stage: Stage = "refine" if channels > 8 else "orbit"
        if stage in found:
            raise InputError(
                "CHECKPOINT", os.fspath(path), f"holds the stage {stage} that another file has too"
            )
        found[stage] = weights
    return found


def _survey(stage: Stage, weights: Mapping[str, Tensor]) -> PartSurvey:
    network = _build_paper(stage)
    theirs = published_names(network)
    names = {published: ours for ours, published in theirs.items()}
    return survey_tensors(weights, network.state_dict(), lambda name: _known(names, name), theirs.__getitem__)


def _build_paper(stage: Stage) -> OrbitUNet:
    with torch.device("meta"):
        return build_unet("paper", stage)
