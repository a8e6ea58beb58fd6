"""What TUNet and its base learn from: encoded views of many scenes with their cameras, and the pairs among
them.

Shapes: M views of all scenes, N scenes, C latent channels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from manyview.data.captures import OrderedCapture, capture_batches, captures_identity
from manyview.data.datasets import SceneArrays
from manyview.data.latents import LatentKey, cache_latents
from manyview.data.packed import PackedViews
from manyview.data.rigs import read_rigs
from manyview.errors import InputError
from manyview.methods.tunet.cameras import scene_focus
from manyview.methods.tunet.pairs import PAIRS_A_SCENE, allowed_targets, draw_pairs, draw_targets
from manyview.nets.autoencoder import encode
from manyview.progress import Progress, silent
from manyview.sampling.noise import item_generator
from manyview.training.encoding import codec_identity, encode_latents
from manyview.training.order import EpochOrder
from manyview.types import Cameras, join_cameras

UNKNOWN = -1
"""The class of a scene whose class nobody said."""
_AT_ONCE = 64
_STREAM = 31


@dataclass(frozen=True, kw_only=True)
class PosedLatents:
    """One data set: latents of all views (or their clean estimates, `means`), scene after scene."""

    latents: Tensor
    """[M, C, h, w] float16, mode and normalised."""
    cameras: Cameras
    """M, each scene's in one world."""
    starts: Tensor
    """int64 [N + 1] where each scene begins, and M."""
    focus: Tensor
    """[N, 3] the point each scene is about."""
    class_ids: Tensor
    """int64 [N], `UNKNOWN` where nobody said."""
    ordered: bool = False
    """Whether frames follow one another and the paper's rule pairs them; else any two views of a scene do."""

    def __post_init__(self) -> None:
        if len(self.cameras) != len(self.latents) or int(self.starts[-1]) != len(self.latents):
            raise InputError("cameras", len(self.cameras), f"expected {len(self.latents)}, one a view")
        if len(self.focus) != len(self) or len(self.class_ids) != len(self):
            raise InputError("class_ids", len(self.class_ids), f"expected {len(self)}, one a scene")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def count(self, scene: int) -> int:
        """Views of a scene."""
        return int(self.starts[scene + 1] - self.starts[scene])

    def first(self, count: int | None) -> PosedLatents:
        """The first scenes, so many or all."""
        if count is None or count >= len(self):
            return self
        views = int(self.starts[count])
        return PosedLatents(
            latents=self.latents[:views],
            cameras=self.cameras[:views],
            starts=self.starts[: count + 1],
            focus=self.focus[:count],
            class_ids=self.class_ids[:count],
            ordered=self.ordered,
        )

    def with_pairs(self) -> PosedLatents:
        """Without the scenes that give no pair: captures of fewer than 10 frames, scenes of one view."""
        usable = [n for n in range(len(self)) if self._can_pair(self.count(n))]
        if len(usable) == len(self):
            return self
        if not usable:
            line = "expected captures of at least 10 frames" if self.ordered else "expected two views a scene"
            raise InputError("--data", f"{len(self)} scenes", line)
        parts = [slice(int(self.starts[n]), int(self.starts[n + 1])) for n in usable]
        counts = torch.tensor([0, *(part.stop - part.start for part in parts)])
        return PosedLatents(
            latents=torch.cat([self.latents[part] for part in parts]),
            cameras=join_cameras([self.cameras[part] for part in parts]),
            starts=counts.cumsum(0),
            focus=self.focus[usable],
            class_ids=self.class_ids[usable],
            ordered=self.ordered,
        )

    def _can_pair(self, count: int) -> bool:
        return bool(allowed_targets(count)) if self.ordered else count > 1


def encode_orbits(
    source: PackedViews | SceneArrays,
    root: Path,
    vae: AutoencoderKL,
    *,
    device: torch.device,
    progress: Progress = silent,
    argument: str = "--data",
) -> PosedLatents:
    """The views of a data set of renders, encoded or found encoded in `root`.

    Raises `InputError` where it has no cameras.
    """
    rigs = read_rigs(source, argument)
    latents = encode_latents(source, root, vae, device=device, progress=progress)
    count, views = latents.shape[:2]
    points = [scene_focus(rig) for rig in rigs]
    if len(rigs) == 1:
        index = torch.arange(views).repeat(count)
        cameras, focus = rigs[0].to(torch.float32)[index], points[0].float().expand(count, 3)
    else:
        cameras, focus = join_cameras(list(rigs)).to(torch.float32), torch.stack(points).float()
    return PosedLatents(
        latents=latents.flatten(0, 1),
        cameras=replace(cameras, distortion=None),
        starts=torch.arange(count + 1) * views,
        focus=focus.clone(),
        class_ids=torch.full((count,), UNKNOWN),
    )


def encode_captures(
    captures: Sequence[OrderedCapture],
    size: int,
    root: Path,
    vae: AutoencoderKL,
    *,
    classes: Sequence[str] = (),
    device: torch.device,
    progress: Progress = silent,
) -> PosedLatents:
    """Ordered captures as square views of `size` pixels, encoded or found encoded in `root`, one shard a
    scene.

    `classes`: the known categories, whose places are the class ids.
    """
    network = vae.to(device).float().eval()  # pyright: ignore[reportArgumentType]

    def encode_bytes(frames: Tensor) -> Tensor:
        parts = frames.split(_AT_ONCE)
        return torch.cat([encode(network, p.to(device).permute(0, 3, 1, 2).float() / 255) for p in parts])

    key = LatentKey(data=captures_identity(captures, size), encoder=codec_identity(vae))
    batches = capture_batches(captures, size)
    cache = cache_latents(batches, encode_bytes, root, key, progress=progress, num_batches=len(captures))
    cameras = [capture.cameras(size).to(torch.float32) for capture in captures]
    known = {name: number for number, name in enumerate(classes)}
    return PosedLatents(
        latents=cache.load(),
        cameras=join_cameras(cameras),
        starts=torch.tensor([0, *(len(capture) for capture in captures)]).cumsum(0),
        focus=torch.stack([scene_focus(one) for one in cameras]),
        class_ids=torch.tensor([known.get(capture.category, UNKNOWN) for capture in captures]),
        ordered=True,
    )


@dataclass(frozen=True)
class Draw:
    """What one item shows."""

    source: int
    """Number of the data set."""
    scene: int
    reference: int
    """Number of the view among all of the data set, as are"""
    targets: tuple[int, ...]


class PairExamples:
    """A reference view and `targets` others of its scene for every item: a pure function of (seed, item).

    Of unordered scenes any view is a reference and any others targets, no view twice while there are enough.
    Of ordered captures the paper's pairs, ten a scene drawn anew every epoch (`pairs`), each grown to as many
    targets. Every epoch visits all unordered scenes once and all ordered ones ten times; with `shares` a data
    set is drawn first, so often as its share says. Raises `InputError` for no data, sets whose latents
    differ in size, and numbers out of range.
    """

    def __init__(
        self, sets: Sequence[PosedLatents], targets: int = 4, shares: Sequence[float] = (), seed: int = 0
    ) -> None:
        if not sets:
            raise InputError("--data", "not given", "expected one or more data sets")
        if targets < 1:
            raise InputError("--targets-each", targets, "expected at least 1")
        if shares and (len(shares) != len(sets) or min(shares) <= 0):
            raise InputError("--shares", tuple(shares), f"expected {len(sets)} positive numbers")
        self.sets, self.targets, self.seed = [one.with_pairs() for one in sets], targets, seed
        shapes = {tuple(one.latents.shape[1:]) for one in self.sets}
        if len(shapes) != 1:
            raise InputError("--data", sorted(shapes), "expected latents of one size in all")
        self._each = [PAIRS_A_SCENE if one.ordered else 1 for one in self.sets]
        counts = torch.tensor([len(s) * n for s, n in zip(self.sets, self._each, strict=True)])
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._order = EpochOrder(int(counts.sum()), seed)
        self._shares = torch.tensor(list(shares), dtype=torch.float64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def draw(self, item: int) -> Draw:
        """What an item shows."""
        generator = item_generator(self.seed, item, _STREAM)
        if len(self._shares):
            source = int(torch.multinomial(self._shares, 1, generator=generator))
            scene = int(torch.randint(len(self.sets[source]), (), generator=generator))
            turn, round_generator = 0, generator
        else:
            place = self._order.index(item)
            source = int(torch.searchsorted(self._starts, place, right=True)) - 1
            scene, turn = divmod(place - int(self._starts[source]), self._each[source])
            # The ten pairs of a scene and an epoch are drawn together, whichever of them is asked for.
            key = (item // len(self)) * len(self) + int(self._starts[source]) + scene * self._each[source]
            round_generator = item_generator(self.seed, key, _STREAM + 1)
        one = self.sets[source]
        start, count = int(one.starts[scene]), one.count(scene)
        if one.ordered:
            pair = draw_pairs(count, _shuffle(round_generator))[turn]
            reference, targets = draw_targets(count, pair, self.targets, _shuffle(generator))
        else:
            reference, *others = torch.randperm(count, generator=generator).tolist()
            targets = tuple(others[number % len(others)] for number in range(self.targets))
        return Draw(source, scene, start + reference, tuple(start + target for target in targets))

    def scenes_of(self, draw: Draw) -> tuple[PosedLatents, Tensor, int]:
        """The data set, the focus [3] and the class of what an item shows."""
        one = self.sets[draw.source]
        return one, one.focus[draw.scene], int(one.class_ids[draw.scene])


def _shuffle(generator: torch.Generator):
    def shuffle(items: Sequence[int], what: str) -> list[int]:
        return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]

    return shuffle
