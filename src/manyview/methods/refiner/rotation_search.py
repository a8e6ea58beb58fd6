"""Which principal direction rotates, on which layers, and which way: searched for, not looked at.

Shapes: N codes, L rows of a code, D numbers a row; images [N, 3, R, R].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.refiner.ganspace import Directions, edit_codes
from manyview.methods.refiner.generator import CodeGenerator

PairScore = Callable[[Tensor, Tensor], Tensor]
"""Two batches of images to one number a pair, [N]."""

_ENOUGH = 0.5
"""Share of the largest rotation found below which a candidate is out: one that hardly does anything keeps the
identity best."""
_FLOOR = 0.01
"""Added to changes of identity, so that noise in a small one does not decide."""


@dataclass(frozen=True)
class RotationEdit:
    """An edit that turns the object, with what it does on average for one deviation."""

    component: int
    layers: tuple[int, int]
    """Rows of the codes it moves: first, and one past the last."""
    sign: int
    """+1 or -1: what an amount is multiplied with, so that positive ones give positive yaw."""
    yaw_per_sigma_deg: float
    """Degrees of yaw for one deviation; NaN where no one measured."""
    identity_change: float
    score: float

    def apply(self, codes: Tensor, directions: Directions, amounts: Tensor | float) -> Tensor:
        """[B, L, D] the codes turned by `amounts` ([B] or one for all) deviations, positive yaw first."""
        return edit_codes(
            codes, directions, self.component, self.sign * torch.as_tensor(amounts), self.layers
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RotationEdit:
        """What `as_dict` gave."""
        return cls(**{**stored, "layers": (int(stored["layers"][0]), int(stored["layers"][1]))})


def default_ranges(num_ws: int) -> list[tuple[int, int]]:
    """Layer ranges worth trying: pose lives in the first layers, so all that start there or soon after."""
    ends = sorted({min(end, num_ws) for end in (2, 4, 6, 8, num_ws)})
    ranges = [(start, end) for start in (0, 1, 2) for end in ends if end - start >= 2]
    return sorted(set(ranges))


def find_rotation(
    generator: CodeGenerator,
    directions: Directions,
    codes: Tensor,
    yaw_deg: PairScore,
    identity_change: PairScore,
    *,
    components: Sequence[int] = range(20),
    layer_ranges: Sequence[tuple[int, int]] | None = None,
    amount: float = 2.0,
    batch_size: int = 16,
) -> tuple[RotationEdit, list[RotationEdit]]:
    """The edit with the largest pose change for the least identity change, and all that were tried, best
    first.

    Each candidate moves the codes [N, L, D] by +-`amount` deviations. `yaw_deg` of (unmoved, moved) is the
    signed turn in degrees, `identity_change` 0 for the same identity. The turn that counts is half the
    difference of the two means over all codes, so that an edit which turns different codes different ways
    gets little. Among those with at least half of the largest turn, the best is that with the most turn for a
    change of identity. Raises `InputError` where nothing turns at all.
    """
    found = []
    with torch.no_grad():
        base = [generator(part) for part in codes.split(batch_size)]
        for component, layers in _candidates(directions, components, layer_ranges, codes.shape[1]):
            turns, changes = [], []
            for way in (1, -1):
                moved = edit_codes(codes, directions, component, way * amount, layers)
                for before, part in zip(base, moved.split(batch_size), strict=True):
                    after = generator(part)
                    turns.append(way * yaw_deg(before, after).float())
                    changes.append(identity_change(before, after).float())
            turn, change = float(torch.cat(turns).mean()), float(torch.cat(changes).mean())
            score = abs(turn) / (change + _FLOOR)
            sign = 1 if turn >= 0 else -1
            found.append(RotationEdit(component, layers, sign, abs(turn) / amount, change, score))
    most = max(edit.yaw_per_sigma_deg for edit in found)
    if not most > 0:
        raise InputError("components", list(components), "none of them turns the object")
    found.sort(key=lambda edit: (edit.yaw_per_sigma_deg < _ENOUGH * most, -edit.score))
    return found[0], found


def find_mirror_rotation(
    generator: CodeGenerator,
    directions: Directions,
    *,
    components: Sequence[int] = range(20),
    layer_ranges: Sequence[tuple[int, int]] | None = None,
    amount: float = 2.0,
) -> tuple[RotationEdit, list[RotationEdit]]:
    """A first guess where no pose network exists yet: the edit whose two ways from the mean code are each
    other's mirror image, and all that were tried, best first.

    Holds for objects that are symmetric and seen from the front on average, as faces and animals are: turning
    them one way or the other gives mirror images, while a change of colour or size gives twice the same
    picture and a change of shape two unlike ones. The score is how much the two ways differ, over how much
    one differs from the mirror image of the other. Which way is positive yaw stays open (`sign` is +1), and
    so do the degrees (NaN).
    """
    found = []
    middle = generator.mean_code()[None]
    with torch.no_grad():
        for component, layers in _candidates(directions, components, layer_ranges, middle.shape[1]):
            steps = torch.tensor([amount, -amount], device=middle.device)
            there, back = generator(edit_codes(middle, directions, component, steps, layers)).clamp(0, 1)
            apart = float((there - back).abs().mean())
            unlike = float((there - back.flip(-1)).abs().mean())
            found.append(RotationEdit(component, layers, 1, math.nan, unlike, apart / (unlike + _FLOOR)))
    if not max(edit.score for edit in found) > 0:
        raise InputError("components", list(components), "none of them changes the image")
    found.sort(key=lambda edit: -edit.score)
    return found[0], found


def _candidates(
    directions: Directions,
    components: Sequence[int],
    layer_ranges: Sequence[tuple[int, int]] | None,
    num_ws: int,
) -> Iterator[tuple[int, tuple[int, int]]]:
    usable = [component for component in components if component < len(directions.vectors)]
    ranges = default_ranges(num_ws) if layer_ranges is None else list(layer_ranges)
    if not usable or not ranges:
        raise InputError("components", list(components), "leaves nothing to try")
    return ((component, layers) for component in usable for layers in ranges)
