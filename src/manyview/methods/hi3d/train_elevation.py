"""Training of the small network that tells elevations, on views whose cameras are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyview.data.datasets import SceneArrays
from manyview.data.packed import PackedViews
from manyview.data.rigs import read_rigs
from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.methods.hi3d.elevation import ElevationNet, frame_outline
from manyview.sampling.noise import generator_seed
from manyview.training.sources import sum_to_one
from manyview.training.task import Task
from manyview.weights.packing import load_component

_STREAM = 0x656C65
_MOST_VALIDATED = 256


class ElevationTask(Task):
    """The likelihood of the true elevation under a Laplace distribution whose centre and spread the network
    tells; half of the views mirrored, all recoloured.

    Best of views from many elevations (protocol random). Raises `InputError` for data sets without cameras.
    """

    name = "hi3d_elevation"

    def __init__(
        self,
        sources: Sequence[PackedViews | SceneArrays],
        shares: Sequence[float] = (),
        validation: PackedViews | SceneArrays | None = None,
        *,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        if not sources:
            raise InputError("--data", "not given", "expected one or more data sets with cameras")
        self.sources, self.shares = list(sources), sum_to_one(shares, len(sources))
        self.elevations = [elevations_of(source) for source in sources]
        self.validation = validation
        self.held_out = None if validation is None else elevations_of(validation, "--validation")
        self.seed, self.initial, self.data_name = seed, initial, data_name

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "shares": self.shares.tolist(),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
        }

    def build(self) -> nn.Module:
        """The network, fresh or from `initial`."""
        if self.initial is None:
            return ElevationNet()
        return load_component(ElevationNet, self.initial, torch.float32, argument="--initial")

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """images [B, 3, S, S] framed by their outlines; elevation_deg [B]."""
        images, elevations = zip(*(self._example(int(item)) for item in items), strict=True)
        return {"images": torch.stack(images), "elevation_deg": torch.tensor(elevations)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        centers, log_spreads = model(batch["images"])
        error = (centers.float() - batch["elevation_deg"]).abs()
        loss = (error * torch.exp(-log_spreads.float()) + log_spreads.float()).mean()
        return loss, {"error_deg": error.mean()}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean and median error in degrees on one view of each held-out object, views in turn."""
        if self.validation is None or self.held_out is None:
            return {}
        errors = []
        size = self._size(model)
        for index in range(min(_MOST_VALIDATED, len(self.validation))):
            view = index % self.validation.num_views
            framed = _framed(self.validation[index][view], size)
            center, _ = model(framed[None].to(device))
            errors.append(abs(float(center) - float(self.held_out[index, view])))
        return {"error_deg_val": float(np.mean(errors)), "median_deg_val": float(np.median(errors))}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The network in float16."""
        assert isinstance(model, ElevationNet), "the elevation task trains an ElevationNet"
        model.half().save_pretrained(folder)

    def _size(self, model: nn.Module) -> int:
        assert isinstance(model, ElevationNet), "the elevation task trains an ElevationNet"
        return int(model.config["size"])

    def _example(self, item: int) -> tuple[Tensor, float]:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        number = int(rng.choice(len(self.sources), p=self.shares))
        source = self.sources[number]
        index, view = int(rng.integers(len(source))), int(rng.integers(source.num_views))
        image = _framed(source[index][view], 64)
        if rng.random() < 0.5:
            image = image.flip(-1)
        # Powers and exchanged channels leave white white.
        image = image[torch.from_numpy(rng.permutation(3))] ** float(np.exp(rng.normal(scale=0.3)))
        return image, float(self.elevations[number][index, view])


def elevations_of(source: PackedViews | SceneArrays, argument: str = "--data") -> Tensor:
    """[N, V] elevations in degrees of all views of a data set. Raises `InputError` without cameras."""
    found = [spherical_angles(rig.centers)[1] for rig in read_rigs(source, argument)]
    return torch.stack(found * len(source) if len(found) == 1 else found).float()


def _framed(pixels: np.ndarray, size: int) -> Tensor:
    """A view [H, W, 3] uint8 over white, framed by what is not white."""
    image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
    alpha = (torch.from_numpy(pixels.min(axis=-1)) < 250).float()[None]
    if not bool(alpha.any()):  # an object as white as its background: nothing to frame by
        alpha = torch.ones_like(alpha)
    return frame_outline(image, alpha, size)
