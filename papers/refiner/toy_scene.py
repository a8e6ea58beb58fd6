"""A generator of which everything is known: a small differentiable renderer that takes codes as a StyleGAN
does.

Codes w are [D] numbers, an unknown rotation of what they mean: yaw, two nuisances (the tint of the colours,
the length of a horn), and who it is (bumps and the phases of the pattern). In the distribution of the codes
the nuisances go with the yaw, so the principal direction that turns an object also tints it and makes its
horn grow: the entanglement that a refiner has to undo. Rows of W+ are shared out as in a StyleGAN: the first
half says pose and shape, the second colours.

The body is star-shaped about the point PIVOT in front of the camera: distance r(n) in direction n, a ball
with bumps. Depths, poses and nuisances are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry.pixels import pixel_centers
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.methods.refiner.pose import FOCAL, PIVOT
from manyview.sampling.noise import item_noise

YAW, TINT, HORN = 0, 1, 2
NUISANCES = (TINT, HORN)
YAW_DEG = 24.0
"""Degrees that a yaw of 1 stands for."""
_BUMPS = 7
_RADIUS, _EDGE = 0.36, 0.012
_SAMPLES, _SPAN = 14, 0.62


@dataclass(frozen=True)
class Look:
    """What codes look like, and the truth behind it."""

    images: Tensor
    """[B, 3, R, R] in [0, 1] over white."""
    depths: Tensor
    """[B, 1, R, R] along z, 0 where there is nothing."""


class ToyGenerator:
    """Codes [B, L, D] to pictures; a `CodeGenerator` of the refiner."""

    def __init__(self, resolution: int = 64, num_ws: int = 4, w_dim: int = 12, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.resolution, self.num_ws, self.w_dim = resolution, num_ws, w_dim
        self.meaning = torch.linalg.qr(torch.randn(w_dim, w_dim, generator=draws))[0]
        # Deviations and mixing of what codes mean: the nuisances follow the yaw by three quarters.
        mixing = torch.diag(torch.full((w_dim,), 0.45))
        mixing[YAW, YAW] = 1.0
        for nuisance in NUISANCES:
            mixing[nuisance, YAW], mixing[nuisance, nuisance] = 0.75, 0.5
        self.mixing = mixing
        self.centers = F.normalize(torch.randn(_BUMPS, 3, generator=draws), dim=1)
        self.centers[0] = F.normalize(torch.tensor([0.25, -0.55, -0.8]), dim=0)  # the horn: up, at the front
        self.heights = 0.35 * torch.rand(_BUMPS, generator=draws)
        self.waves = 7.0 * torch.randn(3, 6, generator=draws)
        self.phases = 6.28 * torch.rand(6, generator=draws)
        self.colors = torch.randn(6, 3, generator=draws)

    def sample(self, seeds: Sequence[int], truncation: float = 1.0) -> Tensor:
        """[N, L, D], item i from seeds[i] alone."""
        normal = item_noise(0x746F79, list(seeds), (self.w_dim,))
        codes = truncation * (normal @ self.mixing.T) @ self.meaning
        return codes[:, None].repeat(1, self.num_ws, 1)

    def mean_code(self) -> Tensor:
        """[L, D]"""
        return torch.zeros(self.num_ws, self.w_dim)

    def says(self, codes: Tensor) -> Tensor:
        """[B, D] what codes mean: pose and shape by the first half of the rows, colours by the second."""
        half = self.num_ws // 2
        shape, color = codes[:, :half].mean(dim=1), codes[:, half:].mean(dim=1)
        told, painted = shape @ self.meaning.T, color @ self.meaning.T
        which = torch.zeros(self.w_dim)
        which[TINT] = 1
        which[3 + (self.w_dim - 3) // 2 :] = 1
        return torch.where(which > 0, painted, told)

    def yaw_deg(self, codes: Tensor) -> Tensor:
        """[B] the true yaw."""
        return YAW_DEG * self.says(codes)[:, YAW]

    def nuisances(self, codes: Tensor) -> Tensor:
        """[B, 2]"""
        return self.says(codes)[:, list(NUISANCES)]

    def __call__(self, codes: Tensor) -> Tensor:
        return self.render(codes).images

    def features(self, codes: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """Pictures, and what stands for an inner layer: the pictures at `resolution`."""
        images = self(codes)
        return images, F.adaptive_avg_pool2d(images, resolution)

    def render(self, codes: Tensor) -> Look:
        """Pictures and depths; differentiable in the codes."""
        told = self.says(codes)
        size, batch = self.resolution, len(codes)
        rays = pixel_centers(size, size).reshape(-1, 2) - size / 2
        rays = torch.cat([rays / (FOCAL * size), torch.ones(size * size, 1)], dim=1)  # z = 1: t is depth
        turn = torch.deg2rad(YAW_DEG * told[:, YAW])
        axis = torch.stack([torch.zeros_like(turn), turn, torch.zeros_like(turn)], dim=1)
        back = matrix_from_axis_angle(axis).mT  # object from camera
        start = back @ torch.tensor([0.0, 0.0, -PIVOT])
        rays = rays @ back.mT  # [B, P, 3] in the object's frame
        heights = self._heights(told)
        with torch.no_grad():
            middle = -(start[:, None] * rays).sum(dim=-1) / rays.square().sum(dim=-1)
            steps = middle[..., None] + torch.linspace(-_SPAN, _SPAN, _SAMPLES)
            values = torch.stack(
                [self._outside(start, rays, steps[..., k], heights) for k in range(_SAMPLES)], dim=-1
            )
            inside = values <= 0
            first = inside.float().argmax(dim=-1).clamp_min(1)
            low, high = (values.gather(-1, (first + shift)[..., None])[..., 0] for shift in (-1, 0))
            begin, end = (steps.gather(-1, (first + shift)[..., None])[..., 0] for shift in (-1, 0))
            hit = inside.any(dim=-1)
            depth = begin + (end - begin) * (low / (low - high).clamp_min(1e-9)).clamp(0, 1)
            nearest = steps.gather(-1, values.argmin(dim=-1, keepdim=True))[..., 0]
            depth = torch.where(hit, depth, nearest)
            for _ in range(2):
                slope = self._slope(start, rays, depth, heights)
                value = self._outside(start, rays, depth, heights)
                depth = torch.where(hit, depth - (value / slope).clamp(-0.05, 0.05), depth)
            slope = self._slope(start, rays, depth, heights)
        # One more step of Newton's carries the gradient of where the surface is.
        value = self._outside(start, rays, depth, heights)
        depth = torch.where(hit, depth - value / slope, depth)
        cover = torch.sigmoid(-self._outside(start, rays, nearest, heights) / _EDGE)
        colors = self._color(start[:, None] + rays * depth[..., None], told)
        picture = cover[..., None] * colors + 1 - cover[..., None]
        images = picture.transpose(1, 2).reshape(batch, 3, size, size)
        known = (depth * (hit & (cover > 0.5))).reshape(batch, 1, size, size)
        return Look(images=images, depths=known.detach())

    def _heights(self, told: Tensor) -> Tensor:
        """[B, bumps]"""
        count = (self.w_dim - 3) // 2
        own = torch.zeros(len(told), _BUMPS)
        own[:, 1 : 1 + count] = 0.25 * told[:, 3 : 3 + count].tanh()[:, : _BUMPS - 1]
        own[:, 0] = 0.45 + 0.3 * told[:, HORN].tanh()
        return self.heights * torch.tensor([0.0, *[1.0] * (_BUMPS - 1)]) + own

    def _outside(self, start: Tensor, rays: Tensor, depth: Tensor, heights: Tensor) -> Tensor:
        """[B, P] how far points are outside the body along the way from its middle."""
        points = start[:, None] + rays * depth[..., None]
        length = torch.linalg.vector_norm(points, dim=-1).clamp_min(1e-6)
        bumps = torch.exp(7 * (points @ self.centers.T / length[..., None] - 1))
        return length - _RADIUS * (1 + (bumps * heights[:, None]).sum(dim=-1))

    def _slope(self, start: Tensor, rays: Tensor, depth: Tensor, heights: Tensor) -> Tensor:
        ahead = self._outside(start, rays, depth + 1e-3, heights)
        slope = (ahead - self._outside(start, rays, depth - 1e-3, heights)) / 2e-3
        return torch.where(slope.abs() < 0.1, -0.1, slope)

    def _color(self, points: Tensor, told: Tensor) -> Tensor:
        """[B, P, 3] the pattern where the body is, tinted."""
        count = self.w_dim - 3 - (self.w_dim - 3) // 2
        phases = self.phases + F.pad(told[:, -count:], (0, 6 - min(count, 6)))[:, :6]
        pattern = torch.sin(points @ self.waves + phases[:, None]) @ self.colors
        tint = told[:, TINT, None, None] * torch.tensor([0.9, -0.2, -0.7])
        return torch.sigmoid(pattern + tint - 0.4)
