"""Distillation in rounds: all pictures renewed at once, then some hundred steps of the field on rays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from manyview.errors import InputError
from manyview.lift.field.fit import fit_field, refit_field
from manyview.lift.field.options import FieldOptions
from manyview.lift.field.render import render_field
from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.distill_state import Checkpoints, Progressed
from manyview.methods.sparsefusion.distill_work import STREAMS, Distilled, Work, cameras_of, finish
from manyview.methods.sparsefusion.schedule import denoising_steps, noise_time, target_weight
from manyview.methods.sparsefusion.teacher import coverage_of
from manyview.progress import Progress
from manyview.sampling.noise import generator_seed, item_generator, item_noise
from manyview.types import Cameras, Views, join_cameras

_HULL_MARGIN = 0.04
"""Outlines of the EFT's pictures are widened by this share of the image before they carve."""
_INPUT_RAYS = 0.5
"""Rays of input views for each ray of a distillation picture, about."""


def run_rounds(work: Work, place: Checkpoints, progress: Progress) -> Distilled:
    """Warm-up and rounds of diffusion on what `distill` has prepared."""
    options, total = work.options, work.options.rounds
    state = work.state
    if state is None:
        with work.timed("warm-up"):
            made = _warm_up(work, progress)
        state = _kept(work, place, Progressed(0, made))
    stopped = bool(state.rounds) and state.rounds[-1].get("last", False)
    while state.done < total and not stopped:
        with work.timed("render"):
            renders = render_field(state.field, work.cameras).images
            fitted = render_field(state.field, cameras_of(work.inputs)).images
        before = state.extra.get("renders")
        moved = None if before is None else float((renders - before).abs().mean())
        stopped = moved is not None and moved < options.stop_below
        record: dict[str, Any] = {
            "moved": moved,
            "inputs": float((fitted - work.inputs.over(1.0)).abs().mean()),
            "last": stopped,
        }
        if stopped:
            state = _kept(work, place, replace(state, rounds=[*state.rounds, record]), called=False)
            break
        t_max = noise_time(
            options.schedule,
            state.done,
            total,
            work.seed,
            first=options.t_first,
            last=options.t_last,
            stream=STREAMS["time"],
        )
        chosen = _choose(work, state.done)
        with work.timed("diffusion"):
            pictures = _draw(work, chosen, renders[chosen], t_max, state.done, progress)
        record |= {
            "t_max": t_max,
            "steps": denoising_steps(t_max, options.most_steps),
            "weight": target_weight(t_max),
            "pictures": len(chosen),
            "apart": float((pictures - renders[chosen]).abs().mean()),
        }
        with work.timed("field"):
            seen, weights = training_views(work, work.cameras[chosen], pictures, record["weight"])
            steps = replace(
                options.field,
                steps=options.steps_per_round,
                learning_rate=options.round_rate,
                seed=generator_seed(work.seed, state.done + 1, STREAMS["rays"]),
            )
            made = _refitted(state.field, seen, weights, steps, progress)
            record["lost"] = made is None
        record["seconds"] = round(sum(work.seconds.values()), 2)
        state = _kept(
            work,
            place,
            Progressed(
                state.done + 1, made or state.field, [*state.rounds, record], {}, {"renders": renders}
            ),
        )
    return finish(work, state, stopped)


def _warm_up(work: Work, progress: Progress) -> Volume:
    """The field of the input views and the EFT's pictures, begun inside the outlines of all of them."""
    options = work.options
    seen, weights = training_views(work, work.cameras, work.looked.images, 1.0)
    steps = replace(
        options.field, steps=options.warmup_steps, seed=generator_seed(work.seed, 0, STREAMS["rays"])
    )
    assert work.inputs.masks is not None, "inputs have masks"
    told = torch.cat([work.inputs.masks, _widened(fill_enclosed(work.looked.coverage))])
    told_cameras = join_cameras([cameras_of(work.inputs), work.cameras])
    usable = told.flatten(1).amax(dim=1) >= 0.5
    outlines = told[usable], told_cameras[usable]
    try:
        return _volume(fit_field(seen, steps, progress, weights=weights, outlines=outlines))
    except InputError as error:
        # The EFT's outlines leave nothing, or too little for a surface: fog in the cube that is looked at
        # needs no outline.
        if error.argument not in ("views", "views.masks"):
            raise
        fog = replace(steps, encoding="voxels")
        return _volume(fit_field(replace(seen, masks=None), fog, progress, weights=weights))


def _refitted(
    field: Volume, views: Views, weights: Tensor, options: FieldOptions, progress: Progress
) -> Volume | None:
    """The field fitted on to the views; None where they contradict each other so that no surface is left."""
    try:
        return _volume(refit_field(field, views, options, progress, weights=weights))
    except InputError as error:
        if error.argument != "views":
            raise
        return None


def training_views(work: Work, cameras: Cameras, pictures: Tensor, weight: float) -> tuple[Views, Tensor]:
    """Input views and pictures as views to be fitted, and the weight of each.

    Every view gives a step the same number of rays, so input views are repeated until they have half as many
    rays as the pictures; the weights then make the input views' total `input_weight` and the pictures'
    `target_weight` times `weight`.
    """
    inputs, options = work.inputs, work.options
    assert inputs.masks is not None, "inputs have masks"
    count, number = len(pictures), len(inputs)
    copies = max(1, round(_INPUT_RAYS * count / number))
    shown = inputs[list(range(number)) * copies]
    assert shown.masks is not None, "inputs have masks"
    views = Views(
        images=torch.cat([shown.over(1.0), pictures]),
        masks=torch.cat([shown.masks, fill_enclosed(coverage_of(pictures))]),
        cameras=join_cameras([cameras_of(shown), cameras]),
    )
    weights = torch.cat(
        [
            torch.full((len(shown),), options.input_weight / len(shown)),
            torch.full((count,), options.target_weight * weight / count),
        ]
    )
    return views, weights


def _draw(
    work: Work, chosen: list[int], renders: Tensor, t_max: float, done: int, progress: Progress
) -> Tensor:
    """What the diffusion model makes of the renders of the chosen cameras in round `done`."""
    options, total = work.options, len(work.cameras)
    items = [done * total + index for index in chosen]
    noise = item_noise(work.seed, items, work.source.latent_shape, STREAMS["noise"])
    generator = item_generator(work.seed, done, STREAMS["fresh"])
    progress.start(1, "pictures of a round")
    try:
        made = work.source.draw(
            work.looked.features[chosen],
            noise,
            start=renders,
            t_max=t_max,
            num_steps=denoising_steps(t_max, options.most_steps),
            solver=options.solver,
            guidance=options.guidance,
            fresh=lambda: torch.randn(noise.shape, generator=generator),
        )
        progress.advance()
    finally:
        progress.finish()
    return made


def _choose(work: Work, done: int) -> list[int]:
    """The cameras of a round."""
    total, wanted = len(work.cameras), work.options.targets_per_round
    if wanted in (0, total):
        return list(range(total))
    generator = item_generator(work.seed, done, STREAMS["cameras"])
    return sorted(torch.randperm(total, generator=generator)[:wanted].tolist())


def _kept(work: Work, place: Checkpoints, state: Progressed, called: bool = True) -> Progressed:
    state = replace(state, seconds=dict(work.seconds))
    place.write(state)
    if called and work.on_round is not None:
        work.on_round(state.done, state.field)
    return state


def fill_enclosed(coverage: Tensor) -> Tensor:
    """[B, 1, H, W] coverage with the white inside a picture's outline counted as object: more often a label
    than a hole."""
    rows = []
    for one in coverage[:, 0]:
        inner = np.asarray(ndimage.binary_fill_holes((one >= 0.5).numpy())) & (one < 0.5).numpy()
        rows.append(torch.where(torch.from_numpy(inner), torch.ones_like(one), one))
    return torch.stack(rows)[:, None]


def _widened(coverage: Tensor) -> Tensor:
    reach = max(1, round(_HULL_MARGIN * coverage.shape[-1]))
    return functional.max_pool2d((coverage >= 0.5).float(), 2 * reach + 1, 1, reach)


def _volume(made: object) -> Volume:
    assert isinstance(made, Volume), "the lift's fits give its own fields"
    return made
