"""The video U-Net of both stages: diffusers' spatio-temporal one, told places on an orbit and any vector.

Shapes: B clips, T frames, C channels, h x w latent cells, D context size, W vector width.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from manyview.methods.hi3d.input_rays import FEATURES, InputRays, blend_shown, count_candidates
from manyview.methods.hi3d.spec import NUM_FRAMES

Stage = Literal["orbit", "refine"]
DEPTH_CHANNELS = 9
"""One depth map at three times the latent's resolution, its 3 x 3 blocks as channels."""


class FramedContext(NamedTuple):
    """What the attention of every block reads: it travels through diffusers' blocks as one argument."""

    tokens: Tensor
    """[B T, L, D], the same for all frames of a clip."""
    places: Tensor
    """int64 [B, T] places on the orbit."""


def place_features(places: Tensor, width: int, num_places: int, closed: bool) -> Tensor:
    """[N, width] features of places [N] on an orbit of `num_places`.

    Open: sinusoids of the number, as Stable Video Diffusion has them. Closed: whole harmonics of the angle,
    up to half the number of places and then over again, so that the last place is as near to the first as any
    neighbours are.
    """
    if not closed:
        return get_timestep_embedding(places, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    half = width // 2
    order = torch.arange(half, device=places.device) % (num_places // 2) + 1
    # Reduced as integers: the same place a turn on gives the same bits.
    steps = (places[:, None] * order) % num_places
    angle = steps.float() * (2 * math.pi / num_places)
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=-1), (0, width - 2 * half))


class OrbitConv(nn.Conv3d):
    """The convolution over three frames; on a closed orbit the last frame neighbours the first.

    It closes only where all frames of the orbit are there: a window of it has ends.
    """

    def __init__(self, in_channels: int, out_channels: int, num_places: int | None) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0))
        self.num_places = num_places

    def forward(self, input: Tensor) -> Tensor:
        """[B, out, T, h, w] of [B, in, T, h, w]."""
        frames, cells = input.shape[2], input.shape[3:]
        # Over cells in a row it is a convolution of two axes, which is faster on a CPU.
        rows, kernel = input.flatten(3), self.weight.squeeze(-1)
        if frames == self.num_places:
            rows = torch.cat([rows[:, :, -1:], rows, rows[:, :, :1]], dim=2)
            return F.conv2d(rows, kernel, self.bias).unflatten(3, cells)
        return F.conv2d(rows, kernel, self.bias, padding=(1, 0)).unflatten(3, cells)


class OnlyToken(nn.Module):
    """Attention to a single token, which gives that token whatever is asked."""

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__()
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        """[N, 1, width], to be added to every entry of [N, S, width], of tokens [N, 1, D]."""
        assert encoder_hidden_states.shape[1] == 1, "this network was made for one token"
        return self.to_out(self.to_v(encoder_hidden_states))


class LightUpsample(nn.Module):
    """Twice the cells. The blocks that follow look at neighbouring cells themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """[B T, C, 2 h, 2 w] of [B T, C, h, w]."""
        return F.interpolate(self.conv(hidden_states), scale_factor=2.0, mode="nearest")


class OrbitTransformer(TransformerSpatioTemporalModel):
    """Attention within each frame, then over the frames at each cell, which know their places on the
    orbit."""

    num_places = NUM_FRAMES
    closed = False

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: FramedContext,
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """[B T, C, h, w] of the same; image_only_indicator [B, T]: frames that look at no other."""
        tokens, places = encoder_hidden_states
        clips, frames = places.shape
        height, width = hidden_states.shape[-2:]
        x = self.norm(hidden_states).permute(0, 2, 3, 1).flatten(1, 2)
        x = self.proj_in(x)
        features = place_features(places.flatten(), self.in_channels, self.num_places, self.closed)
        place = self.time_pos_embed(features.to(x.dtype))[:, None]
        # All cells of a clip read the clip's tokens.
        shared = tokens.unflatten(0, (clips, frames))[:, 0].repeat_interleave(height * width, dim=0)
        for block, over_frames in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            x = block(x, encoder_hidden_states=tokens)
            mixed = over_frames(x + place, num_frames=frames, encoder_hidden_states=shared)
            x = self.time_mixer(x_spatial=x, x_temporal=mixed, image_only_indicator=image_only_indicator)
        x = self.proj_out(x).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return (x + hidden_states,)


class OrbitUNet(UNetSpatioTemporalConditionModel):
    """The denoiser of an orbit's latents.

    `vector_dim`: width of the vector that is added to the noise level. `vector_slots`: of so many parts it
    consists, for whoever makes it (`conditions.vector_condition`). `closed`: the frames are a full turn, so
    convolutions over frames wrap and the places are told as angles: frames rolled with their places give
    the answer rolled, and the input frame is the one told place 0. `norm_groups`: groups of every group norm.
    `feedforward`: hidden width of the layers after attention, as a multiple of theirs. `one_token`: the
    context never has more than one, so that no block has queries and keys for it. `light_upsampling`: a 1 x 1
    convolution before upsampling in the place of a 3 x 3 one after it.

    `sweep_depths`: show every frame what the input holds along its rays at so many depths (`InputRays`); the
    vector then ends with one more number, the elevation in degrees, and the last channels of the first frame
    count as the input's latents, as the first stage shows them in all frames. `blend`: choose for every cell
    among what is shown for it (the input in the first stage, the coarse orbit in the second) and what the
    input holds along the ray, and learn the rest as a residual, so that what can be copied stays sharp. Both
    roll with the frames where these are rolled with their places.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        attention: tuple[bool, ...] = (True, True, True, False),
        num_attention_heads: tuple[int, ...] = (5, 10, 20, 20),
        layers_per_block: int = 2,
        cross_attention_dim: int = 1024,
        vector_dim: int = 768,
        vector_slots: int = 3,
        num_frames: int = NUM_FRAMES,
        closed: bool = False,
        norm_groups: int = 32,
        feedforward: int = 4,
        one_token: bool = False,
        light_upsampling: bool = False,
        sweep_depths: int = 0,
        blend: bool = False,
    ) -> None:
        down = ["CrossAttnDownBlockSpatioTemporal" if on else "DownBlockSpatioTemporal" for on in attention]
        up = ["CrossAttnUpBlockSpatioTemporal" if on else "UpBlockSpatioTemporal" for on in attention[::-1]]
        sizes: dict[str, Any] = {
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "block_out_channels": tuple(block_out_channels),
            "num_attention_heads": tuple(num_attention_heads),
        }
        # Without the decorator, which would put the options of diffusers' class into our config.
        plain: Any = cast(Any, UNetSpatioTemporalConditionModel.__init__).__wrapped__
        plain(
            self,
            in_channels=in_channels + FEATURES * sweep_depths,
            out_channels=out_channels + count_candidates(sweep_depths) * int(blend),
            projection_class_embeddings_input_dim=vector_dim,
            layers_per_block=layers_per_block,
            cross_attention_dim=cross_attention_dim,
            num_frames=num_frames,
            **sizes,
        )
        self._refit(cross_attention_dim, num_frames, closed, norm_groups, feedforward)
        if one_token:
            for module in self.modules():
                if isinstance(module, BasicTransformerBlock | TemporalBasicTransformerBlock):
                    block = cast(Any, module)
                    token = OnlyToken(cross_attention_dim, block.norm1.normalized_shape[0])
                    block.attn2, block.norm2 = token, nn.Identity()
        if light_upsampling:
            for block in list(self.up_blocks)[:-1]:
                old = cast(Any, block).upsamplers[0]
                cast(Any, block).upsamplers = nn.ModuleList([LightUpsample(old.channels)])
        self.rays = InputRays(out_channels, sweep_depths, 360 / num_frames) if sweep_depths else None

    def _refit(self, context_dim: int, num_frames: int, closed: bool, norm_groups: int, mult: int) -> None:
        """Put ours in the place of the modules that differ."""
        for module in list(self.modules()):
            if isinstance(module, TemporalResnetBlock):
                for name in ("conv1", "conv2"):
                    old = getattr(module, name)
                    wrap = num_frames if closed else None
                    setattr(module, name, OrbitConv(old.in_channels, old.out_channels, wrap))
            elif isinstance(module, SpatioTemporalResBlock):
                # Where diffusers' blocks with attention have 1e-6, the published network has 1e-5 too.
                cast(Any, module.spatial_res_block).norm1.eps = 1e-5
                cast(Any, module.spatial_res_block).norm2.eps = 1e-5
                module.temporal_res_block.norm1.eps = module.temporal_res_block.norm2.eps = 1e-5
            for name, child in list(module.named_children()):
                if type(child) is TransformerSpatioTemporalModel:
                    setattr(module, name, _with_places(child, context_dim, num_frames, closed))
        for module in list(self.modules()):
            if isinstance(module, nn.GroupNorm):
                module.num_groups = norm_groups
            for name, child in list(module.named_children()):
                if isinstance(child, FeedForward) and mult != 4:
                    width = cast(nn.Linear, child.net[2]).out_features
                    setattr(module, name, FeedForward(width, mult=mult, activation_fn="geglu"))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        vector: Tensor,
        places: Tensor | None = None,
        image_only: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C_out, h, w] the velocity of noisy latents and conditions, joined in `sample` [B, T, C_in,
        h, w].

        timestep: c_noise = ln(sigma) / 4, [B] or []; encoder_hidden_states: tokens [B, L, D]; vector [B, W];
        places: int64 [B, T] or [T], 0 for the input frame, by default 0 ... T - 1; image_only: [B, T] true
        for frames that are to look at no other one. The sides of `sample` are multiples of 2^(levels - 1).
        """
        clips, frames = sample.shape[:2]
        channels = int(self.config["out_channels"])
        shown, looked = sample[:, :, -channels:], None
        device = sample.device
        placed = torch.arange(frames) if places is None else places
        placed = placed.to(device).expand(clips, frames)
        alone = torch.zeros(clips, frames, device=device) if image_only is None else image_only.to(device)
        if self.rays is not None:
            looked = self.rays.look(shown[:, 0], vector[:, -1], placed)
            vector = vector[:, :-1]
            sample = torch.cat([sample, self.rays(sample[:, :, :channels], looked[0])], dim=2)
        level = self.time_proj(timestep.to(device).reshape(-1).expand(clips)).to(sample.dtype)
        embedding = self.time_embedding(level) + self.add_embedding(vector.to(sample.dtype))
        embedding = embedding.repeat_interleave(frames, dim=0)
        tokens = encoder_hidden_states.to(sample.dtype).repeat_interleave(frames, dim=0)
        shared = {"temb": embedding, "image_only_indicator": alone}
        looking = {**shared, "encoder_hidden_states": FramedContext(tokens, placed)}

        x = self.conv_in(sample.flatten(0, 1))
        kept = [x]
        for block in cast(Any, self.down_blocks):
            x, states = block(hidden_states=x, **(looking if _looks(block) else shared))
            kept.extend(states)
        x = cast(Any, self.mid_block)(hidden_states=x, **looking)
        for block in cast(Any, self.up_blocks):
            count = len(block.resnets)
            states = tuple(kept[-count:])
            del kept[-count:]
            x = block(
                hidden_states=x, res_hidden_states_tuple=states, **(looking if _looks(block) else shared)
            )
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        answer = x.unflatten(0, (clips, frames))
        if not self.config["blend"]:
            return answer
        # The velocity of clean = guess + rest is that of the rest less s / sqrt(s^2 + 1) times the guess.
        answer, logits = answer.split([channels, answer.shape[2] - channels], dim=2)
        sigma = (4 * timestep.to(device).float()).exp().reshape(-1, 1, 1, 1, 1)
        share = (sigma / (sigma**2 + 1).sqrt()).to(answer.dtype)
        return answer - share * blend_shown(shown, looked, logits)


def build_unet(
    preset: Literal["compact", "paper"],
    stage: Stage,
    *,
    latent_channels: int | None = None,
    context_dim: int | None = None,
    depth_channels: int = DEPTH_CHANNELS,
    num_frames: int = NUM_FRAMES,
    closed: bool = False,
    sweep_depths: int = 0,
    blend: bool = False,
) -> OrbitUNet:
    """A denoiser with fresh weights: `paper` has the published sizes, `compact` about 4 million parameters.

    It reads noisy latents, for the stage `refine` depth channels, and latents of the condition, in this
    order. By default latents have 4 channels and the context 1024 for `paper`, 8 and 128 for `compact`.
    `sweep_depths` is for the stage `orbit` (see `OrbitUNet`).
    """
    paper = preset == "paper"
    channels = latent_channels or (4 if paper else 8)
    shared: dict[str, Any] = {
        "in_channels": 2 * channels + (depth_channels if stage == "refine" else 0),
        "out_channels": channels,
        "cross_attention_dim": context_dim or (1024 if paper else 128),
        "num_frames": num_frames,
        "closed": closed,
        "sweep_depths": sweep_depths if stage == "orbit" else 0,
        "blend": blend,
    }
    if paper:
        # The first stage kept the aesthetic slot that the second has not got.
        slots = 3 if stage == "orbit" else 2
        unet = OrbitUNet(vector_slots=slots, vector_dim=256 * slots, **shared)
    else:
        unet = OrbitUNet(
            block_out_channels=(32, 64, 96),
            # Attention is dear among the finest cells, and there it gains least.
            attention=(False, True, True),
            num_attention_heads=(1, 2, 3),
            layers_per_block=1,
            vector_slots=2,
            vector_dim=128,
            norm_groups=16,
            feedforward=1,
            one_token=True,
            light_upsampling=True,
            **shared,
        )
    if blend:
        start_blend(unet)
    return unet


def start_blend(unet: OrbitUNet) -> None:
    """Let a fresh network begin with what is shown for each cell, more or less."""
    channels = int(unet.config["out_channels"])
    with torch.no_grad():
        unet.conv_out.weight[channels:] = 0
        bias = unet.conv_out.bias
        assert bias is not None, "the U-Net's last layer has a bias"
        bias[channels:] = 0
        bias[channels + 1] = 4


def _looks(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _with_places(
    old: TransformerSpatioTemporalModel, context_dim: int, num_places: int, closed: bool
) -> OrbitTransformer:
    made = OrbitTransformer(
        old.num_attention_heads,
        old.attention_head_dim,
        old.in_channels,
        num_layers=len(old.transformer_blocks),
        cross_attention_dim=context_dim,
    )
    made.num_places, made.closed = num_places, closed
    return made
