"""Sizes and choices of TUNet. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from manyview.errors import InputError

Conditioning = Literal["blocks", "concat"]
Keys = Literal["pooled", "full"]
SweepPlace = Literal["input", "decoder"]
Ablation = Literal["full", "no-cross-attention", "concat"]


@dataclass(frozen=True, kw_only=True)
class TUNetOptions:
    """The defaults are the compact network; `paper_options` has the published one.

    What the paper has not got (`feature_keys`, `ray_octaves`, `sweep_depths`, `blend`, `identity_gate`) can
    be switched off. Raises `InputError` for choices that do not go together.
    """

    latent_channels: int = 8
    widths: tuple[int, ...] = (48, 64, 64)
    """Channels of each level, from the latent's own size down; the paper has 128, 256, 512, 512."""
    resnets: int = 1
    """Residual blocks of a level of the encoder; the decoder has one more."""
    self_attention: tuple[bool, ...] = (False, True, True)
    """Levels of the encoder with self-attention after each residual block."""
    ray_levels: tuple[bool, ...] = (False, True, True)
    """Levels of the decoder with ray attention after each residual block; the middle always has it."""
    cross_attention: bool = True
    """Ray attention: queries of target rays and features, keys of reference rays and latent, values of the
    latent. Without it the levels that had it keep their self-attention (the paper's ablation)."""
    cross_dim: int = 128
    head_dim: int = 32
    groups: int = 8
    camera_dim: int = 32
    class_dim: int = 32
    num_classes: int = 0
    """Known classes; the embeddings have one more, the unknown."""
    conditioning: Conditioning = "blocks"
    """`blocks`: cameras and class reach every residual block (encoder: reference; middle: both; decoder:
    target). `concat`: they are maps beside the input and nothing else (the paper's ablation)."""
    key_cells: Keys = "full"
    """Latent and rays of the reference for attention: averaged to the size of the queries, or all."""
    feature_keys: bool = True
    """Keys and values also of the encoder's first features of the reference."""
    ray_octaves: int = 4
    """Octaves of the harmonic embedding of rays; 0 gives the 6 numbers of the paper."""
    sweep_depths: int = 16
    """Depths along the target's rays at which the reference's latent is gathered for the network; 0: none."""
    sweep_half_range: float = 0.55
    """The depths lie so far before and behind the point looked at; the reference stands 1.5 from it."""
    sweep_into: SweepPlace = "input"
    """Where gathered latents go: beside the input, or into the middle and every level of the decoder."""
    blend: bool = True
    """The output is a mean of gathered values, weighed cell by cell, plus a residual."""
    identity_gate: bool = True
    """With `blend`: the residual fades out as the target's camera nears the reference's, so that the same
    camera gives the same latent, whatever was learned."""
    t_star: int = 600
    """The timestep whose means the network is for, and its time input where none is given."""

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for name in ("self_attention", "ray_levels"):
            if len(getattr(self, name)) != levels:
                raise InputError(name, getattr(self, name), f"expected one for each of {levels} levels")
        if self.cross_dim % self.head_dim:
            raise InputError("cross_dim", self.cross_dim, f"expected a multiple of {self.head_dim}")
        if self.sweep_depths < 0 or self.num_classes < 0:
            raise InputError("sweep_depths, num_classes", "negative", "expected 0 or more")

    @property
    def num_candidates(self) -> int:
        """What `blend` chooses from: nothing, the reference's same cell, each depth of the sweep."""
        return 2 + self.sweep_depths

    @property
    def shares_encoder(self) -> bool:
        """Whether the encoder sees the reference alone, so that many targets share one pass of it."""
        return self.conditioning == "blocks" and not (self.sweep_depths and self.sweep_into == "input")


def ablated(options: TUNetOptions, ablation: Ablation) -> TUNetOptions:
    """The network without a part, as in the paper's ablation.

    Both ablations also lack the sweep and the blend: these carry the reference's content along rays as the
    attention does, and would hide what is missing without it.
    """
    if ablation == "full":
        return options
    lesser = replace(options, cross_attention=False, sweep_depths=0, blend=False)
    return replace(lesser, conditioning="concat") if ablation == "concat" else lesser


def paper_options(num_classes: int = 167) -> TUNetOptions:
    """The published network: latents 4 x 64 x 64, about 148 million parameters."""
    return TUNetOptions(
        latent_channels=4,
        widths=(128, 256, 512, 512),
        resnets=2,
        self_attention=(False, False, True, True),
        ray_levels=(False, False, True, True),
        cross_dim=768,
        head_dim=64,
        groups=32,
        camera_dim=64,
        class_dim=64,
        num_classes=num_classes,
        key_cells="pooled",
        feature_keys=False,
        ray_octaves=0,
        sweep_depths=0,
        blend=False,
        identity_gate=False,
    )
