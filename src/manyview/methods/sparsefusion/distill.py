"""Distillation: the field that the input views, the EFT and the diffusion model agree on (Zhou and Tulsiani
2023, section 3.3).

The published loop takes one step on an input view and one on a picture that the diffusion model made of the
field's own render, thousands of times. By default the same objective is met in rounds, which suits a CPU: a
round renders all distillation cameras, noises the renders to the round's t_max, denoises them together, and
then takes some hundred steps of the field on rays of those pictures and of the input views, the pictures
weighed by 1 - alpha^2 at t_max. So pictures are renewed every round instead of every step; nothing else in
the objective differs, but that it is compared ray by ray and so has no perceptual term.
`targets_per_round=1` is the published loop (iterations.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from manyview.errors import InputError
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.distill_state import Checkpoints, fingerprint
from manyview.methods.sparsefusion.distill_work import (
    Distilled,
    DistillRecord,
    OnRound,
    Source,
    Work,
    cameras_of,
)
from manyview.methods.sparsefusion.iterations import run_iterations
from manyview.methods.sparsefusion.poses import distillation_cameras
from manyview.methods.sparsefusion.rounds import fill_enclosed, run_rounds
from manyview.methods.sparsefusion.teacher import Looked, coverage_of
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views, join_cameras

__all__ = ["DistillRecord", "Distilled", "Source", "distill"]


def distill(
    teacher: Source,
    given: Views,
    options: DistillOptions | None = None,
    *,
    seed: int = 0,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    test_cameras: Cameras | None = None,
    on_round: OnRound | None = None,
) -> Distilled:
    """The field distilled from what `teacher` says about the observed frames of `given`.

    The same arguments give the same field, also if the run was killed and resumed: after every round the
    state goes to the folder `checkpoint`. Distillation cameras follow from the given cameras and the seed;
    `test_cameras` (poses that will be scored) have a part only with `options.use_test_poses`. `on_round` is
    called with (rounds done, field) after the warm-up and each round. Raises `InputError` for options, views
    and cameras that cannot be worked with, before the networks run, and for a checkpoint of other work.
    """
    options = options or DistillOptions()
    options.check()
    inputs = _with_masks(teacher.frames(given))
    assert inputs.cameras is not None, "frames have cameras"
    if options.given_poses and len(inputs) == 1:
        raise InputError("given_poses", "one view", "expected two or more: each is told from the others")
    if options.use_test_poses and test_cameras is None:
        raise InputError("--use-test-poses", "no test cameras", "expected the cameras that will be scored")
    side = inputs.size[0]
    belt = distillation_cameras(inputs.cameras, options.targets, seed=seed, jitter=options.jitter, size=side)
    parts = [belt]
    if options.given_poses:
        parts.append(inputs.cameras)
    if options.use_test_poses and test_cameras is not None:
        parts.append(test_cameras.to("cpu").resized(side, side))
    cameras = join_cameras(parts) if len(parts) > 1 else belt
    place = Checkpoints(checkpoint, _fingerprint(inputs, cameras, options, seed, teacher))
    found = place.read()
    work = Work(teacher, inputs, cameras, Looked(*[torch.zeros(0)] * 3), options, seed, found)
    work.seconds = {} if found is None else dict(found.seconds)
    work.on_round = on_round
    with work.timed("look"):
        work.looked = place.looked(
            lambda: teacher.look(inputs, cameras, rows=options.rows, progress=progress)
        )
    if options.targets_per_round == 1:
        return run_iterations(work, place, progress)
    return run_rounds(work, place, progress)


def _with_masks(frames: Views) -> Views:
    """Frames without masks stand before white, as the teacher sees them."""
    if frames.masks is not None:
        return frames
    return replace(frames, masks=fill_enclosed(coverage_of(frames.images.float())))


def _fingerprint(inputs: Views, cameras: Cameras, options: DistillOptions, seed: int, teacher: Source) -> str:
    """Of all that the result follows from; of the networks a sum over their weights."""
    sums = [
        float(value.detach().double().abs().sum())
        for name in ("vae", "eft", "unet")
        for value in getattr(getattr(teacher, name, None), "parameters", list)()
    ]
    places = [value for one in (cameras_of(inputs), cameras) for value in (one.world_from_cam, one.K)]
    assert inputs.masks is not None, "inputs have masks"
    return fingerprint(inputs.images, inputs.masks, *places, options, seed, sums)
