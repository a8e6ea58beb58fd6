"""Codes of one object at asked yaws: how far to turn, found by measuring what turning does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.generator import CodeGenerator
from manyview.methods.refiner.model import CodeRefiner, refine
from manyview.methods.refiner.pose import PoseEstimator
from manyview.sampling.noise import item_noise

REACH = 4.0
"""Deviations to either side beyond which no direction is followed."""
_GRID, _ROUNDS = 17, 2
_AT_ONCE = 16
_NOISE = 0x737770


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Codes at asked yaws. V of them."""

    codes: Tensor
    """[V, L, D]."""
    amounts: Tensor
    """[V] how far they were turned, in deviations."""
    yaw_deg: Tensor
    """[V] measured against the source."""


@dataclass(frozen=True)
class Turner:
    """Turns one code, and corrects what it turned where there is a refiner."""

    generator: CodeGenerator
    basis: SweepBasis
    pose: PoseEstimator
    code: Tensor
    """[1, L, D]."""
    refiner: CodeRefiner | None = None
    num_steps: int = 1
    level: int = 0
    """Of the noise that refining begins with, 0 to 999."""
    seed: int = 0

    @torch.no_grad()
    def turn(self, amounts: Tensor) -> Tensor:
        """[V, L, D] codes of amounts [V]; what is not turned stays what it is."""
        device = self.code.device
        amounts = amounts.to(device)
        parts = []
        source = self.pictures(self.code)
        for part in amounts.split(_AT_ONCE):
            code = self.code.expand(len(part), -1, -1)
            edited = self.basis.edit(code, part.to(code))
            if self.refiner is not None:
                vector = self.pose(source.expand(len(part), -1, -1, -1), self.pictures(edited)).float()
                noise = None
                if self.level > 0:
                    # The same for all views of an object, which are not to differ by it.
                    drawn = item_noise(self.seed, [0], tuple(code.shape[1:]), stream=_NOISE)
                    noise = drawn.to(code).expand(len(part), -1, -1)
                edited = refine(
                    self.refiner, code, edited, vector, steps=self.num_steps, level=self.level, noise=noise
                )
            parts.append(torch.where((part == 0)[:, None, None], code, edited.float()))
        return torch.cat(parts)

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> Tensor:
        """[V, 3, R, R] in [0, 1]."""
        return torch.cat([self.generator(part).clamp(0, 1).float() for part in codes.split(_AT_ONCE)])

    @torch.no_grad()
    def vectors(self, codes: Tensor) -> Tensor:
        """[V, 6] turns and shifts of codes [V, L, D] against the source, as the pose network finds them."""
        source = self.pictures(self.code)
        return torch.cat(
            [
                self.pose(source.expand(len(part), -1, -1, -1), self.pictures(part)).float()
                for part in codes.split(_AT_ONCE)
            ]
        )

    def yaw_deg(self, codes: Tensor) -> Tensor:
        """[V] degrees against the source."""
        return self.pose.yaw_deg(self.vectors(codes)).cpu()

    def sweep(self, targets_deg: Sequence[float]) -> Sweep:
        """Codes whose yaw against the source is as near to each target as the direction gets."""
        amounts, found = match_yaws(lambda x: self.yaw_deg(self.turn(x)), targets_deg)
        return Sweep(codes=self.turn(amounts), amounts=amounts, yaw_deg=found)


def match_yaws(
    measure: Callable[[Tensor], Tensor],
    targets_deg: Sequence[float],
    *,
    reach: float = REACH,
    grid: int = _GRID,
    rounds: int = _ROUNDS,
) -> tuple[Tensor, Tensor]:
    """Amounts [V] under which `measure` (amounts [N] to degrees [N]) is nearest to the targets, and what it
    is there.

    An even grid over +-`reach` shows between which amounts a target is crossed, the crossing nearest to no
    turn is cut in proportion, and again between the nearest amounts known, `rounds` times. A target that is
    not crossed gets the amount nearest to it. A target of 0 is not turned. Raises `InputError` for no targets
    and for measures that are not finite.
    """
    targets = [float(target) for target in targets_deg]
    if not targets:
        raise InputError("targets", "none", "expected one or more yaws")
    known_amounts = torch.linspace(-reach, reach, grid, dtype=torch.float64)
    known = _finite(measure(known_amounts.float()))
    amounts = torch.tensor([_cut(known_amounts, known, target) for target in targets], dtype=torch.float64)
    found = _finite(measure(amounts.float()))
    best_amounts, best = amounts.clone(), found.clone()
    wanted = torch.tensor(targets, dtype=torch.float64)
    for _ in range(rounds):
        for place, target in enumerate(targets):
            all_amounts = torch.cat([known_amounts, amounts[place : place + 1]])
            all_found = torch.cat([known, found[place : place + 1]])
            order = all_amounts.argsort()
            amounts[place] = _cut(all_amounts[order], all_found[order], target)
        found = _finite(measure(amounts.float()))
        better = (found - wanted).abs() < (best - wanted).abs()
        best_amounts, best = torch.where(better, amounts, best_amounts), torch.where(better, found, best)
    still = wanted.abs() < 1e-6
    return torch.where(still, 0.0, best_amounts).float(), torch.where(still, 0.0, best).float()


def _cut(amounts: Tensor, found: Tensor, target: float) -> float:
    """Where a broken line through (amounts, found) crosses the target, nearest to 0; else the best corner."""
    off = found - target
    crossed = (off[:-1] * off[1:] <= 0).nonzero()[:, 0]
    places = []
    for index in crossed.tolist():
        first, second = float(off[index]), float(off[index + 1])
        share = 0.5 if first == second else first / (first - second)
        places.append(float(amounts[index]) + share * float(amounts[index + 1] - amounts[index]))
    return min(places, key=abs) if places else float(amounts[off.abs().argmin()])


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise InputError("yaw", "is NaN or infinite", "expected a measure that is finite everywhere")
    return values.double().cpu()
