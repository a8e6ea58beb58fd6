"""Gaussians as tensors. Logarithms and logits, so that an optimiser may move them freely."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.io.splat_files import SH_C0, Axes, SplatArrays, read_splats, write_splats

NUM_COEFFICIENTS = (1, 4, 9, 16)
"""Coefficients of spherical harmonics up to degree 0, 1, 2, 3."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Splats:
    """N Gaussians in the world frame. Raises `InputError` for shapes that do not fit together.

    Values are not looked at, so that building one in every step of a fit costs nothing.
    """

    means: Tensor
    """[N, 3] centres."""
    log_scales: Tensor
    """[N, 3] natural logarithm of the standard deviations along the Gaussian's own axes."""
    quaternions: Tensor
    """[N, 4] w x y z of any length but zero: world from the Gaussian's own axes."""
    opacity_logits: Tensor
    """[N] opacity before the sigmoid."""
    sh: Tensor
    """[N, K, 3] colour as real spherical harmonics of the direction from the camera to the Gaussian, K = 1,
    4, 9, 16: colour = 0.5 + sum of coefficient x basis, at least 0. Basis and order as in `.ply` files."""

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        shapes = {"means": (count, 3), "log_scales": (count, 3), "quaternions": (count, 4)}
        for name, shape in {**shapes, "opacity_logits": (count,)}.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(
                    f"splats.{name}", tuple(getattr(self, name).shape), f"expected {list(shape)}"
                )
        given = tuple(self.sh.shape)
        if len(given) != 3 or given[0] != count or given[1] not in NUM_COEFFICIENTS or given[2] != 3:
            raise InputError("splats.sh", given, f"expected [{count}, 1 or 4 or 9 or 16, 3]")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return NUM_COEFFICIENTS.index(self.sh.shape[1])

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations."""
        return torch.exp(self.log_scales)

    def tensors(self) -> dict[str, Tensor]:
        """The five tensors by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def __getitem__(self, index: slice | Tensor) -> Splats:
        """The chosen Gaussians (a slice, indices, or a bool mask)."""
        return Splats(**{name: value[index] for name, value in self.tensors().items()})

    def to(self, target: torch.device | str | torch.dtype) -> Splats:
        """Moved to a device, or cast to a dtype."""
        return Splats(**{name: value.to(target) for name, value in self.tensors().items()})

    def detached(self) -> Splats:
        """The same values, without a gradient."""
        return Splats(**{name: value.detach() for name, value in self.tensors().items()})

    def with_degree(self, degree: int) -> Splats:
        """The same Gaussians with colour of another degree: higher coefficients dropped, or zero."""
        if not 0 <= degree <= 3:
            raise InputError("degree", degree, "expected 0 to 3")
        count = NUM_COEFFICIENTS[degree]
        kept = self.sh[:, :count]
        missing = kept.new_zeros(len(self), count - kept.shape[1], 3)
        return replace(self, sh=torch.cat((kept, missing), dim=1))

    def moved(self, similarity: Similarity) -> Splats:
        """The same Gaussians in a world moved, turned and scaled by `similarity`; colours turn along."""
        arrays = self.to_arrays()
        turned = arrays.turned(similarity.rotation.double().cpu().numpy())
        scale = torch.tensor(float(similarity.scale)).log().item()
        result = Splats.from_arrays(turned).to(self.means.device)
        means = similarity.apply_to_points(self.means.detach().float())
        return replace(result, means=means, log_scales=self.log_scales.detach().float() + scale)

    def to_arrays(self) -> SplatArrays:
        """As plain arrays, for files. Raises `InputError` for NaN."""
        return SplatArrays(**{n: v.detach().float().cpu().numpy() for n, v in self.tensors().items()})

    @classmethod
    def from_arrays(cls, arrays: SplatArrays) -> Splats:
        """From plain arrays, as files give them."""
        return cls(
            **{entry.name: torch.from_numpy(getattr(arrays, entry.name).copy()) for entry in fields(cls)}
        )

    @classmethod
    def from_points(
        cls,
        points: Tensor,
        colors: Tensor,
        scales: Tensor | float,
        *,
        opacity: float = 0.1,
        sh_degree: int = 0,
    ) -> Splats:
        """Round Gaussians at `points` [N, 3] with `colors` [N, 3] in [0, 1] seen from everywhere.

        `scales`: standard deviations [N], or one for all, in world units.
        """
        count = len(points)
        sizes = torch.as_tensor(scales, dtype=points.dtype, device=points.device).expand(count)
        quaternions = points.new_zeros(count, 4)
        quaternions[:, 0] = 1
        splats = cls(
            means=points.clone(),
            log_scales=sizes.log()[:, None].repeat(1, 3),
            quaternions=quaternions,
            opacity_logits=points.new_full((count,), opacity).logit(),
            sh=((colors - 0.5) / SH_C0)[:, None],
        )
        return splats.with_degree(sh_degree)

    def write_ply(self, path: str | os.PathLike[str], *, axes: Axes = "world") -> None:
        """Write the `.ply` that splat viewers read. Atomic; see io/splat_files.py for `axes`."""
        if Path(path).suffix.lower() != ".ply":
            raise InputError("path", os.fspath(path), "expected a file name that ends in .ply")
        write_splats(path, self.to_arrays(), axes=axes)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, axes: Axes = "world") -> Splats:
        """From a `.ply`, `.splat` or `.spz` file. Raises `InputError` for a missing or broken one."""
        return cls.from_arrays(read_splats(path, axes=axes))
