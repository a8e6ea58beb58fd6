"""Depth as a condition of the second stage: estimated on coarse frames, brought to the latents' grid.

    frames -> raw depth (larger is nearer) -> resized to 3 x the latents -> stretched to [0, 1] -> 9 channels

The released code runs MiDaS's DPT-hybrid (`Intel/dpt-hybrid-midas` in transformers), stretches every frame by
itself and folds 3 x 3 values into channels; the paper resizes to the latents' size. Stretching per clip keeps
the scale between views and is what we train with. Shapes: T frames, h x w latent cells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.data.latents import weights_identity
from manyview.errors import InputError
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.weights.packing import load_component

Normalize = Literal["clip", "frame", "none"]
Channels = Literal[9, 1]
RELEASED_MODEL = "Intel/dpt-hybrid-midas"
_SHRINK = 2.6666
"""1024 px frames are looked at in 384 px; the number is the released code's."""
_FOLD = 3
_METRIC_MODELS = ("zoedepth", "depth_pro", "prompt_depth_anything")
"""Model types of transformers that tell distance rather than its inverse."""


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """How depth becomes a condition."""

    normalize: Normalize = "clip"
    """Stretch to [0, 1] over the clip, over each frame (as released), or not at all: then values have to be
    on one scale already, as those of `DepthNet`."""
    channels: Channels = 9
    """9: folded from 3 x the latents' size (as released); 1: at the latents' size (as printed)."""

    def __post_init__(self) -> None:
        if self.normalize not in ("clip", "frame", "none"):
            raise InputError("depth normalize", self.normalize, "expected clip, frame or none")
        if self.channels not in (9, 1):
            raise InputError("depth channels", self.channels, "expected 9 or 1")

    @property
    def factor(self) -> int:
        """Depth values along a side of a latent cell."""
        return _FOLD if self.channels == 9 else 1


class PhotoDepth(nn.Module):
    """A depth network of transformers with the statistics and the size of its input.

    `network`: anything of `AutoModelForDepthEstimation`. `side`: pixels a side it is shown; None for the
    released rule, frame / 2.6666 in whole multiples of 32, or of the network's patches. `metric`: it tells
    distance, of which the inverse is taken.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        side: int | None = None,
        metric: bool = False,
        frames_at_once: int = 4,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.side, self.metric, self.frames_at_once = side, metric, frames_at_once

    def picture_side(self, frame_side: int) -> int:
        """Pixels a side that the network is shown of frames of so many."""
        if self.side is not None:
            return self.side
        patch = getattr(getattr(self.network, "config", None), "patch_size", None)
        multiple = patch if isinstance(patch, int) and 32 % patch else 32
        return max(multiple, int(frame_side / _SHRINK / multiple) * multiple)

    @torch.no_grad()
    def estimate(self, images: Tensor) -> Tensor:
        """[B, S, S] float32, larger is nearer, of images [B, 3, H, W] in [0, 1]."""
        weight = next(self.network.parameters())
        side = self.picture_side(images.shape[-1])
        found = []
        for part in images.split(self.frames_at_once):
            small = resize_frames(part.to(weight.device), side)
            mean, std = (small.new_tensor(three)[:, None, None] for three in (self.mean, self.std))
            pixels = (small - mean) / std
            depth = self.network(pixel_values=pixels.to(weight.dtype)).predicted_depth.float()
            found.append(1 / depth.clamp_min(1e-3) if self.metric else depth)
        return torch.cat(found)


DepthModel = DepthNet | PhotoDepth


def as_depth_model(network: nn.Module) -> DepthModel:
    """A pipeline's component ready to estimate: `DepthNet` as it is, a network of transformers with MiDaS's
    statistics (for other networks, wrap them in `PhotoDepth` with their own)."""
    if isinstance(network, DepthNet | PhotoDepth):
        return network
    return PhotoDepth(network, metric=is_metric(getattr(network, "config", None)))


def depth_identity(model: DepthModel) -> str:
    """What decides the depths a network tells: its weights and how pictures are shown to it."""
    if isinstance(model, DepthNet):
        said = {name: model.config[name] for name in ("size", "near", "far")}
        return f"{weights_identity(model)} {json.dumps(said, sort_keys=True)}"
    shown = [model.mean, model.std, model.side, model.metric]
    return f"{weights_identity(model.network)} {json.dumps(shown)}"


def load_depth(weights: str | Path, *, argument: str = "--depth", **options: Any) -> DepthModel:
    """The depth network in a folder or under a hub id: ours, or any of transformers for depth estimation.

    `options` are those of `PhotoDepth`; mean, std and metric come from the weights' own files where these
    say. Raises `InputError` where there is none.
    """
    folder = Path(weights)
    if (folder / "config.json").is_file() and '"DepthNet"' in (folder / "config.json").read_text():
        if options:
            raise InputError(argument, sorted(options), "are options of other depth networks than ours")
        return load_component(DepthNet, folder, argument=argument).eval()
    from transformers import AutoModelForDepthEstimation
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        network = AutoModelForDepthEstimation.from_pretrained(str(weights), use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(argument, str(weights), f"no depth network is there ({reason})") from error
    try:
        recipe, _ = ImageProcessingMixin.get_image_processor_dict(str(weights))
    except OSError:
        recipe = {}
    given: dict[str, Any] = {}
    if recipe.get("image_mean") and recipe.get("image_std"):
        given = {"mean": tuple(recipe["image_mean"]), "std": tuple(recipe["image_std"])}
    given["metric"] = is_metric(network.config)
    return PhotoDepth(network.eval(), **{**given, **options})


def is_metric(config: Any) -> bool:
    """Whether a network of this transformers config tells distance."""
    kind = getattr(config, "depth_estimation_type", None)
    return kind == "metric" or (kind is None and getattr(config, "model_type", "") in _METRIC_MODELS)


def depth_channels(raw: Tensor, height: int, width: int, options: DepthOptions | None = None) -> Tensor:
    """[..., T, 9 or 1, height, width] for latents of this size, of raw depths [..., T, H, W] of clips.

    Bilinear without antialiasing, then stretched, then folded: channel 3 r + c holds row r and column c of a
    cell's 3 x 3 values. A clip (or frame) of one value becomes 0.
    """
    options = DepthOptions() if options is None else options
    factor = options.factor
    flat = raw.float().reshape(-1, 1, *raw.shape[-2:])
    flat = F.interpolate(flat, (factor * height, factor * width), mode="bilinear", align_corners=False)
    sized = flat.reshape(*raw.shape[:-2], *flat.shape[-2:])
    folded = F.pixel_unshuffle(stretch(sized, options.normalize).unsqueeze(-3), factor)
    return folded.contiguous()


def stretch(depths: Tensor, normalize: Normalize) -> Tensor:
    """Depths [..., T, H, W] with smallest 0 and largest 1 in each clip or frame; unchanged for none."""
    if normalize == "none":
        return depths
    over = (-2, -1) if normalize == "frame" else (-3, -2, -1)
    shifted = depths - depths.amin(dim=over, keepdim=True)
    largest = shifted.amax(dim=over, keepdim=True)
    return shifted / torch.where(largest > 0, largest, torch.ones_like(largest))


def resize_frames(frames: Tensor, side: int) -> Tensor:
    """[T, 3, side, side] as the released code shows frames to its depth network: plain bilinear."""
    return F.interpolate(frames, (side, side), mode="bilinear", align_corners=False, antialias=False)
