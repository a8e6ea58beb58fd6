"""What SparseFusion learns from: posed views of many objects, and which of them a training item shows.

Data sets may differ in their cameras and in their number of views; one model learns from all of them.
Shapes: N objects, V views of each, H x W pixels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.data.datasets import SceneArrays
from manyview.data.packed import PackedViews
from manyview.data.rigs import read_rigs
from manyview.data.views import ObjectViews
from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.methods.sparsefusion.eft import choose_context
from manyview.methods.sparsefusion.epipolar import relative_transforms, same_cameras
from manyview.methods.sparsefusion.spec import MAX_VIEWS
from manyview.sampling.noise import item_generator
from manyview.training.order import EpochOrder
from manyview.types import Cameras

_DRAW_STREAM = 11


@dataclass(frozen=True, kw_only=True)
class PosedObjects:
    """One data set: views, their cameras, and what was made of the views beforehand."""

    views: ObjectViews
    cameras: tuple[Cameras, ...]
    """V cameras for every object, or one entry that all objects share."""
    latents: Tensor | None = None
    """[N, V, C, h, w] of the codec, mode and normalised; None where only the EFT is trained."""
    valid: Tensor | None = None
    """bool [N, V, H, W]: False where a picture shows nothing (a border put on); None for True everywhere."""

    def rig(self, index: int) -> Cameras:
        """The V cameras of one object."""
        return self.cameras[index if len(self.cameras) > 1 else 0]


@dataclass(frozen=True)
class Draw:
    """What one training item shows."""

    source: int
    """Number of the data set."""
    index: int
    """Number of the object in it."""
    query: int
    """The view to be told."""
    context: tuple[int, ...]
    """The views it is told from; never the query, nor one with the query's camera."""


class Examples:
    """Which views an item shows: a pure function of (seed, item).

    Every epoch visits all objects of all data sets once; with `shares` a data set is drawn first, so often
    as its share says. The query is any view, the number of context views any from `fewest` to `most` (or as
    many as an object has), all alike. Raises `InputError` where data sets do not fit together, and for
    numbers of views that an object cannot give.
    """

    def __init__(
        self,
        sets: Sequence[PosedObjects],
        context_views: tuple[int, int] = (1, 6),
        shares: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        fewest, most = context_views
        if not 1 <= fewest <= most <= MAX_VIEWS:
            raise InputError("--context-views", context_views, f"expected 1 <= fewest <= most <= {MAX_VIEWS}")
        if shares and (len(shares) != len(sets) or min(shares) <= 0):
            raise InputError("--shares", tuple(shares), f"expected {len(sets)} positive numbers")
        self.sets, self.fewest, self.most, self.seed = list(sets), fewest, most, seed
        self.size = _check_sets(self.sets)
        counts = torch.tensor([len(one.views) for one in self.sets])
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._order = EpochOrder(int(counts.sum()), seed)
        self._shares = torch.tensor(list(shares), dtype=torch.float64)
        self._others = [[_other_views(rig, fewest) for rig in one.cameras] for one in self.sets]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def draw(self, item: int) -> Draw:
        """What the item shows; all that it draws comes from one generator of its own."""
        generator = item_generator(self.seed, item, _DRAW_STREAM)
        if len(self._shares):
            source = int(torch.multinomial(self._shares, 1, generator=generator))
            index = int(torch.randint(len(self.sets[source].views), (), generator=generator))
        else:
            place = self._order.index(item)
            source = int(torch.searchsorted(self._starts, place, right=True)) - 1
            index = place - int(self._starts[source])
        rigs = self._others[source]
        others = rigs[index if len(rigs) > 1 else 0]
        query = int(torch.randint(len(others), (), generator=generator))
        usable = [query, *others[query]]
        most = min(self.most, len(usable) - 1)
        count = int(torch.randint(self.fewest, most + 1, (), generator=generator))
        chosen = choose_context(len(usable), 0, count, generator)
        return Draw(source, index, query, tuple(usable[place] for place in chosen))

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """Pictures in [0, 1] of the items' draws; items with less context end in empty pictures.

        context [B, K, 3, H, W] (K the largest number in the batch), query [B, 3, H, W], valid [B, 1, H, W],
        and where the data sets have them latents [B, C, h, w] and context_latents [B, K, C, h, w].
        """
        draws = [self.draw(item) for item in items.tolist()]
        height, width = self.size
        most = max(len(draw.context) for draw in draws)
        context = torch.zeros(len(draws), most, 3, height, width)
        query, valid, latents = [], [], []
        sample = self.sets[0].latents
        others = None if sample is None else torch.zeros(len(draws), most, *sample.shape[2:])
        for place, (row, draw) in enumerate(zip(context, draws, strict=True)):
            one = self.sets[draw.source]
            pixels = torch.from_numpy(one.views[draw.index][[draw.query, *draw.context]])
            pictures = pixels.permute(0, 3, 1, 2).float() / 255
            row[: len(draw.context)] = pictures[1:]
            query.append(pictures[0])
            everywhere = torch.ones(height, width)
            seen = everywhere if one.valid is None else one.valid[draw.index, draw.query].float()
            valid.append(seen[None])
            if one.latents is not None:
                own = one.latents[draw.index]
                latents.append(own[draw.query].float())
                if others is not None:
                    others[place, : len(draw.context)] = own[list(draw.context)].float()
        found = {"context": context, "query": torch.stack(query), "valid": torch.stack(valid)}
        if others is not None:
            found |= {"latents": torch.stack(latents), "context_latents": others}
        return found

    def cameras(self, draw: Draw) -> tuple[Cameras, Cameras, Tensor]:
        """Context cameras, the query's camera, and the middle [3] of the object, where all cameras look."""
        rig = self.sets[draw.source].rig(draw.index)
        return rig[list(draw.context)], rig[draw.query], focus_point(rig)


def open_posed(source: PackedViews | SceneArrays, argument: str = "--data") -> PosedObjects:
    """The views of a data set with their cameras. Raises `InputError` where it has no cameras."""
    return PosedObjects(views=source, cameras=read_rigs(source, argument))


def _other_views(rig: Cameras, fewest: int) -> list[list[int]]:
    """For every view those with another camera."""
    reach = torch.linalg.vector_norm(rig.centers.double() - focus_point(rig).double(), dim=1).mean()
    # Somewhat more than the scene's depth, so that whatever the EFT would call the same is left out here.
    ranges = torch.stack([reach / 2, 4 * reach])[None]
    same = same_cameras(relative_transforms(rig, rig, 1), ranges)[0]
    others = [(~row).nonzero()[:, 0].tolist() for row in same]
    for view, found in enumerate(others):
        if view in found:
            found.remove(view)
        if len(found) < fewest:
            line = f"view {view} has {len(found)} others with a camera of their own, expected {fewest}"
            raise InputError("--data", f"{len(rig)} views", line)
    return others


def _check_sets(sets: Sequence[PosedObjects]) -> tuple[int, int]:
    """(height, width) of all views."""
    if not sets:
        raise InputError("--data", "not given", "expected one or more data sets")
    shapes = {one.views[0].shape[1:3] for one in sets}
    if len(shapes) != 1:
        raise InputError("--data", sorted(shapes), "expected views of one size in all")
    (size,) = shapes
    cells = {None if one.latents is None else tuple(one.latents.shape[2:]) for one in sets}
    if len(cells) != 1:
        raise InputError("--data", f"{len(sets)} data sets", "expected latents of one size in all")
    for one in sets:
        count, views = len(one.views), one.views[0].shape[0]
        if len(one.cameras) not in (1, count) or any(len(rig) != views for rig in one.cameras):
            raise InputError(
                "cameras", len(one.cameras), f"expected {views} cameras for 1 or {count} objects"
            )
        if any(bool((rig.sizes != rig.sizes.new_tensor(size)).any()) for rig in one.cameras):
            raise InputError("cameras.sizes", one.cameras[0].sizes[0].tolist(), f"expected {list(size)}")
        if one.latents is not None and one.latents.shape[:2] != (count, views):
            raise InputError("latents", tuple(one.latents.shape), f"expected [{count}, {views}, ...]")
        if one.valid is not None and tuple(one.valid.shape) != (count, views, *size):
            raise InputError("valid", tuple(one.valid.shape), f"expected {[count, views, *size]}")
    return size[0], size[1]
