"""What converting a foreign checkpoint means, for every method that can. Loads no torch.

A method's converter is an object with the two functions of `Converter`, listed in `manyview.methods`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class PartSurvey:
    """How the keys of a checkpoint meet one of a method's networks. All names are the checkpoint's."""

    matched: int
    """Tensors with a place of the right shape."""
    passed_over: tuple[str, ...] = ()
    """Known tensors that nothing here reads."""
    unknown: tuple[str, ...] = ()
    """Tensors without a place."""
    missing: tuple[str, ...] = ()
    """Places without a tensor."""
    misshapen: tuple[str, ...] = ()
    """Tensors of another shape, with both shapes."""

    @property
    def fits(self) -> bool:
        """Whether it can be converted."""
        return not (self.unknown or self.missing or self.misshapen)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a checkpoint holds of a method."""

    parts: Mapping[str, PartSurvey] = field(default_factory=dict)
    """By the name of the method's component."""

    @property
    def fits(self) -> bool:
        """Whether every part that was found can be converted."""
        return all(part.fits for part in self.parts.values())


class Converter(Protocol):
    """Reads one method's foreign checkpoints."""

    def survey(self, paths: Sequence[str | os.PathLike[str]]) -> Survey:
        """How the files' keys meet the method's networks; nothing is written. Raises `InputError` for files
        that cannot be read as weights alone, and where they hold nothing of the method."""
        ...

    def convert(
        self,
        paths: Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        *,
        codec: str | os.PathLike[str] | None = None,
        licence: str = "unknown",
        force: bool = False,
    ) -> dict[str, Path]:
        """Write the weights as a bundle `out`, all or nothing; the folder of each component.

        `codec`: a folder with the image codec the weights go with (diffusers' layout), which the bundle then
        holds too. Raises `InputError` as `survey`, and for what does not fit.
        """
        ...
