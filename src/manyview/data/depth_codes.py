"""Depths as bytes: 255 even steps of inverse depth, and 0 for nothing.

Inverse depth is what nets that tell depth learn, and its steps are finest where surfaces are near. Of objects
of longest side 1 seen from 1.5 away a code is off by at most 0.0023 in inverse depth: 0.005 in depth at the
object's middle, 0.013 at the farthest corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.types import Cameras

_STEPS = 254
_CORNER = math.sqrt(3) / 2
"""Farthest that an object of longest side 1 reaches from its middle."""


@dataclass(frozen=True)
class DepthCodes:
    """Which depths, along the camera's z axis in world units, the codes 255 and 1 stand for."""

    near: float
    far: float

    @classmethod
    def around_objects(cls, cameras: Cameras) -> DepthCodes:
        """The range in which these cameras, which look at the origin, see objects of longest side 1."""
        distances = torch.linalg.vector_norm(cameras.centers.double(), dim=1)
        near = max(float(distances.min()) - _CORNER, 1e-3)
        return cls(near=near, far=float(distances.max()) + _CORNER)

    def agrees(self, other: DepthCodes) -> bool:
        """Whether codes stand for the same depths, but for the rounding of camera positions."""
        pairs = ((self.near, other.near), (self.far, other.far))
        return all(math.isclose(one, two, rel_tol=1e-4) for one, two in pairs)

    def encode(self, depths: Tensor) -> NDArray[np.uint8]:
        """uint8 of any shape; depths of 0 and below are nothing, others are held within the range."""
        share = (1 / depths.clamp_min(1e-6) - 1 / self.far) / (1 / self.near - 1 / self.far)
        codes = 1 + (share.clamp(0, 1) * _STEPS).round()
        return torch.where(depths > 0, codes, 0.0).to(torch.uint8).cpu().numpy()

    def shares(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Inverse depth as a share of the range: 0 at `far`, 1 at `near`; 0 where there is nothing."""
        shares = np.maximum(codes.astype(np.float32) - 1, 0) / np.float32(_STEPS)
        return shares.astype(np.float32)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Depths in world units, 0 where there is nothing."""
        inverse = 1 / self.far + self.shares(codes) * (1 / self.near - 1 / self.far)
        return np.where(codes > 0, 1 / inverse, 0).astype(np.float32)
