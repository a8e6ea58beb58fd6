"""The direction of the code space that turns objects, as a component that is kept with the networks."""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.methods.refiner.ganspace import Directions
from manyview.methods.refiner.rotation_search import RotationEdit


class SweepBasis(ModelMixin, ConfigMixin):
    """GANSpace's directions as buffers, and which of them, on which rows of the codes, turns objects.

    `spread` is the deviation of the codes along each of their D numbers, for the refiner's statistics.
    """

    mean: Tensor
    vectors: Tensor
    deviations: Tensor
    spread: Tensor

    @register_to_config
    def __init__(
        self,
        w_dim: int,
        num_components: int,
        component: int = 0,
        layers: tuple[int, int] | list[int] = (0, 1),
        sign: int = 1,
        yaw_per_sigma_deg: float | None = None,
        identity_change: float | None = None,
        score: float | None = None,
        truncation: float = 0.8,
    ) -> None:
        """`layers`: first row and the one after the last. `yaw_per_sigma_deg`: of a step of one deviation.
        `truncation`: of the codes that are swept."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("vectors", torch.zeros(num_components, w_dim))
        self.register_buffer("deviations", torch.ones(num_components))
        self.register_buffer("spread", torch.ones(w_dim))
        # diffusers asks the first parameter for the dtype, and this component has no other.
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)

    @classmethod
    def of(cls, directions: Directions, edit: RotationEdit, spread: Tensor, truncation: float) -> SweepBasis:
        """From what was found."""
        count, dim = directions.vectors.shape
        yaw = edit.yaw_per_sigma_deg
        basis = cls(
            w_dim=int(dim),
            num_components=int(count),
            component=int(edit.component),
            layers=list(edit.layers),
            sign=int(edit.sign),
            yaw_per_sigma_deg=float(yaw) if math.isfinite(yaw) else None,
            identity_change=float(edit.identity_change) if math.isfinite(edit.identity_change) else None,
            score=float(edit.score) if math.isfinite(edit.score) else None,
            truncation=truncation,
        )
        basis.mean.copy_(directions.mean)
        basis.vectors.copy_(directions.vectors)
        basis.deviations.copy_(directions.deviations)
        basis.spread.copy_(spread)
        return basis

    @property
    def directions(self) -> Directions:
        """All of them."""
        return Directions(
            mean=self.mean.float(), vectors=self.vectors.float(), deviations=self.deviations.float()
        )

    @property
    def rotation(self) -> RotationEdit:
        """The one that turns."""
        told = self.config

        def number(name: str) -> float:
            return math.nan if told[name] is None else float(told[name])

        return RotationEdit(
            component=int(told["component"]),
            layers=(int(told["layers"][0]), int(told["layers"][1])),
            sign=int(told["sign"]),
            yaw_per_sigma_deg=number("yaw_per_sigma_deg"),
            identity_change=number("identity_change"),
            score=number("score"),
        )

    @property
    def truncation(self) -> float:
        """Of the codes that are swept."""
        return float(self.config["truncation"])

    def edit(self, codes: Tensor, amounts: Tensor) -> Tensor:
        """[B, L, D] codes turned by amounts [B] in deviations, positive towards positive yaw."""
        return self.rotation.apply(codes, self.directions, amounts)

    def places(self, codes: Tensor) -> Tensor:
        """[B] where codes [B, L, D] lie along the direction, in deviations from the mean code, positive
        towards positive yaw."""
        rotation, directions = self.rotation, self.directions.to(codes)
        first, last = rotation.layers
        away = codes[:, first:last].mean(dim=1) - directions.mean
        along = away @ directions.vectors[rotation.component] / directions.deviations[rotation.component]
        return rotation.sign * along

    def facing(self, codes: Tensor) -> Tensor:
        """[B, L, D] the codes turned to the middle of the direction, from where it reaches as far to either
        side."""
        return self.edit(codes, -self.places(codes))

    def calibrate(self, sign: int, yaw_per_sigma_deg: float) -> None:
        """Record what the pose network found: the sign is one more factor on the recorded one."""
        self.register_to_config(
            sign=int(self.config["sign"]) * sign, yaw_per_sigma_deg=float(yaw_per_sigma_deg)
        )
