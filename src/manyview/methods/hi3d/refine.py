"""The second stage: a coarse orbit, its depth and the picture it is of, into an orbit of twice the size.

    coarse frames -> enlarged, frame 0 = the real picture -> latents (noised a little)  -.
                                                          -> depth -> channels          -+-> refiner -> frames
    the picture -> embedding                                                            -'

As the published code; what it hands over as a compressed video is handed over here as it is.
Shapes: B clips, A views of an orbit, S depth channels, s pixels a side of the coarse frames, R of the fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.hi3d.degradation import enlarge
from manyview.methods.hi3d.depth import DepthModel, DepthOptions, Normalize, depth_channels
from manyview.methods.hi3d.frames import AT_ONCE
from manyview.methods.hi3d.stage import StageNetworks
from manyview.nets.autoencoder import latent_scale
from manyview.sampling.workers import OnStep


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Choices of a run, resolved."""

    num_steps: int
    guidance: tuple[float, float]
    """At frame 0, and the highest."""
    scale: Tensor
    """[A] guidance of each frame."""
    blend: bool
    """Pull the first steps to the coarse orbit (`guidance.blend_share`)."""
    depth: bool
    """Show depth; without it its channels are zero, as the refiner has met them in training."""


def count_depth_channels(networks: StageNetworks) -> int:
    """S of a refiner: 9, 1, or 0 for one that reads no depth. Raises `InputError` for another network."""
    config = networks.unet.config
    count = int(config["in_channels"]) - 2 * int(config["out_channels"])
    if count not in (0, 1, 9):
        raise InputError(
            "refiner", f"{config['in_channels']} channels", "expected latents twice and 0, 1 or 9"
        )
    return count


def draw_refined(
    networks: StageNetworks,
    depth_model: DepthModel | None,
    normalize: Normalize,
    coarse: Tensor,
    given: Tensor,
    elevation_deg: Tensor,
    how: Refinement,
    *,
    items: Sequence[int],
    seed: int,
    at_once: int = AT_ONCE,
    on_step: OnStep | None = None,
) -> Tensor:
    """[B, A, C, h, w] latents of refined orbits of coarse ones [B, A, 3, s, s], whose view 0 shows what the
    pictures [B, 3, R, R] do. depth_model: None where no depth is to be shown."""
    clips = refined_input(coarse, given)
    channels = count_depth_channels(networks)
    depth = None
    if channels:
        cells = given.shape[-1] // latent_scale(networks.vae)
        depth = torch.zeros(*clips.shape[:2], channels, cells, cells)
        if how.depth and depth_model is not None:
            options = DepthOptions(normalize=normalize, channels=9 if channels == 9 else 1)
            depth = clip_depth(depth_model, clips, cells, options, networks.device, at_once)
    return networks.draw(
        given,
        clips,
        elevation_deg,
        how.scale,
        items=items,
        seed=seed,
        num_steps=how.num_steps,
        depth=depth,
        blend=how.blend,
        at_once=at_once,
        on_step=on_step,
    )


def refined_input(coarse: Tensor, given: Tensor) -> Tensor:
    """[B, A, 3, R, R] coarse clips [B, A, 3, s, s] at the size of the pictures [B, 3, R, R], which take the
    place of view 0."""
    size = given.shape[-1]
    clips = coarse if coarse.shape[-1] == size else enlarge(coarse.flatten(0, 1), size, size)
    clips = clips.reshape(*coarse.shape[:3], size, size).clone()
    clips[:, 0] = given
    return clips


def clip_depth(
    model: DepthModel,
    clips: Tensor,
    cells: int,
    options: DepthOptions,
    device: torch.device | str = "cpu",
    at_once: int = AT_ONCE,
) -> Tensor:
    """[B, A, S, cells, cells] float32 depth channels of clips [B, A, 3, R, R]."""
    parts = clips.flatten(0, 1).split(at_once)
    raw = torch.cat([model.estimate(part.to(device)).float() for part in parts])
    return depth_channels(raw.unflatten(0, clips.shape[:2]), cells, cells, options)
