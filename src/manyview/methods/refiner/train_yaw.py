"""Training of the network that measures yaw, on rendered single views, whose yaw is known.

Pictures of a generator are its use, so it learns from pictures recoloured, blurred and with a little noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.refiner.single_views import SingleViewSet
from manyview.methods.refiner.yaw_net import YawNet
from manyview.sampling.noise import generator_seed
from manyview.training.task import Task
from manyview.weights.packing import load_component

_STREAM = 0x796177
_MOST_VALIDATED = 512


class YawTask(Task):
    """The likelihood of the true yaw under a Laplace distribution; half of the views are mirrored, which
    turns the sign. Raises `InputError` for data that are no single views."""

    name = "refiner_yaw"

    def __init__(
        self,
        data: Path,
        validation: Path | None = None,
        *,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        self.source = SingleViewSet(data)
        self.validation = None if validation is None else SingleViewSet(validation, "--validation")
        sizes = {source.size for source in (self.source, self.validation) if source is not None}
        if len(sizes) > 1:
            raise InputError("--validation", str(validation), f"expected views of {self.source.size} pixels")
        self.seed, self.initial, self.data_name = seed, initial, data_name

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"initial": str(self.initial) if self.initial else "", "data": self.data_name}

    def build(self) -> nn.Module:
        """The network, fresh or from `initial`."""
        if self.initial is not None:
            return load_component(YawNet, self.initial, torch.float32, argument="--initial")
        return YawNet(size=self.source.size)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """images [B, 3, S, S]; yaw_deg [B]."""
        images, yaws = zip(*(self._example(int(item)) for item in items), strict=True)
        return {"images": torch.stack(images), "yaw_deg": torch.tensor(yaws)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        centers, log_spreads = model(batch["images"])
        error = (centers.float() - batch["yaw_deg"]).abs()
        loss = (error * torch.exp(-log_spreads.float()) + log_spreads.float()).mean()
        return loss, {"error_deg": error.mean()}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean and median error in degrees on held-out objects."""
        if self.validation is None:
            return {}
        net = getattr(model, "module", model)
        assert isinstance(net, YawNet), "the yaw task trains a YawNet"
        count = min(len(self.validation), _MOST_VALIDATED)
        told = [
            net.measure(self.validation.images(range(first, min(first + 64, count))).to(device)).cpu()
            for first in range(0, count, 64)
        ]
        errors = (torch.cat(told) - self.validation.yaw_deg[:count]).abs()
        return {"error_deg_val": float(errors.mean()), "median_deg_val": float(errors.median())}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The network in float16."""
        net = getattr(model, "module", model)
        assert isinstance(net, YawNet), "the yaw task trains a YawNet"
        net.half().save_pretrained(folder)

    def _example(self, item: int) -> tuple[Tensor, float]:
        rng = np.random.default_rng(generator_seed(self.seed, item, _STREAM))
        index = int(rng.integers(len(self.source)))
        image, yaw = self.source.image(index), float(self.source.yaw_deg[index])
        if rng.random() < 0.5:
            image, yaw = image.flip(-1), -yaw
        # Powers and exchanged channels leave white white.
        image = image[torch.from_numpy(rng.permutation(3))] ** float(np.exp(rng.normal(scale=0.3)))
        if rng.random() < 0.5:
            image = _blurred(image, float(rng.uniform(0.2, 1.0)))
        noise = torch.from_numpy(rng.normal(size=image.shape, scale=rng.uniform(0, 0.03)).astype(np.float32))
        return (image + noise).clamp(0, 1), yaw


def _blurred(image: Tensor, sigma: float) -> Tensor:
    weights = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma).square())
    kernel = (weights / weights.sum()).expand(3, 1, -1)
    padded = F.pad(image[None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., :, None], groups=3), kernel[..., None, :], groups=3)[0]
