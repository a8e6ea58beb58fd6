"""Flags of `manyview synth --method refiner` and what can be said about them before anything loads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.cli.flags import check_range, check_readable
from manyview.errors import InputError

if TYPE_CHECKING:
    from manyview.cli.synth import Options

PREFIX = "gan:"
SWEEP_FLAGS_SHARED = ("--refine", "--mask", "--fill")
"""Flags of hi3d that mean the same here."""
TARGETS = "yaw:-40:40:9"
_TARGETS = "expected yaw:FROM:TO:N in degrees, such as yaw:-40:40:9"


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """Flags of `manyview synth` for refiner alone."""

    truncation: float | None = None
    """refiner: how near to the mean code the drawn one is, 0 to 1; as in training when not given."""
    facing: bool = True
    """refiner: turn the drawn code to the front first; --no-facing leaves it as it was drawn."""
    invert_steps: int = 300
    """refiner: steps in which a photo's code is sought."""
    attribute: Path | None = None
    """refiner: a boundary between codes with and without something (attributes.Boundary.save), over which the
    refined codes are moved."""
    attribute_amount: float = 2.0
    """refiner: how far they are moved."""
    points: bool = True
    """refiner: points.ply, fused from the views' depths."""
    colmap: bool = False
    """refiner: colmap.ply too, from the pictures alone, where pycolmap is installed."""


def check_sweep_flags(options: Options) -> str:
    """The weights that are meant. Raises `InputError` for flags that do not go together."""
    flags = options.sweep
    text = str(options.input)
    if options.input is None:
        raise InputError("INPUT", "not given", f"expected {PREFIX}compact, {PREFIX}WEIGHTS or a photo")
    weights = options.weights
    if text.startswith(PREFIX):
        weights = text.removeprefix(PREFIX)
        if not weights:
            raise InputError("INPUT", text, f"expected {PREFIX}compact or {PREFIX}WEIGHTS")
        if options.weights not in ("compact", weights):
            raise InputError("--weights", options.weights, f"INPUT names others, {weights}")
        for name, value in (("--mask", options.orbit.mask), ("--fill", options.orbit.fill)):
            if value is not None:
                raise InputError(name, str(value), "is for a photo, not for a code")
        if options.products.masks != "auto":
            raise InputError("--masks", options.products.masks, "is for a photo, not for a code")
    else:
        check_readable("INPUT", options.input)
        if flags.truncation is not None:
            raise InputError("--truncation", flags.truncation, "is for a drawn code, not for a photo")
        if not flags.facing:
            raise InputError("--no-facing", "given", "is for a drawn code, not for a photo")
    for name, value in (
        ("--guidance", options.guidance),
        ("--solver", options.solver),
        ("--slots", options.slots),
        ("--split", options.split),
    ):
        if value is not None:
            raise InputError(name, value, "refiner has no such choice")
    if options.samples != 1:
        raise InputError("--samples", options.samples, "refiner draws one; change --seed for another")
    unknown = [product for product in options.products.to if product not in ("mesh", "views")]
    if unknown:
        raise InputError("--to", unknown[0], "refiner makes mesh or views; the sweep's video is always there")
    check_range("--truncation", flags.truncation, 0, 1)
    check_range("--invert-steps", flags.invert_steps, 1, 100_000)
    check_range("--attribute-amount", flags.attribute_amount, -100, 100)
    check_range("--fill", options.orbit.fill, 0.01, 1)
    for name, path in (("--attribute", flags.attribute), ("--mask", options.orbit.mask)):
        if path is not None:
            check_readable(name, path)
    parse_yaws(options.targets or TARGETS)
    return weights


def parse_yaws(text: str) -> list[float]:
    """Degrees of `yaw:FROM:TO:N`. Raises `InputError` for anything else."""
    kind, *parts = text.split(":")
    try:
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        raise InputError("--targets", text, _TARGETS) from None
    in_range = all(math.isfinite(yaw) and -180 <= yaw <= 180 for yaw in (first, last))
    if kind != "yaw" or len(parts) != 3 or not in_range or not 1 <= count <= 1000:
        raise InputError("--targets", text, _TARGETS)
    if count == 1:
        return [first]
    # Rounded, so that a middle that is meant to be 0 is.
    return [round(first + (last - first) * step / (count - 1), 6) for step in range(count)]
