"""What Hi3D learns from: orbits of evenly spaced views, encoded, and what the refiner is shown of them.

Shapes: N objects, A views of an orbit, B clips of T frames, C latent channels, S depth channels, D embedding
size, h x w latent cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from manyview.data.latents import LatentCache
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.atomic import write_text_atomic
from manyview.methods.hi3d.depth import Normalize, stretch
from manyview.sampling.noise import item_integers, item_uniform
from manyview.types import Cameras

_TOLERANCE_DEG = 0.5
_VARIANT, _OWN = 21, 22
_CONTENTS = "coarse.json"


class CoarseSource(Protocol):
    """What the refiner is shown beside the input: degraded orbits and their depth. A pure function."""

    depth_channels: int

    def starts(self, objects: Tensor, items: Tensor) -> Tensor:
        """int64 [B] the view with which a clip has to begin, since its coarse frames were made from that one;
        -1 where any may be the input."""
        ...

    def clips(self, objects: Tensor, frames: Tensor, starts: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse latents [B, T, C, h, w], of the size of the fine ones, and depth channels [B, T, S, h, w].

        objects [B]; frames [B, T]: numbers of the orbit's views; starts [B]: the view that is the input, of
        which the depth is that of the real picture, where it is known; items [B]: whatever is random follows
        from them alone. Latents of the input are not used: it is given its own.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Orbits:
    """Encoded orbits of one or more data sets. Raises `InputError` for parts that do not fit."""

    latents: Tensor
    """[N, A, C, h, w] mode and normalised; view k stands 360 k / A degrees counter-clockwise of view 0."""
    embeddings: Tensor
    """[N, A, D]."""
    elevation_deg: Tensor
    """[N] of all views of an orbit."""
    coarse: CoarseSource | None = None
    """What the refiner is shown; None for the first stage."""
    counts: tuple[int, ...] = ()
    """Objects of each data set, in their order; one set when empty."""

    def __post_init__(self) -> None:
        if self.counts and sum(self.counts) != len(self.latents):
            raise InputError("counts", self.counts, f"expected {len(self.latents)} objects in all")
        shape = tuple(self.latents.shape[:2])
        if tuple(self.embeddings.shape[:2]) != shape:
            raise InputError("embeddings", tuple(self.embeddings.shape), f"expected {[*shape, 'D']}")
        if tuple(self.elevation_deg.shape) != shape[:1]:
            raise InputError("elevation_deg", tuple(self.elevation_deg.shape), f"expected {list(shape[:1])}")

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, kw_only=True)
class CoarseContents:
    """What the variants in a folder of coarse orbits are: degraded clips, then a first stage's own, then,
    with `clean`, the clean orbit for its depth (its latents are zeros)."""

    own_starts: tuple[tuple[int, ...], ...] = ()
    """Of each set of own clips: for every object the view that it was made from."""
    clean: bool = False
    normalize: Normalize = "none"
    """How depths are still to be stretched."""

    def write(self, folder: Path) -> None:
        """Beside the orbits."""
        write_text_atomic(folder / _CONTENTS, json.dumps(asdict(self)) + "\n", argument="--cache")

    @classmethod
    def read(cls, folder: Path) -> CoarseContents:
        """Those of a folder; of one that says nothing: degraded clips with finished depth."""
        path = folder / _CONTENTS
        if not path.is_file():
            return cls()
        said = json.loads(path.read_text())
        return cls(**{**said, "own_starts": tuple(tuple(starts) for starts in said["own_starts"])})


class StoredCoarse:
    """Coarse latents and depth channels that were made beforehand, some variants of each object.

    Kept as `manyview.data.latents` keeps latents, one folder for each data set in their order: entry
    (n * variants + k) * A + v is [C + S, h, w] of view v of object n in its variant k (`CoarseContents`),
    latents first. An item is shown one of the own clips so often as `own_share` says, else a degraded one; in
    a set that lacks one of the two always the other.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        counts: Sequence[int],
        num_views: int,
        latent_channels: int,
        seed: int = 0,
        own_share: float = 0.5,
    ) -> None:
        """`counts`: objects of each data set. Raises `InputError` for folders that do not fit."""
        if len(folders) != len(counts):
            raise InputError("--coarse", f"{len(folders)} folders", f"expected {len(counts)}, one a data set")
        if not 0 <= own_share <= 1:
            raise InputError("--own-share", own_share, "expected a number from 0 to 1")
        self.caches = [LatentCache(folder) for folder in folders]
        self.contents = [CoarseContents.read(folder) for folder in folders]
        self.num_views, self.latent_channels = num_views, latent_channels
        self.seed, self.own_share = seed, own_share
        self.starts_of_sets = torch.tensor([0, *counts]).cumsum(0)
        self.variants = []
        shapes = {cache.item_shape for cache in self.caches}
        if len(shapes) != 1:
            raise InputError("--coarse", sorted(shapes), "expected one size in all")
        self.depth_channels = shapes.pop()[0] - latent_channels
        if self.depth_channels < 0:
            raise InputError("--coarse", str(folders[0]), f"expected at least {latent_channels} channels")
        for folder, cache, contents, count in zip(folders, self.caches, self.contents, counts, strict=True):
            number, rest = divmod(len(cache), count * num_views)
            own = len(contents.own_starts)
            if rest or number < own + int(contents.clean) + int(not own):
                line = f"expected a multiple of {count} objects x {num_views} views"
                raise InputError("--coarse", f"{folder}: {len(cache)} entries", line)
            if any(len(starts) != count for starts in contents.own_starts):
                raise InputError("--coarse", str(folder), f"expected own clips of {count} objects")
            self.variants.append(number)

    def starts(self, objects: Tensor, items: Tensor) -> Tensor:
        """As `CoarseSource`."""
        found = []
        for index, item in zip(objects.tolist(), items.tolist(), strict=True):
            source, place = self._place(index)
            own = self._variant(source, item) - self._num_degraded(source)
            found.append(-1 if own < 0 else self.contents[source].own_starts[own][place])
        return torch.tensor(found, dtype=torch.int64)

    def clips(self, objects: Tensor, frames: Tensor, starts: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """As `CoarseSource`; which variant is shown follows from the item. Depths are stretched over the
        whole orbit, with the input's own among them, as when orbits are drawn."""
        latents, depths = [], []
        numbers = zip(objects.tolist(), starts.tolist(), items.tolist(), strict=True)
        for row, (index, start, item) in enumerate(numbers):
            source, place = self._place(index)
            cache, contents, many = self.caches[source], self.contents[source], self.variants[source]
            first = (place * many + self._variant(source, item)) * self.num_views
            orbit = cache[slice(first, first + self.num_views)].float()
            depth = orbit[:, self.latent_channels :]
            if contents.clean:
                last = (place * many + many - 1) * self.num_views
                depth[start] = cache[last + start][self.latent_channels :].float()
            # Channels hold the values of 3 x 3 squares, so rows of channels are rows of values, reordered.
            depth = stretch(depth.flatten(1, 2), contents.normalize).reshape(depth.shape)
            latents.append(orbit[frames[row], : self.latent_channels])
            depths.append(depth[frames[row]])
        return torch.stack(latents), torch.stack(depths)

    def _place(self, index: int) -> tuple[int, int]:
        """The data set of an object, and its number there."""
        source = int(torch.searchsorted(self.starts_of_sets, index, right=True)) - 1
        return source, index - int(self.starts_of_sets[source])

    def _num_degraded(self, source: int) -> int:
        contents = self.contents[source]
        return self.variants[source] - len(contents.own_starts) - int(contents.clean)

    def _variant(self, source: int, item: int) -> int:
        degraded, own = self._num_degraded(source), len(self.contents[source].own_starts)
        is_own = own > 0 and float(item_uniform(self.seed, [item], (), _OWN)) < self.own_share
        if is_own or not degraded:
            return degraded + int(item_integers(self.seed, [item], own, (), _VARIANT))
        return int(item_integers(self.seed, [item], degraded, (), _VARIANT))


def orbit_elevations(rigs: Sequence[Cameras], count: int, argument: str = "--data") -> Tensor:
    """[N] elevation in degrees of `count` orbits of which the cameras are known: one rig each, or one for
    all.

    Raises `InputError` where the cameras of a rig are not evenly spaced counter-clockwise, beginning
    anywhere, on one circle about the vertical axis that they all see the middle of.
    """
    found = [_elevation(rig, argument) for rig in rigs]
    if len(found) == 1:
        found *= count
    assert len(found) == count, "a rig for each object, or one for all"
    return torch.tensor(found, dtype=torch.float32)


def _elevation(rig: Cameras, argument: str) -> float:
    azimuth, elevation, distance = spherical_angles(rig.centers.double())
    steps = torch.arange(len(rig), dtype=azimuth.dtype) * (360 / len(rig))
    off = (azimuth - azimuth[0] - steps + 180) % 360 - 180
    apart = elevation.max() - elevation.min()
    uneven = (distance.max() / distance.min() - 1) > 0.01
    if float(off.abs().max()) > _TOLERANCE_DEG or float(apart) > _TOLERANCE_DEG or bool(uneven):
        shown = ", ".join(f"{value:.0f}" for value in azimuth[:4].tolist())
        line = "expected an orbit: even azimuths counter-clockwise at one elevation and distance"
        raise InputError(argument, f"cameras at azimuths {shown}, ... degrees", line)
    return float(elevation.mean())
