"""Random numbers that belong to an item, not to a batch or a process.

An item is a number that a run hands out once. Its draws follow from (seed, item, stream) alone, so they
do not depend on how items are grouped into batches, on the number of processes, or on where a run was
resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK_32 = (1 << 32) - 1
_MASK_64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix64(*numbers: int) -> int:
    """A 64-bit hash of a sequence of integers; order matters, and for all but one fixed it is one-to-one.

    Each number is folded in with SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators"; the variant of the finaliser with Stafford's constants). Integers are taken modulo 2^64.
    """
    state = 0
    for number in numbers:
        state = ((state ^ (number & _MASK_64)) + _GAMMA) & _MASK_64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK_64
        state ^= state >> 31
    return state


def generator_seed(seed: int, item: int, stream: int = 0) -> int:
    """The 32-bit number that starts an item's generator.

    torch's CPU generator (a Mersenne Twister) looks at 32 bits of its seed only. Cutting a 64-bit hash to 32
    would make about a hundred of a million items share their noise, so this maps items to 32 bits one-to-one:
    within one (seed, stream) no two of the first 2^32 items start alike.
    """
    key = mix64(seed, stream, item >> 32)
    first = _permute32(((item & _MASK_32) + (key & _MASK_32)) & _MASK_32)
    return _permute32(first ^ (key >> 32))


def item_generator(seed: int, item: int, stream: int = 0) -> torch.Generator:
    """A new CPU generator for one item; `stream` separates independent uses within the item."""
    return torch.Generator().manual_seed(generator_seed(seed, item, stream))


def item_noise(seed: int, items: Sequence[int] | Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """[len(items), *shape] float32 standard normal noise on the CPU, row i a function of items[i] alone."""
    return _fill(torch.empty(len(items), *shape), seed, items, stream, normal=True)


def item_uniform(
    seed: int, items: Sequence[int] | Tensor, shape: Sequence[int] = (), stream: int = 0
) -> Tensor:
    """[len(items), *shape] float32 uniform in [0, 1) on the CPU, row i a function of items[i] alone."""
    return _fill(torch.empty(len(items), *shape), seed, items, stream, normal=False)


def item_integers(
    seed: int, items: Sequence[int] | Tensor, high: int, shape: Sequence[int] = (), stream: int = 0
) -> Tensor:
    """[len(items), *shape] int64 uniform in 0 .. high - 1, e.g. time steps, row i from items[i] alone."""
    rows = torch.empty(len(items), *shape, dtype=torch.int64)
    generator = torch.Generator()
    for row, item in zip(rows.unbind(), _numbers(items), strict=True):
        row.random_(0, high, generator=generator.manual_seed(generator_seed(seed, item, stream)))
    return rows


def _fill(rows: Tensor, seed: int, items: Sequence[int] | Tensor, stream: int, *, normal: bool) -> Tensor:
    generator = torch.Generator()  # one object for all: seeding it again resets it completely
    for row, item in zip(rows.unbind(), _numbers(items), strict=True):
        generator.manual_seed(generator_seed(seed, item, stream))
        if normal:
            row.normal_(generator=generator)
        else:
            row.uniform_(generator=generator)
    return rows


def _numbers(items: Sequence[int] | Tensor) -> list[int]:
    return items.tolist() if isinstance(items, Tensor) else [int(item) for item in items]


def _permute32(value: int) -> int:
    """A permutation of the 32-bit integers with good avalanche (Wellons 2018, "lowbias32")."""
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK_32
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK_32
    return value ^ (value >> 16)
