"""Training of the small depth network on rendered views, whose depths are exact.

Depth is learned as it is, not up to scale and shift: objects have longest side 1 and stand 1.5 from every
camera, so scale and shift are known, and only absolute values agree between the views of an orbit. What lies
behind the object is left out of the depth's loss; where it begins is learned beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.data.packed import PackedViews
from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.methods.hi3d.degradation import compact_options, degrade
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.sampling.noise import generator_seed
from manyview.training.sources import ViewSources, read_view
from manyview.training.task import Task
from manyview.weights.packing import load_component

_STREAM = 0x647074
_EDGES, _COVER = 0.5, 0.1
"""Weights of the depth's gradients and of what is covered, beside the depth's 1."""
_SCALES = 3
_MOST_VALIDATED = 64
"""Held-out objects looked at, four views each."""


class DepthTask(Task):
    """L1 of inverse depth on the object, L1 of its differences at three sizes (Ranftl et al. 2022, "Towards
    robust monocular depth estimation", Eq. 11, without its scale and shift), cross-entropy of coverage.

    Pictures are mirrored, recoloured, and a part of them (`degraded`) made worse as coarse frames are. Raises
    `InputError` for data sets without depths, with others than the first's range, or of sizes that the
    network's size does not divide.
    """

    name = "hi3d_depth"

    def __init__(
        self,
        folders: Sequence[Path],
        shares: Sequence[float] = (),
        validation: Path | None = None,
        *,
        size: int = 128,
        degraded: float = 0.5,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        self.sources = ViewSources(folders, shares, validation)
        self.size, self.degraded, self.seed = size, degraded, seed
        self.initial, self.data_name = initial, data_name
        self.codes = self.sources.training[0].depth_codes
        for source in self.sources.all:
            if not source.depth_codes.agrees(self.codes):
                accepted = (
                    f"expected depths from {self.codes.near:.3f} to {self.codes.far:.3f} as the first has"
                )
                raise InputError("--data", str(source.folder), accepted)
            height, width = source[0].shape[1:3]
            if height != width or height % size:
                accepted = f"expected square views of a multiple of {size} pixels"
                raise InputError("--data", f"{source.folder} ({height} x {width})", accepted)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "size": self.size,
            "shares": self.sources.shares.tolist(),
            "degraded": self.degraded,
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
        }

    def build(self) -> nn.Module:
        """The network, fresh or from `initial`."""
        if self.initial is not None:
            return load_component(DepthNet, self.initial, torch.float32, argument="--initial")
        return DepthNet(size=self.size, near=self.codes.near, far=self.codes.far)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """images [B, 3, S, S]; shares [B, S, S] inverse depth as the network tells it; cover [B, S, S]."""
        rows = [self._example(int(item)) for item in items]
        return {
            name: torch.stack([row[place] for row in rows])
            for place, name in enumerate(("images", "shares", "cover"))
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        told, logits = model(batch["images"])
        solid = batch["cover"] >= 0.5
        depth = masked_error(told.float(), batch["shares"], solid)
        edges = masked_difference_error(told.float(), batch["shares"], solid, _SCALES)
        cover = F.binary_cross_entropy_with_logits(logits.float(), batch["cover"])
        loss = depth + _EDGES * edges + _COVER * cover
        return loss, {"depth_l1": depth, "edge_l1": edges, "cover_bce": cover}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean errors of held-out views on their objects: of inverse depth (as a share of its range), of
        depth relative to the true one, and the overlap of coverage."""
        held_out = self.sources.validation
        if held_out is None:
            return {}
        assert isinstance(model, DepthNet), "the depth task trains a DepthNet"
        chosen = np.unique(np.linspace(0, len(held_out) - 1, _MOST_VALIDATED).astype(int))
        totals = torch.zeros(5, dtype=torch.float64)
        near, far = self.codes.near, self.codes.far
        for index in chosen:
            step = max(1, held_out.num_views // 4)
            rows = [
                _shrunk(held_out, int(index), view, self.size) for view in range(0, held_out.num_views, step)
            ]
            images, shares, cover = (torch.stack(parts) for parts in zip(*rows, strict=True))
            told, logits = (found.float().cpu() for found in model(images.to(device)))
            solid, found = cover >= 0.5, logits > 0
            true, guess = (1 / (1 / far + x.clamp(0, 1) * (1 / near - 1 / far)) for x in (shares, told))
            totals += torch.stack(
                [
                    solid.sum(),
                    (told - shares).abs()[solid].sum(),
                    ((guess - true).abs() / true)[solid].sum(),
                    (solid & found).sum(),
                    (solid | found).sum(),
                ]
            ).double()
        count, share_error, relative, both, either = totals.tolist()
        return {
            "inverse_l1_val": share_error / max(count, 1),
            "relative_val": relative / max(count, 1),
            "cover_iou_val": both / max(either, 1),
        }

    def export(self, model: nn.Module, folder: Path) -> None:
        """The network in float16."""
        assert isinstance(model, DepthNet), "the depth task trains a DepthNet"
        model.half().save_pretrained(folder)

    def _example(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        image, shares, cover = _shrunk(*self.sources.draw(rng), self.size)
        if rng.random() < 0.5:
            image, shares, cover = (part.flip(-1) for part in (image, shares, cover))
        # Powers and exchanged channels leave white white.
        image = image[torch.from_numpy(rng.permutation(3))] ** float(np.exp(rng.normal(scale=0.25)))
        if rng.random() < self.degraded:
            target = int(rng.integers(1, 3))
            options = dataclasses.replace(compact_options(), target=target, clean_first=False)
            image = degrade(image[None], options, seed=self.seed, item=item)[0]
        return image, shares, cover


def masked_error(told: Tensor, true: Tensor, solid: Tensor) -> Tensor:
    """Mean of |told - true| where `solid`; all [B, S, S]."""
    return ((told - true).abs() * solid).sum() / solid.sum().clamp_min(1)


def masked_difference_error(told: Tensor, true: Tensor, solid: Tensor, scales: int) -> Tensor:
    """Mean of how much the error changes between neighbours that are both solid, at sizes 1, 1/2, 1/4, ..."""
    total = told.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        error, inside = ((told - true)[:, ::step, ::step], solid[:, ::step, ::step])
        for axis in (1, 2):
            length = error.shape[axis] - 1
            pairs = inside.narrow(axis, 0, length) & inside.narrow(axis, 1, length)
            change = (error.narrow(axis, 1, length) - error.narrow(axis, 0, length)).abs()
            total = total + (change * pairs).sum() / pairs.sum().clamp_min(1)
    return total / (2 * scales)


def _shrunk(source: PackedViews, index: int, view: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture [3, S, S], inverse-depth shares and coverage [S, S] of one view, averaged down to S pixels."""
    pixels = read_view(source, index, view)
    codes = np.asarray(source.depths(index)[view])
    cover = torch.from_numpy((codes > 0).astype(np.float32))[None]
    shares = torch.from_numpy(source.depth_codes.shares(codes))[None]
    image, _ = resize_area(pixels, size, size)
    # Straight values, weighed by coverage, as of colours under an alpha.
    shares, small = resize_area(shares, size, size, cover)
    assert small is not None, "coverage was given"
    return image.contiguous(), shares[0], small[0]
