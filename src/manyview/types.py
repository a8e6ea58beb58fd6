"""The unit of data every method takes and gives: posed, partly observed views of one object.

Conventions shared by the whole package (docs/conventions.md):
camera axes are OpenCV's (x right, y down, z forward); `world_from_cam` maps camera points to the
world; world up is +Z; K is in pixels with pixel centres at +0.5, so the image spans [0, width] x
[0, height]; images are float in [0, 1], RGB, channels first.
Shapes: V views, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from manyview.errors import InputError

_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """V pinhole cameras, optionally with lens distortion.

    Raises `InputError` for wrong shapes, non-finite numbers, and rotations that are not proper
    (scaled, sheared or mirrored).
    """

    world_from_cam: Tensor
    """[V, 4, 4] rigid, OpenCV camera axes, world up +Z."""
    K: Tensor
    """[V, 3, 3] intrinsics in pixels, pixel centres at +0.5."""
    sizes: Tensor
    """[V, 2] int64 (height, width) in pixels."""
    distortion: Tensor | None = None
    """[V, 6] k1 k2 k3 k4 p1 p2 (OpenCV's radial-tangential polynomial), or None for a pinhole."""

    def __post_init__(self) -> None:
        count = self.world_from_cam.shape[0]
        _require("cameras.world_from_cam", self.world_from_cam, (count, 4, 4))
        _require("cameras.K", self.K, (count, 3, 3))
        _require("cameras.sizes", self.sizes, (count, 2))
        if self.distortion is not None:
            _require("cameras.distortion", self.distortion, (count, 6))
        rotation = self.world_from_cam[:, :3, :3].double()
        identity = torch.eye(3, dtype=torch.float64, device=rotation.device)
        error = (rotation @ rotation.mT - identity).abs().amax(dim=(1, 2))
        determinant = torch.linalg.det(rotation)
        for index in range(count):
            if error[index] > _ROTATION_TOLERANCE:
                raise InputError(
                    f"cameras.world_from_cam[{index}]",
                    "rotation part is not orthonormal",
                    "expected a rigid transform without scale or shear",
                )
            if determinant[index] < 0:
                raise InputError(
                    f"cameras.world_from_cam[{index}]",
                    "rotation part is mirrored (determinant -1)",
                    "expected a proper rotation (determinant +1)",
                )
            if min(float(self.K[index, 0, 0]), float(self.K[index, 1, 1])) <= 0:
                raise InputError(
                    f"cameras.K[{index}]", self.K[index].tolist(), "expected positive focal lengths"
                )

    def __len__(self) -> int:
        return self.world_from_cam.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The chosen cameras, always as a batch (an int gives one camera, V = 1)."""
        chosen = [index] if isinstance(index, int) else index
        return Cameras(
            world_from_cam=self.world_from_cam[chosen],
            K=self.K[chosen],
            sizes=self.sizes[chosen],
            distortion=None if self.distortion is None else self.distortion[chosen],
        )

    @property
    def cam_from_world(self) -> Tensor:
        """[V, 4, 4] the inverse of `world_from_cam`, exact for rigid transforms."""
        rotation = self.world_from_cam[:, :3, :3]
        inverse = torch.zeros_like(self.world_from_cam)
        inverse[:, :3, :3] = rotation.mT
        inverse[:, :3, 3:] = -rotation.mT @ self.world_from_cam[:, :3, 3:]
        inverse[:, 3, 3] = 1
        return inverse

    @property
    def centers(self) -> Tensor:
        """[V, 3] camera centres in the world."""
        return self.world_from_cam[:, :3, 3]

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras for images resampled to `height` x `width`."""
        scale_y = height / self.sizes[:, 0].to(self.K.dtype)
        scale_x = width / self.sizes[:, 1].to(self.K.dtype)
        K = self.K.clone()
        K[:, 0] *= scale_x[:, None]
        K[:, 1] *= scale_y[:, None]
        sizes = torch.tensor([[height, width]], device=self.sizes.device).expand(len(self), 2)
        return replace(self, K=K, sizes=sizes.clone())

    def to(self, target: torch.device | str | torch.dtype) -> Cameras:
        """Moved to a device, or the float tensors cast to a dtype."""
        sizes = self.sizes if isinstance(target, torch.dtype) else self.sizes.to(target)
        return Cameras(
            world_from_cam=self.world_from_cam.to(target),
            K=self.K.to(target),
            sizes=sizes,
            distortion=None if self.distortion is None else self.distortion.to(target),
        )


@dataclass(frozen=True, kw_only=True)
class Views:
    """V images of one object, some observed, the others asked for or generated.

    Unobserved views that are still unknown hold zeros. Raises `InputError` for shapes that do not fit.
    """

    images: Tensor
    """[V, 3, H, W] float in [0, 1]."""
    masks: Tensor | None = None
    """[V, 1, H, W] float in [0, 1], 1 = object; None where unknown."""
    cameras: Cameras | None = None
    """V cameras of the images' size, or None where unknown."""
    observed: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """bool [V]; all observed when not given."""
    depths: Tensor | None = None
    """[V, 1, H, W] float, distance along the camera's z axis in world units, 0 = unknown."""
    names: tuple[str, ...] = ()
    """One name a view (file stem), or empty."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise InputError("views.images", tuple(self.images.shape), "expected [V, 3, H, W]")
        count, _, height, width = self.images.shape
        if self.observed.numel() == 0:
            everything = torch.ones(count, dtype=torch.bool, device=self.images.device)
            object.__setattr__(self, "observed", everything)
        _require("views.observed", self.observed, (count,))
        for name, value in (("masks", self.masks), ("depths", self.depths)):
            if value is not None:
                _require(f"views.{name}", value, (count, 1, height, width))
        if self.cameras is not None and len(self.cameras) != count:
            raise InputError("views.cameras", len(self.cameras), f"expected {count} cameras")
        if self.names and len(self.names) != count:
            raise InputError("views.names", len(self.names), f"expected {count} names or none")

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Views:
        """The chosen views, always as a batch."""
        chosen = [index] if isinstance(index, int) else index
        order = torch.arange(len(self))[chosen].tolist()
        return Views(
            images=self.images[order],
            masks=None if self.masks is None else self.masks[order],
            cameras=None if self.cameras is None else self.cameras[order],
            observed=self.observed[order],
            depths=None if self.depths is None else self.depths[order],
            names=tuple(self.names[i] for i in order) if self.names else (),
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def over(self, background: float = 1.0) -> Tensor:
        """[V, 3, H, W] the images composited over a grey level where masks are known.

        `images` hold straight (not premultiplied) colour.
        """
        if self.masks is None:
            return self.images
        return self.images * self.masks + background * (1 - self.masks)


def join_cameras(parts: Sequence[Cameras]) -> Cameras:
    """All cameras as one batch, in order; pinholes among distorted ones get zeros for their distortion."""
    bends = None
    if any(part.distortion is not None for part in parts):
        bends = torch.cat(
            [part.K.new_zeros(len(part), 6) if part.distortion is None else part.distortion for part in parts]
        )
    return Cameras(
        world_from_cam=torch.cat([part.world_from_cam for part in parts]),
        K=torch.cat([part.K for part in parts]),
        sizes=torch.cat([part.sizes for part in parts]),
        distortion=bends,
    )


def _require(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise InputError(name, tuple(value.shape), f"expected shape {list(shape)}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise InputError(name, "holds NaN or infinity", "expected finite numbers")
