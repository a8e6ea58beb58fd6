"""What a `yaw` run asks and how. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manyview.errors import InputError

PROTOCOL = "yaw"
HEADLINE, GANSPACE, DRAG = "refiner", "ganspace", "drag"
ABLATIONS = ("no_warp", "no_latent", "no_feature", "no_guard")
"""Refiners trained without one of the losses (the paper's table 5, and the guard, which is ours)."""
NAMES = (HEADLINE, GANSPACE, *ABLATIONS, DRAG)
ZONES: dict[str, float | None] = {"20": 20.0, "40": 40.0, "full": None}
"""Ranges of yaw, degrees to either side; None for all."""
TARGETS_DEG = (-60.0, -50.0, -40.0, -30.0, -20.0, -10.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class YawOptions:
    """What is asked of whom."""

    num_sources: int = 100
    """Codes that are turned."""
    targets_deg: Sequence[float] = TARGETS_DEG
    """Yaws against the source, as the yaw network measures them."""
    tolerance_deg: float = 1.0
    """A view counts for a target if its measured yaw is as near; two rows' views of one target are then
    within twice that of each other."""
    frontal_deg: float = 15.0
    """Codes count as sources if their own measured yaw is at most this."""
    truncation: float | None = None
    """Of the codes; that of the training when None."""
    only: Sequence[str] | None = None
    """Rows that are wanted, of `NAMES`; all that there are weights for when None."""
    ablations: Mapping[str, Path] = field(default_factory=dict)
    """Name of a row without one loss -> folder of its refiner."""
    num_dragged: int = 12
    """Sources that the dragging baseline is asked about: it descends anew for every view."""
    drag_steps: int = 60
    num_steps: int | None = None
    """Of refining; that recorded with the weights when None."""
    resamples: int = 100
    """Of whole sources, for the intervals of the distances between distributions."""
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for what the protocol cannot ask for."""
        unknown = [name for name in self.only or () if name not in NAMES]
        if unknown or (self.only is not None and not self.only):
            raise InputError("--only", ", ".join(unknown), f"expected some of {', '.join(NAMES)}")
        for name in self.ablations:
            if name not in ABLATIONS:
                raise InputError("--ablations", name, f"expected some of {', '.join(ABLATIONS)}")
        if not 2 <= self.num_sources <= 100_000:
            raise InputError("--limit", self.num_sources, "expected 2 to 100000 sources")
        if not self.targets_deg or not all(0 < abs(target) <= 180 for target in self.targets_deg):
            raise InputError("targets", tuple(self.targets_deg), "expected yaws other than 0, up to 180")
        if self.num_steps is not None and not 1 <= self.num_steps <= 1000:
            raise InputError("--steps", self.num_steps, "expected 1 to 1000")

    def wants(self, name: str) -> bool:
        """Whether a row is wanted."""
        return self.only is None or name in self.only


def parse_ablations(words: Sequence[str]) -> dict[str, Path]:
    """`no_warp=FOLDER` and so on. Raises `InputError` for anything else and for folders without a refiner."""
    found = {}
    for word in words:
        name, mark, place = word.partition("=")
        if not mark or name not in ABLATIONS:
            line = f"expected {', '.join(f'{one}=FOLDER' for one in ABLATIONS)}"
            raise InputError("--ablations", word, line)
        if not (Path(place) / "refiner" / "config.json").is_file():
            raise InputError("--ablations", word, "expected the export of the stage refiner")
        found[name] = Path(place) / "refiner"
    return found
