"""What an `orbit16` run asks and how. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manyview.errors import InputError

if TYPE_CHECKING:
    from manyview.lift.reconstruction import ReconstructOptions

HEADLINE = "hi3d"
COARSE = "coarse_bicubic"
UPSCALED = "coarse_swin2sr"
NO_DEPTH = "no_depth"
OPPONENT = "one2one"
BASELINES = ("copy_input", "mean_of_truth")
NAMES = (HEADLINE, COARSE, UPSCALED, NO_DEPTH, OPPONENT, *BASELINES)
SAMPLED = (HEADLINE, COARSE)
"""Rows of which several samples are drawn where several are asked for; the others are drawn once."""
MESH_COUNTS = (0, 16, 32, 48)
"""Interpolated views of the paper's table of meshes."""
BEST_MESH = 16
"""The paper's choice among them, which the other mesh rows are compared with."""
NUM_AZIMUTHS = 16


@dataclass(frozen=True, kw_only=True)
class Orbit16Options:
    """What is asked of whom. What is None of the method's own options is as recorded with the weights."""

    num_inputs: int = 1
    """Views of an object that are the input, one after the other: as many orbits are asked for."""
    only: Sequence[str] | None = None
    """Rows that are wanted, of `NAMES`; all when None."""
    meshes: Sequence[int] = ()
    """Numbers of interpolated views with which a mesh is made of the final orbit, each a row."""
    reconstruct: ReconstructOptions | None = None
    """How the meshes are made, with its defaults when None; what it says of kind and interpolation is not
    used."""
    num_samples: int = 1
    """Orbits drawn for a question by the rows in `SAMPLED`. The first is scored as every other row's; the
    mean of all and their deviation are reported beside it."""
    num_steps: int | None = None
    guidance: float | tuple[float, float] | None = None
    """Highest guidance of a frame, or that of frame 0 and the highest."""
    guidance_shape: Literal["linear", "triangular", "constant"] | None = None
    refine_steps: int | None = None
    refine_guidance: float | tuple[float, float] | None = None
    upscaler: str | None = None
    """Folder or hub id of the network that enlarges the coarse orbit in the row `coarse_swin2sr`."""
    one2one_steps: int = 50
    one2one_guidance: float | None = None
    """That recorded with its weights for one reference when None, else 1."""
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for what the protocol cannot ask for."""
        if not 1 <= self.num_inputs <= NUM_AZIMUTHS:
            raise InputError("--inputs", self.num_inputs, f"expected one number from 1 to {NUM_AZIMUTHS}")
        unknown = [name for name in self.only or () if name not in NAMES]
        if unknown:
            raise InputError("--only", ", ".join(unknown), f"expected some of {', '.join(NAMES)}")
        if self.only is not None and not self.only and not self.meshes:
            raise InputError("--only", "", "expected some rows, or some --meshes")
        counts = list(self.meshes)
        if counts != sorted(set(counts)) or not all(0 <= count <= 1000 for count in counts):
            line = "expected different numbers from 0 to 1000, ascending"
            raise InputError("--meshes", tuple(counts), line)
        if not 1 <= self.num_samples <= 1000:
            raise InputError("--samples", self.num_samples, "expected 1 to 1000")
        for name, steps in (("--steps", self.num_steps), ("--refine-steps", self.refine_steps)):
            if steps is not None and not 1 <= steps <= 1000:
                raise InputError(name, steps, "expected 1 to 1000")

    def wants(self, name: str) -> bool:
        """Whether a row is wanted."""
        return self.only is None or name in self.only

    def samples_of(self, name: str) -> int:
        """Samples that a row draws."""
        return self.num_samples if name in SAMPLED else 1


def mesh_name(count: int) -> str:
    """The row of the mesh with so many interpolated views."""
    return f"mesh_{count}"
