"""Clips made worse, as a first stage would deliver them: the second-order degradation of Real-ESRGAN.

    round 1   blur, resize, noise, JPEG
    round 2   blur, resize, noise
    end       to the target scale, a last sinc filter and JPEG, in either order; back to full size

(Wang et al. 2021, "Real-ESRGAN", figure 2; ranges as Hi3D's released code sets them.) A clip shows one
object, so its frames are made worse alike: blur kernels are drawn for every frame, everything else (which
kind of noise, how strong, resize factors and filters, JPEG qualities, the order at the end) once a clip.
The noise of the pixels is another in every frame. Kernels, pixel noise and masks of frame t follow from
(seed, item, t) alone, so a window of a clip is degraded like the whole clip.

Two things around it are Hi3D's: what is fully transparent is painted white afterwards, and frame 0, the real
input, stays clean. One is of the paper alone, which names random masking that simulates deformed shapes and
says no more; the released code has none. Here `masking` covers blocks of some frames with the background, so
that parts of the object are missing in these views. It is off unless asked for.

Shapes: T frames [T, 3, H, W] in [0, 1] on the CPU.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from manyview.errors import InputError
from manyview.io.images import to_uint8
from manyview.methods.hi3d.kernels import KernelOptions, apply_kernels, draw_final_sinc, draw_kernel
from manyview.sampling.noise import generator_seed

Filter = Literal["area", "bilinear", "bicubic"]
_FILTERS: tuple[Filter, ...] = ("area", "bilinear", "bicubic")
_CLIP_STREAM = 0x646567
_FRAME_STREAM = 0x66726D


@dataclass(frozen=True, kw_only=True)
class RoundOptions:
    """One of the two rounds. The defaults are those of the first."""

    kernels: KernelOptions = field(default_factory=KernelOptions)
    blur: float = 1.0
    """Probability of any blur."""
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, shrinking and keeping the size."""
    scale: tuple[float, float] = (0.15, 1.5)
    """Smallest and largest factor of the size; uniform between 1 and them."""
    gaussian: float = 0.5
    """Probability of Gaussian noise; otherwise Poisson's."""
    gaussian_sigma: tuple[float, float] = (1.0, 30.0)
    """Of 255."""
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    """Factor on the noise of a sensor that counts as many photons as the picture has steps."""
    grey: float = 0.4
    """Probability that the three channels share their noise."""
    jpeg: tuple[float, float] = (30.0, 95.0)
    """Quality of the compression at the round's end."""


@dataclass(frozen=True, kw_only=True)
class MaskingOptions:
    """Blocks of a frame painted white."""

    probability: float = 0.0
    """That a frame (other than the first) has any."""
    most: int = 3
    """Blocks in a frame, from 1 to this."""
    side: tuple[float, float] = (0.05, 0.2)
    """Their sides as parts of the frame's."""


@dataclass(frozen=True, kw_only=True)
class DegradationOptions:
    """All of a clip's degradation. The defaults are those of the released code."""

    first: RoundOptions = field(default_factory=RoundOptions)
    second: RoundOptions = field(
        default_factory=lambda: RoundOptions(
            kernels=KernelOptions(sigma=(0.2, 1.5)),
            blur=0.8,
            resize=(0.3, 0.4, 0.3),
            scale=(0.3, 1.2),
            gaussian_sigma=(1.0, 25.0),
            poisson_scale=(0.05, 2.5),
        )
    )
    final_sinc: float = 0.8
    """Probability of the last sinc filter."""
    target: int = 4
    """The clip ends at 1 / target of its size before it is brought back."""
    masking: MaskingOptions = field(default_factory=MaskingOptions)
    clean_first: bool = True
    """Leave frame 0 as it is."""

    def __post_init__(self) -> None:
        if self.target < 1:
            raise InputError("target", self.target, "expected a whole factor of at least 1")


def released_options() -> DegradationOptions:
    """As the released code degrades clips of 1024 px: through 256 px and back."""
    return DegradationOptions()


def compact_options() -> DegradationOptions:
    """For clips of 256 px that come from 128: the same chain, its strengths fitted to the smaller picture.

    A first stage at 128 px blurs and wobbles, but it neither pixelates nor compresses: ranges that leave an
    object of 1024 px recognisable leave nothing of one of 256 px. Kernels, factors and noise are cut to
    about a half, and one frame in four has blocks missing.
    """
    return DegradationOptions(
        first=RoundOptions(
            kernels=KernelOptions(sizes=(7, 9, 11), sigma=(0.2, 2.0)),
            scale=(0.4, 1.2),
            gaussian_sigma=(1.0, 12.0),
            poisson_scale=(0.05, 1.0),
            jpeg=(60.0, 95.0),
        ),
        second=RoundOptions(
            kernels=KernelOptions(sizes=(7, 9, 11), sigma=(0.2, 1.2)),
            blur=0.8,
            resize=(0.3, 0.4, 0.3),
            scale=(0.5, 1.2),
            gaussian_sigma=(1.0, 8.0),
            poisson_scale=(0.05, 0.8),
            jpeg=(60.0, 95.0),
        ),
        target=2,
        masking=MaskingOptions(probability=0.25, most=2, side=(0.04, 0.15)),
    )


def degrade(
    clip: Tensor,
    options: DegradationOptions,
    *,
    seed: int,
    item: int,
    alpha: Tensor | None = None,
    first_frame: int = 0,
) -> Tensor:
    """[T, 3, H, W]: the clip made worse, at its own size; a function of (seed, item) and the clip.

    `alpha` [T, 1, H, W]: where it is 0 the result is white. `first_frame`: the clip is a window that begins
    at this frame of a longer one. Raises `InputError` for shapes that do not fit and sides that the target
    does not divide.
    """
    _check(clip, alpha, options)
    draws = np.random.default_rng(generator_seed(seed, item, _CLIP_STREAM))
    frames = [
        np.random.default_rng([generator_seed(seed, item, _FRAME_STREAM), first_frame + index])
        for index in range(len(clip))
    ]
    height, width = clip.shape[-2:]
    small = height // options.target, width // options.target
    worse = _round(clip.float(), options.first, draws, frames, (height, width))
    worse = _jpeg(worse, options.first.jpeg, draws)
    worse = _round(worse, options.second, draws, frames, small)
    worse = _end(worse, options, draws, frames, small)
    worse = enlarge(worse, height, width)
    if alpha is not None:
        worse = torch.where(alpha.to(worse) == 0, 1.0, worse)
    worse = _mask(worse, options.masking, frames)
    if options.clean_first and first_frame == 0:
        worse = torch.cat([clip[:1].float(), worse[1:]])
    return worse


def enlarge(clip: Tensor, height: int, width: int) -> Tensor:
    """[T, 3, height, width] in [0, 1]: how a coarse clip is brought to the refiner's size (bicubic)."""
    return F.interpolate(clip, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def compress_jpeg(clip: Tensor, quality: int) -> Tensor:
    """[T, 3, H, W]: every frame through JPEG of a quality from 1 to 100 and back (8 bits, 4:2:0 colour)."""
    frames = []
    for frame in to_uint8(clip).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        frames.append(np.asarray(Image.open(buffer), dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def draw_noise(
    clip: Tensor, options: RoundOptions, draws: np.random.Generator, frames: list[np.random.Generator]
) -> Tensor:
    """[T, 3, H, W]: Gaussian or Poisson noise to add, of one strength for the clip.

    Poisson noise is that of counting v photons where the frame has the value 1, v the power of two at or
    above its number of different 8-bit values, times a factor: its variance is factor^2 value / v.
    """
    is_gaussian, is_grey = draws.random() < options.gaussian, draws.random() < options.grey
    sigma, factor = draws.uniform(*options.gaussian_sigma), draws.uniform(*options.poisson_scale)
    noise = []
    for frame, rng in zip(clip.numpy(), frames, strict=True):
        if is_gaussian:
            shape = (1, *frame.shape[1:]) if is_grey else frame.shape
            found = rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma / 255)
        else:
            # Weights of brightness as in Rec. 601.
            seen = np.tensordot([0.299, 0.587, 0.114], frame, 1)[None] if is_grey else frame
            steps = np.round(np.clip(seen, 0, 1) * 255)
            photons = 2.0 ** np.ceil(np.log2(max(len(np.unique(steps)), 2)))
            clean = steps / 255
            found = factor * (rng.poisson(clean * photons) / photons - clean)
        noise.append(np.broadcast_to(found, frame.shape).astype(np.float32))
    return torch.from_numpy(np.stack(noise))


def _round(
    clip: Tensor,
    options: RoundOptions,
    draws: np.random.Generator,
    frames: list[np.random.Generator],
    base: tuple[int, int],
) -> Tensor:
    """Blur, resize to a random factor of `base`, noise; values in [0, 1]."""
    kernels = [draw_kernel(rng, options.kernels) for rng in frames]
    if draws.random() < options.blur:
        clip = apply_kernels(clip, kernels)
    factor = _draw_factor(draws, options)
    # The kernels of what follows have to fit, so nothing becomes smaller than they are.
    least = max(options.kernels.sizes) // 2 + 1
    size = [max(least, int(side * factor)) for side in base]
    clip = _resize(clip, (size[0], size[1]), _draw_filter(draws))
    return (clip + draw_noise(clip, options, draws, frames)).clamp(0, 1)


def _end(
    clip: Tensor,
    options: DegradationOptions,
    draws: np.random.Generator,
    frames: list[np.random.Generator],
    size: tuple[int, int],
) -> Tensor:
    """To the target size with the last sinc, and JPEG before or after both."""
    kernels = [draw_final_sinc(rng, options.second.kernels, options.final_sinc) for rng in frames]
    compress_last, how = draws.random() < 0.5, _draw_filter(draws)
    if not compress_last:
        clip = _jpeg(clip, options.second.jpeg, draws)
    clip = apply_kernels(_resize(clip, size, how), kernels).clamp(0, 1)
    return _jpeg(clip, options.second.jpeg, draws) if compress_last else clip


def _jpeg(clip: Tensor, qualities: tuple[float, float], draws: np.random.Generator) -> Tensor:
    return compress_jpeg(clip, int(draws.uniform(*qualities)))


def _mask(clip: Tensor, options: MaskingOptions, frames: list[np.random.Generator]) -> Tensor:
    """White blocks around random places of what is not white."""
    clip = clip.clone()
    height, width = clip.shape[-2:]
    for frame, rng in zip(clip, frames, strict=True):
        chosen = rng.random() < options.probability
        solid = np.flatnonzero((frame.amin(dim=0) < 0.98).numpy()) if chosen else np.zeros(0)
        if not len(solid):
            continue
        for _ in range(int(rng.integers(1, options.most + 1))):
            row, column = divmod(int(rng.choice(solid)), width)
            half = [max(1, round(side * rng.uniform(*options.side) / 2)) for side in (height, width)]
            top, left = max(0, row - half[0]), max(0, column - half[1])
            frame[:, top : row + half[0], left : column + half[1]] = 1.0
    return clip


def _draw_factor(draws: np.random.Generator, options: RoundOptions) -> float:
    weights = np.asarray(options.resize, dtype=np.float64)
    way = int(draws.choice(3, p=weights / weights.sum()))
    larger, smaller = draws.uniform(1.0, options.scale[1]), draws.uniform(options.scale[0], 1.0)
    return (larger, smaller, 1.0)[way]


def _draw_filter(draws: np.random.Generator) -> Filter:
    return _FILTERS[int(draws.integers(len(_FILTERS)))]


def _resize(clip: Tensor, size: tuple[int, int], how: Filter) -> Tensor:
    if how == "area":
        return F.interpolate(clip, size, mode="area")
    return F.interpolate(clip, size, mode=how, align_corners=False)


def _check(clip: Tensor, alpha: Tensor | None, options: DegradationOptions) -> None:
    if clip.ndim != 4 or clip.shape[1] != 3 or not clip.is_floating_point() or clip.device.type != "cpu":
        raise InputError("clip", tuple(clip.shape), "expected float frames [T, 3, H, W] on the CPU")
    height, width = clip.shape[-2:]
    if height % options.target or width % options.target:
        raise InputError("clip", (height, width), f"expected sides that {options.target} divides")
    if alpha is not None and tuple(alpha.shape) != (len(clip), 1, height, width):
        raise InputError("alpha", tuple(alpha.shape), f"expected {[len(clip), 1, height, width]}")
