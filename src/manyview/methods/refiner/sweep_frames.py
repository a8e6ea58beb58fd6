"""Which frames of a generator's sweeps depth and pose are taught on, and the finding of the direction that
turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.coarse_pose import coarse_yaw
from manyview.methods.refiner.ganspace import fit_directions
from manyview.methods.refiner.generator import CodeGenerator, StyleGANCodes
from manyview.methods.refiner.pose import PoseEstimator
from manyview.methods.refiner.rotation_search import find_mirror_rotation, find_rotation
from manyview.sampling.noise import item_uniform

_AMOUNTS = 0x737765
_SMALL = 0.5
FRAMES = ("target", "left", "right", "far")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How the turning direction is looked for."""

    num_samples: int = 50_000
    """Codes that the principal directions are of."""
    num_components: int = 20
    searched: int = 12
    """Components that are tried."""
    num_codes: int = 12
    """Objects that each of them is tried on."""
    amount: float = 2.0
    """How far each is turned to either side, in deviations."""
    layer_ranges: tuple[tuple[int, int], ...] = ()
    """Rows of the codes that are tried; the whole and the first parts of it when empty."""
    truncation: float = 0.8
    symmetric: bool = False
    """Objects are their own mirror images, seen from their front on average: the direction is the one whose
    two ways give mirrored pictures. Outlines then tell the sign alone."""


def search_basis(
    generator: CodeGenerator,
    camera: PoseEstimator,
    options: SearchOptions,
    *,
    identity_change: Callable[[Tensor, Tensor], Tensor] | None = None,
    first_seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SweepBasis:
    """The principal directions of the codes, and the one that turns objects most and changes them least.

    Turns are measured by round depths (`coarse_pose`), since no pose network is there yet; `identity_change`
    takes pictures before and after, [N, 3, H, W] each, and gives [N] >= 0 (by default how much the colours
    on the object changed). For symmetric objects mirrored pictures show the direction, and outlines which way
    is positive. Deterministic.
    """
    with torch.no_grad():
        directions = fit_directions(
            lambda seeds: generator.sample(seeds)[:, 0],
            num_samples=options.num_samples,
            num_components=min(options.num_components, generator.w_dim),
            chunk=min(10_000, options.num_samples),
            first_seed=first_seed,
            progress=progress,
        )
        seeds = range(first_seed, first_seed + options.num_codes)
        codes = generator.sample(list(seeds), truncation=options.truncation)
        spread = _spread(generator, options.num_samples, first_seed)
        ranges = options.layer_ranges or _layer_ranges(generator.num_ws)
        components, amount = range(min(options.searched, len(directions.vectors))), options.amount
        if options.symmetric:
            found, _ = find_mirror_rotation(
                generator, directions, components=components, layer_ranges=list(ranges), amount=amount
            )
            # Small steps are what a round depth tells most surely.
            components, ranges, amount = [found.component], (found.layers,), _SMALL
        best, _ = find_rotation(
            generator,
            directions,
            codes,
            lambda a, b: coarse_yaw(a.clamp(0, 1), b.clamp(0, 1), camera),
            identity_change or colour_change,
            components=components,
            layer_ranges=list(ranges),
            amount=amount,
        )
    return SweepBasis.of(directions, best, spread, options.truncation)


def place_generator(generator: CodeGenerator, device: torch.device) -> CodeGenerator:
    """The same generator, a StyleGAN2's network on the device."""
    if isinstance(generator, StyleGANCodes):
        nn.Module.to(generator.network, device)  # not diffusers' own, whose type is narrower
    return generator


def colour_change(first: Tensor, second: Tensor) -> Tensor:
    """[N] how much the objects' mean and spread of colours differ, pictures [N, 3, H, W] over white: what
    turning leaves nearly as it is."""
    told = []
    for images in (first, second):
        cover = (1 - images.clamp(0, 1).amin(dim=1, keepdim=True) > 0.05).to(images)
        area = cover.sum(dim=(2, 3)).clamp_min(1)
        mean = (images * cover).sum(dim=(2, 3)) / area
        variance = ((images - mean[..., None, None]).square() * cover).sum(dim=(2, 3)) / area
        told.append(torch.cat([mean, variance.clamp_min(1e-8).sqrt()], dim=1))
    return (told[0] - told[1]).abs().mean(dim=1)


def _layer_ranges(num_ws: int) -> tuple[tuple[int, int], ...]:
    ends = sorted({num_ws, max(1, (3 * num_ws) // 5), max(1, (2 * num_ws) // 5)})
    return tuple((0, end) for end in ends)


def _spread(generator: CodeGenerator, num_samples: int, first_seed: int) -> Tensor:
    seeds = list(range(first_seed, first_seed + min(num_samples, 4096)))
    return generator.sample(seeds)[:, 0].float().std(dim=0)


def frame_amounts(
    seed: int, items: Tensor, *, reach: float = 3.0, near: Sequence[float] = (0.25, 1.2)
) -> Tensor:
    """[B, 4] amounts of a target, one frame on either side of it within `near`, and one anywhere within
    `reach` of it, all within +-`reach`; in deviations, row i a function of (seed, items[i]) alone."""
    u = item_uniform(seed, items, (4,), stream=_AMOUNTS)
    low, high = near
    target = (2 * u[:, 0] - 1) * max(reach - high, 0.0)
    left, right = (target + side * (low + (high - low) * u[:, k]) for side, k in ((-1, 1), (1, 2)))
    # No farther apart than a source and what is turned of it: pictures of larger turns have nothing in
    # common.
    first, last = (target - reach).clamp_min(-reach), (target + reach).clamp_max(reach)
    return torch.stack([target, left, right, first + (last - first) * u[:, 3]], dim=1)


def sweep_images(generator: CodeGenerator, basis: SweepBasis, codes: Tensor, amounts: Tensor) -> Tensor:
    """[B, F, 3, R, R] in [0, 1]: codes [B, L, D] turned by amounts [B, F]."""
    count = amounts.shape[1]
    turned = basis.edit(codes.repeat_interleave(count, dim=0), amounts.flatten())
    return generator(turned).clamp(0, 1).unflatten(0, (-1, count))
