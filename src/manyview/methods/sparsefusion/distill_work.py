"""One distillation while it runs, and what comes out; shared by both ways to distil."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.distill_state import Progressed
from manyview.methods.sparsefusion.teacher import Looked
from manyview.methods.sparsefusion.vldm import VldmSolver
from manyview.progress import Progress
from manyview.types import Cameras, Views

STREAMS = {"noise": 31, "time": 32, "rays": 33, "cameras": 34, "fresh": 35}
"""Uses of the seed, apart from each other."""
OnRound = Callable[[int, Volume], object]
"""Called with the rounds that are done and the field."""


class Source(Protocol):
    """What distillation asks of a teacher; `teacher.Teacher` is one."""

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    def frames(self, given: Views) -> Views: ...

    def look(
        self, given: Views, cameras: Cameras, *, rows: int = 32, progress: Progress | None = None
    ) -> Looked: ...

    def draw(
        self,
        features: Tensor,
        noise: Tensor,
        *,
        start: Tensor | None = None,
        t_max: float = 0.99,
        num_steps: int = 50,
        solver: VldmSolver = "ddim",
        guidance: float = 1.0,
        fresh: Callable[[], Tensor] | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class DistillRecord:
    """What a distillation did."""

    rounds: list[dict[str, Any]]
    """A dictionary a round: `t_max`, `steps` of the sampler, `weight` (1 - alpha^2), `apart` (mean absolute
    difference of the pictures to the renders they were made of), `moved` (of the renders to those of the
    round before), `inputs` (mean absolute error on the input views before the round), `lost` (the pictures
    left no surface, so the field stayed as it was), `seconds` so far. Of the published loop: the mean losses
    of up to 100 iterations."""
    seconds: dict[str, float]
    """Wall time by stage: look, warm-up, render, diffusion, field."""
    pictures: dict[str, int]
    """How many pictures the EFT (`eft`) and the diffusion model (`diffusion`) made."""
    stopped_early: bool
    """Whether `stop_below` ended it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """A field in the world of the given cameras."""

    field: Volume
    record: DistillRecord
    cameras: Cameras
    """Where it was distilled from."""


@dataclass
class Work:
    """One distillation while it runs."""

    source: Source
    inputs: Views
    """The given frames at the teacher's resolution over white, with masks."""
    cameras: Cameras
    looked: Looked
    options: DistillOptions
    seed: int
    state: Progressed | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    on_round: OnRound | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the wall time of the block to a stage."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - begin, 3)


def finish(work: Work, state: Progressed, stopped: bool) -> Distilled:
    """The answer, once all rounds are done."""
    drawn = sum(int(entry.get("pictures", 0)) for entry in state.rounds)
    record = DistillRecord(
        rounds=[{k: v for k, v in entry.items() if k != "last"} for entry in state.rounds],
        seconds=dict(work.seconds),
        pictures={"eft": len(work.looked), "diffusion": drawn},
        stopped_early=stopped,
    )
    return Distilled(field=state.field, record=record, cameras=work.cameras)


def cameras_of(views: Views) -> Cameras:
    """Of views that are known to have cameras."""
    assert views.cameras is not None, "frames have cameras"
    return views.cameras
