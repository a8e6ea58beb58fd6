"""Weights to start from: an exported run, or the U-Net of Stable Video Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.weights.packing import load_component

_FIRST = "conv_in.weight"
_LAST = ("conv_out.weight", "conv_out.bias")
_VECTOR = "add_embedding.linear_1.weight"


def load_initial(unet: OrbitUNet, folder: Path) -> None:
    """Give `unet` the weights in `folder`: an `OrbitUNet`, or diffusers' video U-Net of the same sizes.

    Where `unet` reads more channels than they do, the ones between the noisy latents and the condition's
    latents (depth) start at zero; where its vector has another width, their last slot (the noise of the
    condition) stays the last and slots that they have not got start at zero: so the published second stage
    began. What they have beyond `unet` for looking along rays and for blending is left out, so that a second
    stage can begin with a first one that does. Raises `InputError` for any other difference.
    """
    kind = (
        OrbitUNet if "OrbitUNet" in (folder / "config.json").read_text() else UNetSpatioTemporalConditionModel
    )
    saved: Any = load_component(kind, folder, torch.float32, argument="--initial")
    given, state = saved.state_dict(), unet.state_dict()
    slot = int(unet.config["vector_dim"]) // int(unet.config["vector_slots"])
    for name, value in state.items():
        if name not in given:
            raise InputError("--initial", str(folder), f"has no {name}")
        if given[name].shape == value.shape:
            continue
        if name == _FIRST:
            read = given[name][:, : int(saved.config["in_channels"])]
            given[name] = _with_channels(read, value.shape[1], int(unet.config["out_channels"]))
        elif name in _LAST:
            given[name] = given[name][: len(value)]
        elif name == _VECTOR:
            given[name] = _with_slots(given[name], value.shape[1], slot)
        if given[name].shape != value.shape:
            shapes = f"{list(given[name].shape)}, expected {list(value.shape)}"
            raise InputError("--initial", str(folder), f"{name} is {shapes}")
    unet.load_state_dict({name: given[name] for name in state})


def _with_channels(kernel: Tensor, channels: int, noisy: int) -> Tensor:
    """A first convolution of [noisy | others] that reads zeros-to-be between the two."""
    missing = channels - kernel.shape[1]
    if missing < 0 or kernel.shape[1] < noisy:
        return kernel
    between = kernel.new_zeros(kernel.shape[0], missing, *kernel.shape[2:])
    return torch.cat([kernel[:, :noisy], between, kernel[:, noisy:]], dim=1)


def _with_slots(matrix: Tensor, width: int, slot: int) -> Tensor:
    """A first layer on a vector of other slots: the last slot kept, zeros for the rest."""
    if matrix.shape[1] < slot:
        return matrix
    return torch.cat([matrix.new_zeros(matrix.shape[0], width - slot), matrix[:, -slot:]], dim=1)
