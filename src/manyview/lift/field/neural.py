"""Fields that a small network reads from an encoding, rendered with samples in two rounds."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.lift.field.answers import RayAnswer
from manyview.lift.field.compositing import cube_span, density_weights, resample, trunc_exp
from manyview.lift.field.encodings import DenseGrid, MultiresGrid, Triplane

Encoding = MultiresGrid | DenseGrid | Triplane


@dataclass(frozen=True, kw_only=True)
class NeuralOptions:
    """A neural field in the cube [-bound, bound]^3 about `center`."""

    bound: float = 1.0
    """Half the edge in units of the field (the network's own frame)."""
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Middle of the cube in the world."""
    scale: float = 1.0
    """World units in one unit of the field."""
    width: int = 64
    """Of the hidden layers."""
    num_layers: int = 3
    """Linear layers."""
    blob_density: float = 0.0
    """A bump at the centre added to the logarithm of the density: its height ..."""
    blob_radius: float = 0.2
    """... and its standard deviation, in field units."""
    min_near: float = 0.0
    """No sample comes before this distance, in field units."""
    num_coarse: int = 64
    """Samples spread evenly."""
    num_fine: int = 64
    """Samples drawn where the first ones have weight."""


class NeuralField(nn.Module):
    """Density and colour, the colour the same from all sides (as SparseFusion's)."""

    def __init__(self, encoding: Encoding, options: NeuralOptions) -> None:
        super().__init__()
        self.options = options
        self.encoding = encoding
        sizes = [encoding.num_features, *[options.width] * (options.num_layers - 1), 4]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])

    def query(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] per field unit and colour [N, 3] at `places` [N, 3] in field units."""
        options = self.options
        values = self.network(self.encoding((places + options.bound) / (2 * options.bound)))
        exponent = values[:, 0]
        if options.blob_density:
            squared = (places**2).sum(dim=1)
            exponent = exponent + options.blob_density * torch.exp(-squared / (2 * options.blob_radius**2))
        return trunc_exp(exponent), values[:, 1:].sigmoid()

    def densities(self, points: Tensor) -> Tensor:
        """See `Field.densities`. Zero outside the cube."""
        places = self.to_field(points)
        within = (places.abs() <= self.options.bound).all(dim=1)
        return self.query(places)[0] / self.options.scale * within

    def colors(self, points: Tensor, directions: Tensor) -> Tensor:
        """See `Field.colors`. The directions do not matter."""
        return self.query(self.to_field(points))[1]

    def to_field(self, points: Tensor) -> Tensor:
        """World points in field units."""
        return (points - points.new_tensor(self.options.center)) / self.options.scale

    def render_rays(
        self, origins: Tensor, directions: Tensor, *, background: float = 1.0, jitter: Tensor | None = None
    ) -> RayAnswer:
        """See `Renderable.render_rays`."""
        where = self.to_field(origins).float()
        colors, alphas, depths = self.march(where, directions.float(), jitter)
        colors = colors + background * (1 - alphas)[:, None]
        depths = torch.where(alphas > 1e-3, depths / alphas.clamp_min(1e-3), 0) * self.options.scale
        return RayAnswer(colors=colors, alphas=alphas, depths=depths)

    def march(
        self, origins: Tensor, directions: Tensor, jitter: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Summed colour [N, 3], opacity [N] and distance times opacity [N] of rays in field units.

        Directions may have any length; distances are multiples of them.
        """
        options = self.options
        enter, leave = cube_span(origins, directions, options.bound, options.min_near)
        hit = leave > enter
        enter, leave = torch.where(hit, enter, 0), torch.where(hit, leave, 0)
        extent = ((leave - enter) / options.num_coarse)[:, None]
        at = torch.linspace(0, 1, options.num_coarse, device=enter.device, dtype=enter.dtype)
        t = enter[:, None] + (leave - enter)[:, None] * at
        if jitter is not None:
            t = t + (jitter[:, None] - 0.5) * extent
        density, color = self._query_rays(origins, directions, t)
        if options.num_fine > 0:
            weights = density_weights(density.detach(), _lengths(t, extent))
            middles = (t[:, 1:] + t[:, :-1]) / 2
            fine = resample(middles, weights[:, 1:-1], options.num_fine, jitter)
            fine_density, fine_color = self._query_rays(origins, directions, fine)
            t, order = torch.cat((t, fine), dim=1).sort(dim=1)
            density = torch.cat((density, fine_density), dim=1).gather(1, order)
            color = torch.cat((color, fine_color), dim=1)
            color = color.gather(1, order[..., None].expand(-1, -1, 3))
        weights = density_weights(density, _lengths(t, extent)) * hit[:, None]
        return (weights[..., None] * color).sum(dim=1), weights.sum(dim=1), (weights * t).sum(dim=1)

    def _query_rays(self, origins: Tensor, directions: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None] + t[..., None] * directions[:, None]
        points = points.clamp(-self.options.bound, self.options.bound)
        density, color = self.query(points.reshape(-1, 3))
        return density.reshape(t.shape), color.reshape(*t.shape, 3)


def sparsefusion_field(
    *,
    bound: float = 4.0,
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    seed: int = 0,
) -> NeuralField:
    """SparseFusion's field at its published size: 16 x 2 tiled levels from 16 to 2048 bound, 2^16 rows each,
    three linear layers of width 64, a blob of height 5, 64 + 64 samples.

    With this table the nine finest levels do not depend on z: their stride is past the rows after two axes.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = MultiresGrid("tiled", finest=2048 * bound, log2_size=16, generator=generator)
    options = NeuralOptions(bound=bound, center=center, scale=scale, blob_density=5.0, min_near=0.1)
    return _seeded(grid, options, seed)


def build_field(
    kind: Literal["hash", "tiled", "dense", "triplane"],
    low: tuple[float, ...],
    high: tuple[float, ...],
    resolution: int,
    *,
    seed: int = 0,
) -> NeuralField:
    """A field in the cube about the box low..high, its finest level `resolution` along the edge."""
    generator = torch.Generator().manual_seed(seed)
    center = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    half = max(b - a for a, b in zip(low, high, strict=True)) / 2
    if not half > 0:
        raise InputError("bounds", (tuple(low), tuple(high)), "expected low below high")
    options = NeuralOptions(
        center=(center[0], center[1], center[2]), scale=half, num_coarse=48, num_fine=16, num_layers=2
    )
    if kind == "dense":
        # Rows for all nodes: 128 cubed is what fits in a few hundred megabytes with an optimiser's state.
        return _seeded(DenseGrid(min(resolution, 128), 8, generator=generator), options, seed)
    if kind == "triplane":
        return _seeded(Triplane(resolution, generator=generator), options, seed)
    levels = max(2, round(2 * math.log2(max(2, resolution / 16))) + 1)
    grid = MultiresGrid(
        kind, num_levels=levels, finest=max(17, resolution), log2_size=17, generator=generator
    )
    return _seeded(grid, options, seed)


def _seeded(grid: Encoding, options: NeuralOptions, seed: int) -> NeuralField:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NeuralField(grid, options)


def _lengths(t: Tensor, last: Tensor) -> Tensor:
    """[N, S] from each sample to the next; the last one stands for `last` [N, 1]."""
    return torch.cat((t[:, 1:] - t[:, :-1], last), dim=1)
