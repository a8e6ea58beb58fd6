"""Features of points in the unit cube: multiresolution hash and tiled grids, a dense grid, three planes.

Every encoding takes points [N, 3] in [0, 1] and gives [N, num_features]; points outside get zeros.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyview.errors import InputError
from manyview.lift.field import kernel_encoding as kernels
from manyview.lift.field.lookup import corner_weights
from manyview.lift.field.marching import Backend, num_workers, run_blocks

_ROUND_ROWS = 8
_PRIMES = (1, 2654435761, 805459861)


class MultiresGrid(nn.Module):
    """Levels of grids, coarse to fine, each with at most 2^log2_size rows (Müller et al. 2022).

    Level l spans base (finest / base)^(l / (levels - 1)) - 1 cells; a point x sits at x cells + 1/2 of it.
    Where a level's corners do not fit into its rows, `hash` spreads them by the xor of their coordinates
    times primes, `tiled` numbers them along x, then y, then z as far as the rows reach, and wraps: an axis
    whose stride exceeds the rows is left out. Both are those of the code SparseFusion builds on; its tables
    can be read.
    The gradient reaches the table, and in the torch form the points.
    """

    offsets: Tensor

    def __init__(
        self,
        kind: Literal["hash", "tiled"],
        *,
        num_levels: int = 16,
        num_channels: int = 2,
        base: int = 16,
        finest: float = 2048,
        log2_size: int = 16,
        backend: Backend = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("hash", "tiled"):
            raise InputError("kind", kind, "expected hash or tiled")
        if num_levels < 1 or num_channels < 1 or base < 2 or finest < base:
            raise InputError(
                "grid", (num_levels, num_channels, base, finest), "expected levels from base to finest"
            )
        self.arguments = {
            "kind": kind,
            "num_levels": num_levels,
            "num_channels": num_channels,
            "base": base,
            "finest": finest,
            "log2_size": log2_size,
        }
        growth = (finest / base) ** (1 / max(1, num_levels - 1))
        exponents = np.arange(num_levels, dtype=np.float32) * np.float32(math.log2(growth))
        scales = (np.exp2(exponents.astype(np.float64)).astype(np.float32) * np.float32(base)) - np.float32(1)
        strides = np.ceil(scales).astype(np.int64) + 2
        sizes = []
        for level in range(num_levels):
            corners = math.ceil(base * growth**level) + 1
            rows = min(2**log2_size, corners**3)
            sizes.append(math.ceil(rows / _ROUND_ROWS) * _ROUND_ROWS)
        self.kind: Literal["hash", "tiled"] = kind
        self.backend: Backend = backend
        self.scales, self.strides = scales, strides
        self.hashed = np.array(
            [kind == "hash" and s**3 > rows for s, rows in zip(strides, sizes, strict=True)]
        )
        self.register_buffer("offsets", torch.tensor([0, *np.cumsum(sizes)]), persistent=False)
        self.num_features = num_levels * num_channels
        table = torch.empty(int(sum(sizes)), num_channels)
        self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))

    def forward(self, points: Tensor) -> Tensor:
        """[N, levels x channels], the channels of a level together, coarse levels first."""
        fits = points.device.type == "cpu" and self.table.dtype == torch.float32 and not points.requires_grad
        if self.backend == "cpu" and not fits:
            raise InputError("backend", "cpu", "expected float32 points on the CPU that need no gradient")
        if fits and self.backend != "torch":
            encoded = _Encode.apply(self.table, points.float(), self)
            assert isinstance(encoded, Tensor), "autograd functions of one output give a tensor"
            return encoded
        return self._encode_in_torch(points.to(self.table.dtype))

    def _encode_in_torch(self, points: Tensor) -> Tensor:
        within = ((points >= 0) & (points <= 1)).all(dim=1)
        offsets = self.offsets.tolist()
        parts = []
        for level, (scale, stride) in enumerate(zip(self.scales, self.strides, strict=True)):
            size = offsets[level + 1] - offsets[level]
            places = points * float(scale) + 0.5
            cell = places.detach().floor()
            part, cell = places - cell, cell.long()
            rows, weights = [], []
            for corner in range(8):
                shift = [corner & 1, (corner >> 1) & 1, corner >> 2]
                where = cell + torch.tensor(shift, device=cell.device)
                sides = [part[:, axis] if shift[axis] else 1 - part[:, axis] for axis in range(3)]
                rows.append(offsets[level] + self._row(where, int(stride), size, bool(self.hashed[level])))
                weights.append(sides[0] * sides[1] * sides[2])
            weight = torch.stack(weights, dim=1) * within[:, None]
            # Rows of points outside mean nothing and have weight 0.
            row = torch.where(within[:, None], torch.stack(rows, dim=1), 0)
            parts.append(functional.embedding_bag(row, self.table, per_sample_weights=weight, mode="sum"))
        return torch.cat(parts, dim=1)

    @staticmethod
    def _row(where: Tensor, stride: int, size: int, hashed: bool) -> Tensor:
        if hashed:
            mixed = torch.zeros_like(where[:, 0])
            for axis, prime in enumerate(_PRIMES):
                mixed = mixed ^ (where[:, axis] * prime & 0xFFFFFFFF)
            return mixed % size
        row, reach = where[:, 0], stride
        for axis in (1, 2):
            if reach <= size:
                row = row + where[:, axis] * reach
            reach *= stride
        return row % size


class DenseGrid(nn.Module):
    """One grid of `resolution` cubed nodes, read with `embedding_bag`."""

    def __init__(
        self, resolution: int = 64, num_features: int = 16, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.resolution, self.num_features = resolution, num_features
        self.arguments = {"resolution": resolution, "num_features": num_features}
        table = torch.empty(resolution**3, num_features)
        self.table = nn.Parameter(table.uniform_(-1e-2, 1e-2, generator=generator))

    def forward(self, points: Tensor) -> Tensor:
        """[N, num_features]"""
        places = points.to(self.table.dtype) * (self.resolution - 1)
        rows, weights = corner_weights(places, (self.resolution, self.resolution, self.resolution))
        within = ((points >= 0) & (points <= 1)).all(dim=1)
        weights = weights * within[:, None]
        return functional.embedding_bag(rows, self.table, per_sample_weights=weights, mode="sum")


class Triplane(nn.Module):
    """Three feature planes, their values multiplied (Fridovich-Keil et al. 2023): a point needs all three."""

    def __init__(
        self, resolution: int = 128, num_features: int = 16, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.arguments = {"resolution": resolution, "num_features": num_features}
        planes = torch.empty(3, num_features, resolution, resolution)
        self.planes = nn.Parameter(planes.uniform_(0.1, 0.5, generator=generator))

    def forward(self, points: Tensor) -> Tensor:
        """[N, num_features]"""
        place = points.to(self.planes.dtype) * 2 - 1
        pairs = torch.stack((place[:, [0, 1]], place[:, [1, 2]], place[:, [2, 0]]))
        values = functional.grid_sample(
            self.planes, pairs[:, None], padding_mode="border", align_corners=True
        )
        within = ((points >= 0) & (points <= 1)).all(dim=1)
        return values[:, :, 0].prod(dim=0).mT * within[:, None]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table, points, grid):
        where = points.detach().contiguous().numpy()
        values = table.detach().contiguous().numpy()
        levels = (grid.offsets.cpu().numpy(), grid.scales, grid.strides, grid.hashed)
        out = np.empty((len(where), grid.num_features), np.float32)
        run_blocks(len(where), lambda a, b: kernels.encode(a, b, where, values, *levels, out), block=4096)
        ctx.kept = (where, levels, values.shape)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        where, levels, shape = ctx.kept
        total, slopes = np.zeros(shape, np.float32), g.contiguous().numpy()

        def add(start: int, stop: int) -> None:
            for level in range(start, stop):
                kernels.add_table_slopes(level, where, slopes, *levels, total)

        run_blocks(len(levels[1]), add, block=1 if num_workers() > 1 else len(levels[1]))
        return torch.from_numpy(total), None, None
