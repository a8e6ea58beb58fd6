"""What the refiner learns from: clean orbits made worse, and orbits of our own first stage, with their depth.

    clean clip at full size -> degraded, through half its size -> latents and depth      (`variants` of them)
    first stage's clip at half size, kept on disk -> enlarged  -> latents and depth      (one for each set)

Both are made once and kept as `orbits.StoredCoarse` reads them, since degrading and encoding a clip of 256 px
costs several times a training step. Training then takes windows of frames and crops of latents, so that a
step on 32 x 32 latents costs what one on 16 x 16 does. Frame 0 is not special here: the task puts the input's
own latents there, whichever view is the input, and its depth, for the depth of clean views is kept as well.
Shapes: N objects, A views of an orbit, T frames of a clip, C latent channels, S depth channels, h x w cells.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from manyview.data.latents import LatentKey, cache_latents
from manyview.data.packed import PackedViews, describe, has_shard, write_shard
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.images import to_uint8
from manyview.methods.hi3d.degradation import DegradationOptions, compact_options, degrade, enlarge
from manyview.methods.hi3d.depth import DepthModel, DepthOptions, depth_channels, depth_identity
from manyview.methods.hi3d.orbits import CoarseContents
from manyview.nets.autoencoder import encode, latent_scale
from manyview.progress import Progress, silent
from manyview.sampling.noise import item_integers
from manyview.training.encoding import codec_identity

_START, _CROP = 31, 32
_OBJECTS_AT_ONCE = 4
"""Objects in one shard; of their frames this many go through a network at once, and on a CPU, where small
pieces stay in its cache:"""
_FRAMES_AT_ONCE, _ON_A_CPU = 8, 2


@dataclass(frozen=True, kw_only=True)
class CoarseOptions:
    """How coarse clips are made."""

    degradation: DegradationOptions = field(default_factory=compact_options)
    variants: int = 2
    """Degradations of each clip; an item meets one of them, or one of the first stage's clips."""
    halo: int | None = 4
    """Pixels around the object that keep their blur and noise; what lies farther away is painted white, as a
    first stage leaves it. 0 cuts along the true outline, as the released code does, which a first stage does
    not know; None paints nothing."""
    depth: DepthOptions = field(default_factory=DepthOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variants < 0 or (self.halo is not None and self.halo < 0):
            raise InputError("variants, halo", (self.variants, self.halo), "expected numbers of at least 0")


def encode_coarse(
    source: ObjectViews,
    root: Path,
    vae: AutoencoderKL,
    depth: DepthModel | None,
    options: CoarseOptions | None = None,
    *,
    own: Sequence[PackedViews] = (),
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Path:
    """The folder under `root` with coarse latents and depth channels of all orbits of a data set.

    `own`: sets of clips that a first stage made of the same objects, view v of one showing what view v of the
    source does, of any smaller size (`write_own_clips`). depth None: no depth channels. Depths are kept as
    they are estimated, since they are stretched with the input's among them. A finished folder is found
    again, a begun one gone on with; other data, weights or options are another folder. Raises `InputError`
    where sets do not fit together or nothing is asked for.
    """
    options = CoarseOptions() if options is None else options
    many = options.variants + len(own)
    if many == 0:
        raise InputError("variants", 0, "expected degradations or clips of a first stage, or both")
    for clips in own:
        if (len(clips), clips.num_views) != (len(source), source.num_views):
            found = f"{len(clips)} objects x {clips.num_views} views"
            accepted = f"expected {len(source)} x {source.num_views}, as the data set has"
            raise InputError("own clips", found, accepted)
    contents = CoarseContents(
        own_starts=tuple(tuple(_starts_of(clips)) for clips in own),
        clean=depth is not None,
        normalize="none" if depth is None else options.depth.normalize,
    )
    raw = dataclasses.replace(options.depth, normalize="none")
    many += int(contents.clean)
    networks = [cast(Any, vae), *([cast(Any, depth)] if depth is not None else [])]
    for network in networks:
        network.to(device).float().eval()
    key = LatentKey(
        data=source.identity,
        encoder=codec_identity(vae) + ("" if depth is None else " " + depth_identity(depth)),
        options={
            "coarse": json.dumps(dataclasses.asdict(options), sort_keys=True),
            "own": " ".join(clips.identity for clips in own),
            "contents": json.dumps(dataclasses.asdict(contents), sort_keys=True),
        },
    )

    def make(entries: Tensor) -> Tensor:
        clips = (entries[:: source.num_views] // source.num_views).tolist()
        found = []
        for number in clips:
            index, kind = divmod(number, many)
            if contents.clean and kind == many - 1:
                assert depth is not None, "there is depth"
                found.append(_encode_clean(to_images(source[index]), vae, depth, raw, device))
                continue
            clip = coarse_clip(source, index, kind, options, own)
            found.append(encode_clip(clip, vae, depth, raw, device))
        return torch.cat(found)

    def shards() -> Iterator[Tensor]:
        step = many * source.num_views * _OBJECTS_AT_ONCE
        yield from torch.arange(len(source) * many * source.num_views).split(step)

    total = -(-len(source) // _OBJECTS_AT_ONCE)
    folder = cache_latents(shards(), make, root, key, progress=progress, num_batches=total).folder
    contents.write(folder)
    return folder


def coarse_clip(
    source: ObjectViews, index: int, kind: int, options: CoarseOptions, own: Sequence[ObjectViews] = ()
) -> Tensor:
    """[A, 3, H, W] in [0, 1] at the source's size: the coarse clip number `kind` of an object, degradations
    first, then the first stage's."""
    clean = to_images(source[index])
    height, width = clean.shape[-2:]
    if kind >= options.variants:
        clip = to_images(own[kind - options.variants][index])
        return enlarge(clip, height, width) if clip.shape[-2:] != (height, width) else clip
    alpha = None
    if options.halo is not None:
        solid = (clean.amin(dim=1, keepdim=True) < 1).float()
        alpha = F.max_pool2d(solid, 2 * options.halo + 1, stride=1, padding=options.halo)
    every = dataclasses.replace(options.degradation, clean_first=False)
    worse = degrade(clean, every, seed=options.seed, item=index * options.variants + kind, alpha=alpha)
    # As from a file: what is handed from stage to stage has 8 bits.
    return to_uint8(worse).float() / 255


def encode_clip(
    clip: Tensor,
    vae: AutoencoderKL,
    depth: DepthModel | None,
    options: DepthOptions | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[A, C + S, h, w] on the CPU: latents and depth channels of a coarse clip [A, 3, H, W] at full size."""
    parts = _pieces(clip, device)
    latents = torch.cat([encode(vae, part).float() for part in parts])
    if depth is None:
        return latents.cpu()
    rows, columns = latents.shape[-2:]
    channels = _clip_depth(parts, depth, (rows, columns), options)
    return torch.cat([latents, channels.to(latents)], dim=1).cpu()


def _encode_clean(
    clip: Tensor, vae: AutoencoderKL, depth: DepthModel, options: DepthOptions, device: torch.device | str
) -> Tensor:
    """As `encode_clip`, of a clean orbit: depth channels behind zeros, for its latents are known."""
    rows, columns = (side // latent_scale(vae) for side in clip.shape[-2:])
    parts = _pieces(clip, device)
    channels = _clip_depth(parts, depth, (rows, columns), options)
    empty = channels.new_zeros(len(clip), int(vae.config["latent_channels"]), rows, columns)
    return torch.cat([empty, channels], dim=1).cpu()


def _pieces(clip: Tensor, device: torch.device | str) -> list[Tensor]:
    at_once = _ON_A_CPU if torch.device(device).type == "cpu" else _FRAMES_AT_ONCE
    return [part.to(device) for part in clip.split(at_once)]


def _clip_depth(
    parts: Sequence[Tensor], depth: DepthModel, cells: tuple[int, int], options: DepthOptions | None
) -> Tensor:
    raw = torch.cat([depth.estimate(part).float() for part in parts])
    return depth_channels(raw, *cells, options)


def write_own_clips(
    folder: Path,
    source: ObjectViews,
    size: int,
    predict: Callable[[Tensor, Tensor], Tensor],
    *,
    seed: int = 0,
    note: dict[str, Any] | None = None,
    batch_size: int = 4,
    progress: Progress = silent,
) -> None:
    """A packed data set of what a first stage makes of every object, for `encode_coarse`.

    `predict`: inputs [B, 3, S, S] in [0, 1] with S = `size`, and the objects' numbers [B] -> orbits
    [B, A, 3, S, S] that begin with them (the numbers serve as noise items and find elevations). Which view is
    the input is drawn once for each object (`own_starts`); orbits are turned back, so that view v shows what
    the source's view v does. `note` (weights, guidance, ...) is kept in the folder's description. A stopped
    run goes on. Raises `InputError` as `describe`, and for orbits of another shape.
    """
    starts = own_starts(len(source), source.num_views, seed)
    description = {
        "source": "hi3d",
        "of": source.identity,
        "seed": seed,
        "size": [size, size],
        **(note or {}),
    }
    describe(folder, description)
    progress.start(len(source), "orbits")
    try:
        for first in range(0, len(source), batch_size):
            objects = torch.arange(first, min(first + batch_size, len(source)))
            if not has_shard(folder, first, len(objects)):
                inputs = torch.cat([to_images(source[int(n)][[int(starts[n])]]) for n in objects])
                made = predict(resize_area(inputs, size, size)[0], objects)
                if tuple(made.shape) != (len(objects), source.num_views, 3, size, size):
                    wanted = [len(objects), source.num_views, 3, size, size]
                    raise InputError("predict", tuple(made.shape), f"expected {wanted}")
                turned = [orbit.roll(int(starts[n]), dims=0) for orbit, n in zip(made, objects, strict=True)]
                pixels = to_uint8(torch.stack(turned)).permute(0, 1, 3, 4, 2).contiguous()
                write_shard(folder, first, pixels.numpy())
            progress.advance(len(objects))
    finally:
        progress.finish()


def own_starts(num_objects: int, num_views: int, seed: int) -> Tensor:
    """int64 [N] the view that is the input of each object's own clip; a function of (seed, object) alone."""
    return item_integers(seed, range(num_objects), num_views, (), _START)


def _starts_of(clips: PackedViews) -> list[int]:
    """The view that each of a set of own clips was made from. Raises `InputError` for other sets."""
    said = clips.description
    if said.get("source") != "hi3d" or not isinstance(said.get("seed"), int):
        raise InputError("own clips", str(clips.folder), "expected clips of a first stage (write_own_clips)")
    return own_starts(len(clips), clips.num_views, said["seed"]).tolist()


def crop_clips(batch: dict[str, Tensor], items: Tensor, cells: int, seed: int) -> dict[str, Tensor]:
    """A batch of `train.clips_of` with its maps [B, T, C, h, w] cut to `cells` x `cells`, somewhere.

    All maps of an item are cut alike, at a place that follows from the item; the rest stays. Raises
    `InputError` where maps are smaller.
    """
    height, width = batch["clean"].shape[-2:]
    if not 1 <= cells <= min(height, width):
        raise InputError("--crop-cells", cells, f"expected 1 to {min(height, width)} latent cells")
    tops = item_integers(seed, items, height - cells + 1, (), _CROP)
    lefts = item_integers(seed, items, width - cells + 1, (), _CROP + 1)
    windows = [
        (..., slice(top, top + cells), slice(left, left + cells))
        for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)
    ]
    return {
        name: torch.stack([one[window] for one, window in zip(value, windows, strict=True)])
        if value.ndim == 5
        else value
        for name, value in batch.items()
    }


def to_images(pixels: np.ndarray) -> Tensor:
    """[V, 3, H, W] in [0, 1] of views [V, H, W, 3] uint8."""
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()
