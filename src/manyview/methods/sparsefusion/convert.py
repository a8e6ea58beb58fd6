"""The published SparseFusion weights and ours: name for name, both ways.

In a rule `#` stands for a number and `*` for the rest of a name; both sides have the same ones in the same
order. Tensors change their names only, never their shape.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_folder
from manyview.methods.sparsefusion.eft import EpipolarTransformer, build_eft
from manyview.methods.sparsefusion.unet import VldmUnet, build_vldm
from manyview.methods.sparsefusion.vldm import build_scheduler
from manyview.weights import write_bundle
from manyview.weights.checkpoints import codec_files, find_marked, read_stored, require_fit, survey_tensors
from manyview.weights.conversion import PartSurvey, Survey

Part = Literal["eft", "unet"]
Rules = tuple[tuple[str, str], ...]


def _renamed(theirs: str, ours: str, names: Mapping[str, str]) -> Rules:
    return tuple((f"{theirs}.{old}", f"{ours}.{new}") for old, new in names.items())


def _transformer(theirs: str, ours: str) -> Rules:
    return _renamed(theirs, ours, {"pre.0.*": "enter.*", "encoder.layers.#.*": "layers.#.*"})


def _residual_stage(number: int) -> Rules:
    names = {
        "conv1.*": "first.*",
        "bn1.*": "first_norm.*",
        "conv2.*": "second.*",
        "bn2.*": "second_norm.*",
        "downsample.#.*": "shortcut.#.*",
    }
    return _renamed(f"encoder_model.layer{number}.#", f"encoder.stages.{number - 1}.#", names)


def _attention(theirs: str, ours: str) -> Rules:
    names = {
        "null_kv": "null_key_value",
        "norm.g": "norm.gain",
        "to_q.weight": "to_query.weight",
        "to_kv.weight": "to_key_value.weight",
        "to_context.0.*": "context_norm.*",
        "to_context.1.*": "context_key_value.*",
        "to_out.0.weight": "leave.weight",
        "to_out.1.g": "leave_norm.gain",
    }
    return _renamed(theirs, ours, names)


def _level_block(theirs: str, ours: str) -> Rules:
    names = {
        "time_mlp.1.*": "modulate.*",
        "block1.groupnorm.*": "first_norm.*",
        "block1.project.*": "first.*",
        "block2.groupnorm.*": "second_norm.*",
        "block2.project.*": "second.*",
        "gca.to_k.*": "gate.score.*",
        "gca.net.0.*": "gate.squeeze.*",
        "gca.net.2.*": "gate.expand.*",
        "res_conv.*": "shortcut.*",
    }
    return (*_renamed(theirs, ours, names), *_attention(f"{theirs}.cross_attn.fn", f"{ours}.look"))


def _attention_block(theirs: str, ours: str) -> Rules:
    names = {
        "layers.0.1.0.g": "enter_norm.gain",
        "layers.0.1.1.weight": "enter.weight",
        "layers.0.1.3.g": "leave_norm.gain",
        "layers.0.1.4.weight": "leave.weight",
    }
    return (*_renamed(theirs, ours, names), *_attention(f"{theirs}.layers.0.0.fn", f"{ours}.attention"))


RULES: dict[Part, Rules] = {
    "eft": (
        ("encoder_model.conv1.*", "encoder.stem.*"),
        ("encoder_model.bn1.*", "encoder.stem_norm.*"),
        *_residual_stage(1),
        *_residual_stage(2),
        *_residual_stage(3),
        *_transformer("t1", "view_mixer"),
        *_transformer("t2", "depth_mixer"),
        *_transformer("t3", "ray_mixer"),
        ("t2_attn.*", "depth_score.*"),
        ("t3_attn.*", "view_score.*"),
        ("color_layer.0.*", "color.*"),
    ),
    "unet": (
        ("init_conv.convs.#.*", "stem.branches.#.*"),
        ("to_time_hiddens.0.weights", "noise_level.frequencies"),
        ("to_time_hiddens.1.*", "noise_level.lift.*"),
        ("to_time_cond.0.*", "noise_level.to_vector.*"),
        ("to_time_tokens.0.*", "noise_level.to_tokens.*"),
        ("norm_cond.*", "noise_level.token_norm.*"),
        *_level_block("downs.#.1", "down.#.entry"),
        *_level_block("downs.#.2.#", "down.#.blocks.#"),
        *_attention_block("downs.#.3", "down.#.attention"),
        ("downs.#.4.fns.0.*", "down.#.leave.wide.*"),
        ("downs.#.4.fns.1.*", "down.#.leave.narrow.*"),
        ("downs.#.4.*", "down.#.leave.*"),
        *_level_block("mid_block1", "middle_first"),
        *_attention("mid_attn.fn.fn", "middle_attention"),
        *_level_block("mid_block2", "middle_second"),
        *_level_block("ups.#.0", "up.#.entry"),
        *_level_block("ups.#.1.#", "up.#.blocks.#"),
        *_attention_block("ups.#.2", "up.#.attention"),
        ("ups.#.3.net.0.*", "up.#.leave.spread.*"),
        *_level_block("final_res_block", "last"),
        ("final_conv.*", "head.*"),
    ),
}

UNUSED: dict[Part, tuple[str, ...]] = {
    # The last stage and the classifier of ResNet-18: in the file, but nothing reads their output.
    "eft": ("encoder_model.layer4.*", "encoder_model.fc.*"),
    # The places of a text condition that this model has not got.
    "unet": ("null_conditional_embed", "null_conditional_hidden"),
}

# A name that tells which part a state dict belongs to.
_MARKS: dict[Part, str] = {"eft": "t1.pre.0.weight", "unet": "to_time_hiddens.0.weights"}


def our_name(part: Part, name: str) -> str | None:
    """Our name of a published one, or None for one that nothing reads.

    Raises `InputError` for a name that is neither.
    """
    for theirs, ours in RULES[part]:
        if renamed := _rename(name, theirs, ours):
            return renamed
    if any(_pattern(unused).fullmatch(name) for unused in UNUSED[part]):
        return None
    raise InputError("CHECKPOINT", name, f"expected the names of SparseFusion's {part}")


def published_name(part: Part, name: str) -> str:
    """The published name of one of ours. Raises `InputError` for a name that is not ours."""
    for theirs, ours in RULES[part]:
        if renamed := _rename(name, ours, theirs):
            return renamed
    raise InputError("name", name, f"expected a name of our {part}")


def from_published(part: Part, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a published one."""
    named = {our_name(part, name): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if name is not None}


def to_published(part: Part, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names of our state dict; what nothing reads is left out."""
    return {published_name(part, name): value for name, value in weights.items()}


def _rename(name: str, before: str, after: str) -> str | None:
    match = _pattern(before).fullmatch(name)
    if match is None:
        return None
    pieces = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(pieces), after)


@cache
def _pattern(rule: str) -> re.Pattern[str]:
    escaped = re.escape(rule).replace(r"\#", r"(\d+)").replace(r"\*", r"(.+)")
    return re.compile(escaped)


def find_parts(stored: Any) -> dict[Part, dict[str, Tensor]]:
    """The published state dicts in what a checkpoint file holds, however deep, under their own names.

    Prefixes before a part's first known name (`unets.0.`, `module.`) are cut off; optimiser states, running
    averages beside a part that was found already, and whatever else is there are passed over.
    """
    found: dict[Part, dict[str, Tensor]] = {}
    for part, mark in _MARKS.items():
        weights = next(find_marked(stored, mark), None)
        if weights is not None:
            found[part] = weights
    return found


def read_checkpoint(path: str | os.PathLike[str]) -> dict[Part, dict[str, Tensor]]:
    """The parts in a published file (safetensors, or torch's, with its weights-only reader), our names.

    Raises `InputError` for a file that is neither, that holds more than tensors, or that holds no part.
    """
    return {part: from_published(part, weights) for part, weights in _read_parts(path).items()}


def survey_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> Survey:
    """How the keys of published files meet our networks at their published sizes. Nothing is written.

    Raises `InputError` as `read_checkpoint`, but for unknown names, which are listed.
    """
    parts: dict[Part, dict[str, Tensor]] = {}
    for path in paths:
        parts |= _read_parts(path)
    return Survey(parts={part: _survey_part(part, weights) for part, weights in parts.items()})


def convert_checkpoints(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> dict[str, Path]:
    """Write the published weights in `paths` as a bundle: folders `eft` and `unet` of `out`, `scheduler`, and
    with `codec` (a folder of diffusers' AutoencoderKL, such as Stable Diffusion 1.x's `vae`) a copy of it.

    The sizes are the published ones. Raises `InputError` for what `read_checkpoint` refuses, for a name or a
    shape that does not fit, for a codec that is none, and for a folder `out` that is in use (see `force`),
    with nothing written.
    """
    parts: dict[Part, dict[str, Tensor]] = {}
    for path in paths:
        parts |= read_checkpoint(path)
    networks: dict[Part, EpipolarTransformer | VldmUnet] = {part: _build_paper(part) for part in parts}
    for part, network in networks.items():
        require_fit(part, network.state_dict(), parts[part], partial(published_name, part))
        network.load_state_dict(parts[part], assign=True)
    files = [] if codec is None else codec_files(Path(codec))
    with writing_folder(out, force, marks=("config.json", "manyview.json")) as folder:
        for part, network in networks.items():
            network.save_pretrained(folder / part)
        build_scheduler("plms", 50).save_pretrained(folder / "scheduler")
        if files:
            (folder / "vae").mkdir()
            for file in files:
                shutil.copyfile(file, folder / "vae" / file.name)
        names: list[str] = [*networks, "scheduler", *(["vae"] if files else [])]
        write_bundle(
            folder,
            name="converted sparsefusion",
            method="sparsefusion",
            licence=licence,
            components={name: name for name in names},
            settings={"solver": "plms", "steps": 50, "resolution": 256},
        )
    return {name: Path(out) / name for name in names}


class SparseFusionConverter:
    """This module as `manyview convert` calls it."""

    survey = staticmethod(survey_checkpoints)
    convert = staticmethod(convert_checkpoints)


def _read_parts(path: str | os.PathLike[str]) -> dict[Part, dict[str, Tensor]]:
    """The parts in a file under their published names."""
    parts = find_parts(read_stored(path))
    if not parts:
        raise InputError("CHECKPOINT", os.fspath(path), "holds neither SparseFusion's EFT nor its U-Net")
    return parts


def _survey_part(part: Part, weights: Mapping[str, Tensor]) -> PartSurvey:
    ours = _build_paper(part).state_dict()
    return survey_tensors(weights, ours, partial(our_name, part), partial(published_name, part))


def _build_paper(part: Part) -> EpipolarTransformer | VldmUnet:
    with torch.device("meta"):
        return build_eft("paper") if part == "eft" else build_vldm("paper")
