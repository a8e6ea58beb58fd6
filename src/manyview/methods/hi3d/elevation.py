"""The elevation of the camera above the horizon: given, told by a small network, or found by trying.

All in degrees; positive looks down on the object. Networks and sweeps stay within what Hi3D trains on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.framing import composite_over, frame_by_mask
from manyview.nets.strided import halving_convolutions

LOWEST_DEG, HIGHEST_DEG = -10.0, 40.0
_MIDDLE, _REACH = 15.0, 25.0
_FILL = 0.9
"""The network sees outlines at this share of its picture, whatever the photo's framing: how large an object
appears must not tell it the elevation, for a photo's scale is made up."""
_LARGEST_SPREAD = 4.0


@dataclass(frozen=True, kw_only=True)
class Elevation:
    """An elevation and how it was come by."""

    degrees: float
    source: Literal["given", "camera", "estimated", "swept"]
    spread_deg: float | None = None
    """Error that the network expects on average."""
    scores: dict[float, float] = field(default_factory=dict)
    """Of a sweep: candidate -> score, lower is better."""


class ElevationNet(ModelMixin, ConfigMixin):
    """A few convolutions from a framed object to the centre and spread of a Laplace distribution."""

    @register_to_config
    def __init__(self, size: int = 64, widths: Sequence[int] = (24, 40, 56, 72), hidden: int = 64) -> None:
        """`widths`: channels at 1/2, 1/4, ... of the size, multiples of 8."""
        super().__init__()
        if size % 2 ** len(widths):
            raise InputError("size", size, f"expected a multiple of {2 ** len(widths)}")
        self.convolutions = halving_convolutions(widths)
        # Where in the picture something is matters, so places are not averaged away.
        cells = (size // 2 ** len(widths)) ** 2
        self.enter = nn.Linear(widths[-1] * cells, hidden)
        self.leave = nn.Linear(hidden, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centres [B] in degrees and logarithms of the spreads [B], in degrees; images [B, 3, S, S] as
        `frame_outline` gives them."""
        inner = F.silu(self.enter(self.convolutions(images * 2 - 1).flatten(1)))
        center, log_spread = self.leave(inner).float().unbind(dim=-1)
        limited = _LARGEST_SPREAD * torch.tanh(log_spread / _LARGEST_SPREAD)
        return _MIDDLE + _REACH * center, limited + math.log(_REACH / 4)

    @torch.no_grad()
    def estimate(self, image: Tensor, alpha: Tensor) -> Elevation:
        """The elevation from which an object [3, H, W] in [0, 1] with mask [1, H, W] was seen.

        The mean of the picture and its mirror image, which shows the same elevation. Raises `InputError` for
        an empty mask.
        """
        framed = frame_outline(image, alpha, int(self.config["size"]))
        weight = self.leave.weight
        centers, log_spreads = self(torch.stack([framed, framed.flip(-1)]).to(weight))
        degrees = float(centers.mean().clamp(LOWEST_DEG, HIGHEST_DEG))
        return Elevation(degrees=degrees, source="estimated", spread_deg=float(log_spreads.mean().exp()))


def given_elevation(degrees: float, argument: str = "--elevation") -> Elevation:
    """An elevation that the user knows. Raises `InputError` outside -90 to 90."""
    if not math.isfinite(degrees) or not -90 <= degrees <= 90:
        raise InputError(argument, degrees, "expected degrees above the horizon, from -90 to 90")
    return Elevation(degrees=float(degrees), source="given")


def frame_outline(image: Tensor, alpha: Tensor, size: int) -> Tensor:
    """[3, size, size]: the object's outline in the middle, its longer side 0.9 of the picture, over white."""
    framed, cover = frame_by_mask(image, alpha, size, fill=_FILL)
    return composite_over(framed, cover).clamp(0, 1)


def candidate_elevations(around: Elevation | None = None, step_deg: float = 10.0) -> tuple[float, ...]:
    """Elevations to try: -10, 0, ..., 40; or, around an estimate, those within twice its spread, every half
    spread, at most nine."""
    if step_deg <= 0:
        raise InputError("step_deg", step_deg, "expected a positive number of degrees")
    if around is None or not around.spread_deg:
        count = int((HIGHEST_DEG - LOWEST_DEG) / step_deg + 1e-6) + 1
        return tuple(LOWEST_DEG + step_deg * index for index in range(count))
    wanted = (around.degrees + around.spread_deg * half / 2 for half in range(-4, 5))
    return tuple(sorted({min(max(value, LOWEST_DEG), HIGHEST_DEG) for value in wanted}))


def sweep_elevation(score: Callable[[float], float], candidates: Sequence[float]) -> Elevation:
    """The candidate with the lowest score, moved to the bottom of the parabola through it and its neighbours.

    `score`: elevation in degrees -> a number that is low where the elevation fits, such as the error with
    which the first stage denoises the input seen at that elevation. Raises `InputError` for no candidates and
    scores that are not finite.
    """
    ordered = sorted(set(candidates))
    if not ordered:
        raise InputError("candidates", "none", "expected one or more elevations")
    scores = {degrees: float(score(degrees)) for degrees in ordered}
    if not all(math.isfinite(value) for value in scores.values()):
        raise InputError("score", scores, "expected finite numbers")
    best = min(range(len(ordered)), key=lambda index: scores[ordered[index]])
    degrees = ordered[best]
    if 0 < best < len(ordered) - 1:
        degrees = _bottom(*((at, scores[at]) for at in ordered[best - 1 : best + 2]))
    return Elevation(degrees=degrees, source="swept", scores=scores)


def _bottom(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> float:
    """Where the parabola through three points, the middle one lowest, is lowest; the middle if it is flat."""
    (x0, y0), (x1, y1), (x2, y2) = left, middle, right
    before, after = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    if after - before <= 0:
        return x1
    # Slopes hold at the middles of the two gaps; between them the slope is straight.
    first, second = (x0 + x1) / 2, (x1 + x2) / 2
    return first - before * (second - first) / (after - before)
