"""A base on disk with all that its answers need: the export of a base's training, or a pipeline in diffusers'
layout such as Stable Diffusion 1.5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from manyview.errors import InputError
from manyview.methods.tunet.base import BaseNet, BaseNoise, embed_words, load_base

_NAMES = ("base", "unet")


@dataclass(frozen=True)
class OpenBase:
    """A base ready to be asked without prompt and class."""

    network: BaseNet
    model: BaseNoise
    scheduler: DDIMScheduler


def check_base(folder: Path, argument: str = "--base") -> Path:
    """The folder of the network in `folder`. Raises `InputError` where there is none, or no scheduler."""
    for name in _NAMES:
        if (folder / name / "config.json").is_file():
            if not (folder / "scheduler" / "scheduler_config.json").is_file():
                raise InputError(argument, str(folder), f"has {name} but no scheduler beside it")
            return folder / name
    accepted = (
        "expected the export of `manyview train tunet --stage base`, or a folder with unet and scheduler"
    )
    raise InputError(argument, str(folder), accepted)


def open_base(
    folder: Path, device: torch.device | str, dtype: torch.dtype | None = None, argument: str = "--base"
) -> OpenBase:
    """Load a base; one that takes text is told the empty prompt, by the text encoder beside it.

    Raises `InputError` as `check_base`, and where a base that takes text has none.
    """
    place = check_base(folder, argument)
    network = load_base(place, dtype or torch.float32, argument=argument)
    network.to(device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
    scheduler = cast(DDIMScheduler, DDIMScheduler.from_pretrained(str(folder / "scheduler")))
    context = None
    if isinstance(network, UNet2DConditionModel):
        if not ((folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir()):
            line = "its base takes text: expected text_encoder and tokenizer beside it"
            raise InputError(argument, str(folder), line)
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder"), local_files_only=True)
        with torch.no_grad():
            context = embed_words(tokenizer, encoder.eval(), "").to(device)
    return OpenBase(network, BaseNoise(network, context=context), scheduler)
