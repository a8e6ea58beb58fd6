"""A bundle's folders as the pipeline's components, and the choices recorded with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from torch import nn
from transformers import CLIPVisionModelWithProjection

from manyview.methods.hi3d.depth import DepthModel, PhotoDepth, load_depth
from manyview.methods.hi3d.elevation import ElevationNet
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.weights import Bundle
from manyview.weights.packing import load_component

_NETWORKS: dict[str, Any] = {"refiner": OrbitUNet, "elevation": ElevationNet}
"""What a bundle may hold beside the first stage; the depth network is read by `load_depth`."""
_CHOICES = {
    "default_steps": "steps",
    "default_guidance": "guidance",
    "default_shape": "guidance_shape",
    "refine_steps": "refine_steps",
    "refine_guidance": "refine_guidance",
    "refine_shape": "refine_shape",
    "blend": "blend",
    "depth_normalize": "depth_normalize",
    "augmentation": "augmentation",
    "condition": "condition",
    "resolution": "resolution",
    "sigma_max": "sigma_max",
    "refine_sigma_max": "refine_sigma_max",
}
"""Argument of the pipeline -> its name among a bundle's settings; `model_index.json` has the former."""


def load_components(bundle: Bundle, dtype: torch.dtype) -> tuple[dict[str, Any], DepthModel | None]:
    """All components, and the depth network ready to estimate (with the statistics in its files)."""
    part = bundle.folders("vae", "image_encoder", "unet", "scheduler")
    made: dict[str, Any] = {
        "vae": load_component(AutoencoderKL, part["vae"], dtype),
        "image_encoder": load_component(CLIPVisionModelWithProjection, part["image_encoder"], dtype),
        "unet": load_component(OrbitUNet, part["unet"], dtype),
        "scheduler": EulerDiscreteScheduler.from_pretrained(part["scheduler"]),
    }
    for name, kind in _NETWORKS.items():
        if name in bundle.components:
            made[name] = load_component(kind, bundle.components[name], dtype)
    if "refine_scheduler" in bundle.components:
        folder = bundle.components["refine_scheduler"]
        made["refine_scheduler"] = EulerDiscreteScheduler.from_pretrained(str(folder))
    if "depth" not in bundle.components:
        return made, None
    model = load_depth(bundle.components["depth"], argument="--weights")
    nn.Module.to(model, dtype)  # not diffusers' own, which warns
    # A component has to be able to save itself, which what is wrapped around a network of others cannot.
    made["depth"] = model.network if isinstance(model, PhotoDepth) else model
    return made, model


def recorded_choices(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline that are recorded; the others keep their defaults."""
    found = {}
    for name, setting in _CHOICES.items():
        value = settings.get(setting, settings.get(name))
        if value is not None:
            found[name] = value
    return found
