"""Stable Diffusion 1.x as TUNet's base, with a TUNet of ours, in one bundle.

The paper's authors have published scripts and no weights, so there is no checkpoint of theirs to convert.
What can be put together is what their system consists of: a folder of Stable Diffusion in diffusers' layout
(safetensors), and the export of a `manyview train tunet` that was trained on its inversions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_folder
from manyview.methods.tunet.base import base_class
from manyview.methods.tunet.model import TUNet
from manyview.methods.tunet.networks import stable_diffusion_parts
from manyview.methods.tunet.spec import PAPER_SAMPLING
from manyview.weights import write_bundle
from manyview.weights.checkpoints import survey_tensors
from manyview.weights.conversion import Survey

_ACCEPTED = (
    "expected a folder of Stable Diffusion 1.x (diffusers' layout, safetensors) and one with tunet, "
    "the export of `manyview train tunet`"
)
_BASE_PARTS = ("vae", "base", "scheduler", "text_encoder", "tokenizer")


def survey_checkpoints(paths: Sequence[str | os.PathLike[str]]) -> Survey:
    """How the tensors of both networks meet their configs. Nothing is written.

    Raises `InputError` for folders that hold neither network, and for two that hold the same.
    """
    places = _find(paths)
    kinds: dict[str, Any] = {"base": UNet2DConditionModel, "tunet": TUNet}
    parts = {}
    for name, place in places.items():
        with torch.device("meta"):
            network = kinds[name].from_config(kinds[name].load_config(str(place)))
        ours = network.state_dict()
        parts[name] = survey_tensors(_shapes(place), ours, str, str)
    return Survey(parts=parts)


def convert_checkpoints(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str | os.PathLike[str] | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> dict[str, Path]:
    """Write a bundle of both folders in `paths`: `vae`, `base`, `scheduler`, `text_encoder`, `tokenizer` of
    the one and `tunet` of the other, and the paper's choices.

    Raises `InputError` as `survey_checkpoints`, where one of the two is missing or does not fit, for a
    `codec` (Stable Diffusion comes with its own) and for a folder `out` that is in use (see `force`).
    """
    places = _find(paths)
    for name, what in (("base", "Stable Diffusion"), ("tunet", "a trained tunet")):
        if name not in places:
            raise InputError(
                "CHECKPOINT", ", ".join(str(path) for path in paths), f"lacks {what}; {_ACCEPTED}"
            )
    if codec is not None:
        raise InputError("--codec", os.fspath(codec), "Stable Diffusion comes with its own")
    for name, part in survey_checkpoints(paths).parts.items():
        if not part.fits:
            first = (*part.unknown, *part.missing, *part.misshapen)[0]
            raise InputError("CHECKPOINT", f"{name}: {first}", "does not fit; see --dry-run")
    config = json.loads((places["tunet"] / "config.json").read_text(encoding="utf-8"))
    made = stable_diffusion_parts(places["base"].parent)
    channels = made["vae"].config["latent_channels"]
    if channels != config["latent_channels"]:
        line = f"expected a tunet for its {channels} latent channels"
        raise InputError("CHECKPOINT", f"tunet of {config['latent_channels']} channels", line)
    with writing_folder(out, force, marks=("config.json", "manyview.json")) as folder:
        for name in _BASE_PARTS:
            made[name].save_pretrained(folder / name)
        shutil.copytree(places["tunet"], folder / "tunet")
        names = (*_BASE_PARTS, "tunet")
        settings = {
            "mean_steps": PAPER_SAMPLING["steps"],
            "t_star": config["t_star"],
            "candidates": list(PAPER_SAMPLING["candidates"]),
            "selection": "agreement",
            "resolution": _resolution(made),
        }
        write_bundle(
            folder,
            name="converted tunet",
            method="tunet",
            licence=licence,
            components={name: name for name in names},
            settings=settings,
        )
    return {name: Path(out) / name for name in names}


class TunetConverter:
    """This module as `manyview convert` calls it."""

    survey = staticmethod(survey_checkpoints)
    convert = staticmethod(convert_checkpoints)


def _resolution(parts: Mapping[str, Any]) -> int:
    """Pixels a side at which the base draws."""
    scale = 2 ** (len(parts["vae"].config["block_out_channels"]) - 1)
    return int(parts["base"].config["sample_size"]) * scale


def _find(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """The folders of both networks, by what their configs say they are."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        inside = {"base": path / "unet", "tunet": path / "tunet"}
        wanted = {"base": "UNet2DConditionModel", "tunet": "TUNet"}
        here = {name: place for name, place in inside.items() if base_class(place) == wanted[name]}
        if not here and base_class(path) == "TUNet":
            here = {"tunet": path}
        if not here:
            raise InputError("CHECKPOINT", str(path), _ACCEPTED)
        for name, place in here.items():
            if name in found:
                raise InputError("CHECKPOINT", str(path), f"has a {name} that {found[name].parent} has too")
            if not list(place.glob("*.safetensors")):
                raise InputError("CHECKPOINT", str(place), "holds no safetensors")
            found[name] = place
    return found


def _shapes(folder: Path) -> dict[str, Tensor]:
    """The tensors of a component by name, without their values; of several variants the plain one."""
    files = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name.count("."), path.name))
    plain = [path for path in files if path.name.count(".") == files[0].name.count(".")]
    tensors: dict[str, Tensor] = {}
    for path in plain:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensors[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
        except SafetensorError as error:
            raise InputError("CHECKPOINT", str(path), "cannot be read as safetensors") from error
    return tensors
