"""StyleGAN2's generator: a latent through the mapping network to codes, and codes to an image.

Codes are W+: one row of `code_size` numbers for every layer, [B, L, D]. Images are about [-1, 1], not
clamped. Shapes: B items, L rows of codes, D numbers a row, R pixels along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.nets.stylegan2.filters import upsample
from manyview.nets.stylegan2.layers import ScaledLinear, StyledConv, ToImage

Noise = Literal["const", "random", "none"]
FIRST_RESOLUTION = 4
PUBLISHED_RESOLUTIONS = (128, 256, 512, 1024)
_MEAN_DECAY = 0.995


class Mapping(nn.Module):
    """Latents to codes: a stack of slow linear layers on latents of unit mean square."""

    def __init__(self, latent_size: int, code_size: int, layers: int, rate: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ScaledLinear(code_size if place else latent_size, code_size, rate=rate, active=True)
            for place in range(layers)
        )
        self.register_buffer("w_mean", torch.zeros(code_size))
        self.w_mean: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """[B, D] of z [B, latent_size]."""
        x = z.float() * torch.rsqrt(z.float().square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = layer(x)
        return x


class SynthesisBlock(nn.Module):
    """One resolution: two convolutions (one at the first), the first of which doubles, and colours."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        code_size: int,
        resolution: int,
        img_channels: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        sizes = (code_size, resolution)
        self.const = nn.Parameter(torch.randn(outputs, resolution, resolution)) if inputs == 0 else None
        convs = [] if inputs == 0 else [StyledConv(inputs, outputs, *sizes, double=True, clamp=clamp)]
        self.convs = nn.ModuleList([*convs, StyledConv(outputs, outputs, *sizes, clamp=clamp)])
        self.to_image = ToImage(outputs, img_channels, code_size, clamp=clamp)

    def forward(
        self, x: Tensor | None, codes: Tensor, noise: Noise, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Features [B, outputs, R, R] and colours [B, img_channels, R, R] of this block alone, from the
        features before it and its rows of codes [B, convolutions + 1, D]."""
        if self.const is not None:
            x = self.const.expand(len(codes), -1, -1, -1)
        for place, layer in enumerate(self.convs):
            conv = cast(StyledConv, layer)
            x = conv(x, codes[:, place], self._noise(conv, len(codes), noise, generator))
        assert x is not None, "a block has at least one convolution"
        return x, self.to_image(x, codes[:, len(self.convs)])

    def _noise(
        self, conv: StyledConv, batch: int, noise: Noise, generator: torch.Generator | None
    ) -> Tensor | None:
        if noise == "const":
            return conv.noise
        if noise == "none":
            return None
        shape = (batch, 1, self.resolution, self.resolution)
        device = conv.weight.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device).to(conv.weight)


class StyleGAN2Generator(ModelMixin, ConfigMixin):
    """Generator with the skip architecture (Karras et al. 2020, figure 7b) at any power-of-two size.

    Widths are `channel_base` / resolution, at most `channel_max`: 32768 and 512 give configuration F of the
    paper, 16384 its smaller variant for 256 pixels. `conv_clamp` holds activations within a range, as weights
    trained in half precision expect.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        mapping_lr: float = 0.01,
        channel_base: int = 32768,
        channel_max: int = 512,
        img_channels: int = 3,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.z_dim, self.w_dim = resolution, z_dim, w_dim
        self.mapping = Mapping(z_dim, w_dim, mapping_layers, mapping_lr)
        blocks, inputs = [], 0
        for size, outputs in block_widths(resolution, channel_base, channel_max):
            blocks.append(SynthesisBlock(inputs, outputs, w_dim, size, img_channels, conv_clamp))
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.num_ws = 2 * len(blocks)

    @property
    def w_mean(self) -> Tensor:
        """[D] the running mean of codes, which truncation draws towards."""
        return self.mapping.w_mean

    def layers_of(self, resolution: int) -> range:
        """The rows of codes that drive a resolution: its convolutions and, last, its colours."""
        place = resolution.bit_length() - FIRST_RESOLUTION.bit_length()
        if resolution & (resolution - 1) or not 0 <= place < len(self.blocks):
            sizes = ", ".join(str(cast(SynthesisBlock, block).resolution) for block in self.blocks)
            raise InputError("resolution", resolution, f"expected one of {sizes}")
        return range(max(2 * place - 1, 0), 2 * place + 2)

    def map(
        self,
        z: Tensor,
        *,
        truncation: float = 1.0,
        truncation_layers: int | None = None,
        update_mean: bool = False,
    ) -> Tensor:
        """[B, L, D] codes of latents z [B, z_dim], all rows alike.

        `truncation` draws the first `truncation_layers` rows (all without it) towards the mean code: 1 leaves
        them, 0 gives the mean (Karras et al. 2019, appendix B). `update_mean` moves the running mean, for
        training.
        """
        codes = self.mapping(z)
        if update_mean:
            mean = self.mapping.w_mean
            mean.copy_(codes.detach().mean(dim=0).lerp(mean, _MEAN_DECAY))
        codes = codes[:, None].repeat(1, self.num_ws, 1)
        if truncation != 1:
            rows = codes[:, :truncation_layers]
            codes = torch.cat([self.w_mean.lerp(rows, truncation), codes[:, rows.shape[1] :]], dim=1)
        return codes

    def synthesize(
        self, codes: Tensor, *, noise: Noise = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """[B, channels, R, R] about [-1, 1] of codes [B, L, D].

        `noise`: `const` adds each layer's stored picture of noise, `random` new noise from `generator`,
        `none` nothing. Raises `InputError` for codes of another shape.
        """
        return self.synthesize_with_features(codes, (), noise=noise, generator=generator)[0]

    def synthesize_with_features(
        self,
        codes: Tensor,
        resolutions: Sequence[int],
        *,
        noise: Noise = "const",
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """As `synthesize`, and the features [B, C, r, r] after the second convolution of the named
        resolutions. Raises `InputError` also for a resolution that there is not."""
        if codes.ndim != 3 or tuple(codes.shape[1:]) != (self.num_ws, self.w_dim):
            raise InputError("codes", tuple(codes.shape), f"expected [B, {self.num_ws}, {self.w_dim}]")
        for resolution in resolutions:
            self.layers_of(resolution)
        x, image, features = None, None, {}
        for place, block in enumerate(self.blocks):
            rows = codes[:, max(2 * place - 1, 0) : 2 * place + 2]
            x, colours = block(x, rows, noise, generator)
            image = colours if image is None else upsample(image) + colours
            if 4 * 2**place in resolutions:
                features[4 * 2**place] = x
        assert image is not None, "a generator has at least one block"
        return image, features

    def forward(
        self,
        z: Tensor,
        *,
        truncation: float = 1.0,
        noise: Noise = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[B, channels, R, R] about [-1, 1] of latents z [B, z_dim]."""
        return self.synthesize(self.map(z, truncation=truncation), noise=noise, generator=generator)


def block_widths(resolution: int, channel_base: int, channel_max: int) -> list[tuple[int, int]]:
    """(resolution, channels) from 4 to `resolution`. Raises `InputError` unless that is a power of two."""
    if resolution < FIRST_RESOLUTION or resolution & (resolution - 1):
        raise InputError("resolution", resolution, "expected a power of two of at least 4")
    sizes = [2**power for power in range(2, resolution.bit_length())]
    return [(size, min(channel_base // size, channel_max)) for size in sizes]


def build_generator(
    preset: Literal["compact", "paper"] = "compact",
    resolution: int | None = None,
    *,
    mapping_lr: float = 0.01,
) -> StyleGAN2Generator:
    """A generator with fresh weights: `compact` (64 px, codes of 128, 0.8 M parameters) or `paper`
    (configuration F at 512 px by default); `mapping_lr`: how fast its mapping network learns beside the rest.
    Raises `InputError` for a size that was never published."""
    if preset == "compact":
        return StyleGAN2Generator(
            resolution=64 if resolution is None else resolution,
            z_dim=128,
            w_dim=128,
            mapping_layers=4,
            mapping_lr=mapping_lr,
            channel_base=1024,
            channel_max=128,
        )
    resolution = 512 if resolution is None else resolution
    if resolution not in PUBLISHED_RESOLUTIONS:
        accepted = f"expected one of {', '.join(map(str, PUBLISHED_RESOLUTIONS))}"
        raise InputError("resolution", resolution, accepted)
    return StyleGAN2Generator(resolution=resolution, mapping_lr=mapping_lr)


def mix_styles(first: Tensor, second: Tensor, crossover: Tensor | int) -> Tensor:
    """[B, L, D] codes whose rows from `crossover` ([B] or one for all) on come from `second`
    (style mixing, Karras et al. 2019, section 3.1)."""
    start = torch.as_tensor(crossover, device=first.device).reshape(-1, 1, 1)
    rows = torch.arange(first.shape[1], device=first.device)[None, :, None]
    return torch.where(rows >= start, second, first)
