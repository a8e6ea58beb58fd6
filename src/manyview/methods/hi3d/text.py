"""A picture from words, by any text-to-image pipeline of diffusers, as input (section 5.5 of the paper)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from manyview.errors import InputError
from manyview.sampling.noise import item_generator

_STREAM = 0x746578
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_text_model(model: str) -> None:
    """Raise `InputError` for a folder that holds no pipeline or pickled weights, and for what is neither a
    folder nor a hub id. Nothing loads."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InputError(
                "--text-model", model, "expected a diffusers pipeline: a folder with model_index.json"
            )
        pickled = [path for path in folder.glob("*/*") if path.suffix in _PICKLES]
        if pickled and not list(folder.glob("*/*.safetensors")):
            raise InputError("--text-model", model, f"{pickled[0].name} is not safetensors; convert it first")
    elif folder.exists() or model.count("/") != 1 or model.startswith((".", "/")):
        raise InputError("--text-model", model, "no such folder; expected one, or a hub id owner/name")


def draw_text(
    prompt: str,
    model: str,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Tensor:
    """[3, H, W] in [0, 1] the picture a pipeline (folder or hub id) makes of a prompt; another for each seed.

    `options` are the pipeline's own, such as num_inference_steps. Words that ask for one object on a plain
    white background give pictures that can be cut out. Raises `InputError` as `check_text_model`, and where
    the pipeline cannot be loaded or makes no picture.
    """
    check_text_model(model)
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError("--text-model", model, f"cannot be loaded ({reason})") from error
    if "prompt" not in inspect.signature(type(pipeline).__call__).parameters:
        raise InputError("--text-model", model, f"{type(pipeline).__name__} takes no words")
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    generator = item_generator(seed, 0, _STREAM)
    made = pipeline(prompt=prompt, generator=generator, output_type="np", **options)
    images = getattr(made, "images", None)
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[-1] != 3:
        raise InputError("--text-model", model, f"{type(pipeline).__name__} makes no pictures")
    return torch.from_numpy(images[0].astype(np.float32)).permute(2, 0, 1).clamp(0, 1).contiguous()
