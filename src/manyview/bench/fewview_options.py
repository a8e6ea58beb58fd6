"""What a `fewview` run asks and how. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError
from manyview.methods.sparsefusion.distill_options import DistillOptions

COUNTS = (2, 3, 6)
NUM_SCORED = 8
RAY_ROWS = 64
HEADLINE = "sparsefusion"
REGRESSOR = "pixelnerf"
BASELINES = ("copy_nearest", "mean_of_inputs", "field_fit", "splats_fit")
NAMES = (HEADLINE, "eft", "vldm", REGRESSOR, *BASELINES)
MOST_INPUTS = 8


@dataclass(frozen=True, kw_only=True)
class FewviewOptions:
    """What is asked of whom. What is None of the method's own options is as recorded with the weights."""

    counts: Sequence[int] = COUNTS
    """Numbers of inputs, ascending."""
    num_scored: int | None = NUM_SCORED
    """Frames scored an object; None for all that are left."""
    only: Sequence[str] | None = None
    """Rows that are wanted, of `NAMES`; all when None."""
    ray_rows: int = RAY_ROWS
    """Rays a side of the pictures of EFT and regressor, then brought to the views' size linearly."""
    num_steps: int | None = None
    """Of the diffusion model alone, like the next two."""
    solver: Literal["ddim", "plms"] | None = None
    guidance: float | None = None
    distill: DistillOptions | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for what the protocol cannot ask for."""
        counts = list(self.counts)
        if not counts or counts != sorted(set(counts)) or not 1 <= counts[0] <= counts[-1] <= MOST_INPUTS:
            line = f"expected different numbers from 1 to {MOST_INPUTS}, ascending"
            raise InputError("--inputs", tuple(counts), line)
        if self.num_scored is not None and self.num_scored < 1:
            raise InputError("--scored", self.num_scored, "expected at least 1")
        unknown = [name for name in self.only or () if name not in NAMES]
        if unknown or (self.only is not None and not self.only):
            raise InputError("--only", ", ".join(unknown), f"expected some of {', '.join(NAMES)}")
        if not 1 <= self.ray_rows <= 4096:
            raise InputError("--rows", self.ray_rows, "expected 1 to 4096")
        if self.num_steps is not None and not 1 <= self.num_steps <= 1000:
            raise InputError("--steps", self.num_steps, "expected 1 to 1000")
        if self.solver not in (None, "ddim", "plms"):
            raise InputError("--solver", self.solver, "expected ddim or plms")
        if self.guidance is not None and not self.guidance >= 0:
            raise InputError("--guidance", self.guidance, "expected a number of at least 0")
        if self.distill is not None:
            self.distill.check()

    def wants(self, name: str) -> bool:
        """Whether a row is wanted."""
        return self.only is None or name in self.only
