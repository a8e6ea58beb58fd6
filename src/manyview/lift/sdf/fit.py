"""Fit a signed distance field to posed views."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from manyview.errors import InputError
from manyview.lift.field.box import Box, make_box
from manyview.lift.field.hull import VisualHull
from manyview.lift.field.pixels import PixelBatch, PixelSource, color_error
from manyview.lift.field.region import find_region
from manyview.lift.sdf.model import SHARPNESS_RANGE, SdfField, redistance
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.sdf.regularity import Regularity, settle, unseen_nodes
from manyview.progress import Progress, silent
from manyview.types import Views

# Share of the final resolution, share of the steps, how many times the distances are made true again and
# the unseen part settles, and for how long: the skin under an object is found while the grid is coarse.
_STAGES = ((0.25, 0.3, 6, 10), (0.5, 0.3, 3, 4), (1.0, 0.4, 1, 1))
_FIRST_SHARPNESS = 1.0
_FEWEST_NODES = 24
# Of the box, in which the object is known to fill all but the margin where there are masks.
_SPHERE_SHARE = {True: 0.44, False: 0.3}


def fit_sdf(
    views: Views,
    options: SdfOptions | None = None,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
) -> SdfField:
    """The surface whose rendering (NeuS, Wang et al. 2021) shows the observed views of `views`.

    Colour, masks where there are any, eikonal and bending terms, learned sharpness, grids from coarse to
    fine. The world may have any scale. `weights` [V]: how much each view counts (1 when not given); views
    that weigh less than half of the heaviest do not carve the first surface. Raises `InputError` for views
    without cameras, fewer than two observed views, cameras that all look one way, empty masks, and where no
    surface is left in the end (views that contradict each other).
    """
    options = options or SdfOptions()
    options.check()
    source = PixelSource(
        views, weights=weights, background=options.background, max_size=options.max_image_size
    )
    progress.start(options.steps, "steps of the surface")
    try:
        field = fit_pixels(source, options, progress)
    finally:
        progress.finish()
    if field is None:
        raise InputError("views", "no surface is left", "expected views of one object that agree")
    return field


def fit_pixels(source: PixelSource, options: SdfOptions, progress: Progress = silent) -> SdfField | None:
    """As `fit_sdf`, for pixels made ready already: None where no surface is left.

    `progress` has been started and is only advanced.
    """
    field = _fit_stages(source, options, progress)
    return field.requires_grad_(False) if bool((field.geometry < 0).any()) else None


def refit_pixels(
    field: SdfField, source: PixelSource, options: SdfOptions, progress: Progress = silent
) -> SdfField | None:
    """`field` fitted on to other pixels in the same box, `options.steps` steps on a grid of
    `options.resolution` nodes; None where no surface is left.

    The given field stays as it is; `progress` has been started and is only advanced.
    """
    generator = torch.Generator().manual_seed(options.seed)
    finer = field.refined(make_box(field.box.low, field.box.high, options.resolution))
    finer.anneal = 1.0
    _run_stage(finer, source, options, (options.steps, *_STAGES[-1][2:]), generator, progress)
    with torch.no_grad():
        finer.geometry.copy_(redistance(finer.geometry))
    return finer.requires_grad_(False) if bool((finer.geometry < 0).any()) else None


def sdf_loss(field: SdfField, batch: PixelBatch, options: SdfOptions, jitter: Tensor) -> Tensor:
    """[] weighted mean over the rays of Huber in colour and cross-entropy against the mask."""
    seen = field.render_rays(batch.origins, batch.directions, background=options.background, jitter=jitter)
    loss = color_error(seen.colors, batch, options.huber_delta)
    if batch.masks is not None:
        outline = functional.binary_cross_entropy(
            seen.alphas.clamp(1e-3, 1 - 1e-3), batch.masks.clamp(0, 1), reduction="none"
        )
        loss = loss + options.mask_weight * outline
    return (loss * batch.weights).mean()


def _fit_stages(source: PixelSource, options: SdfOptions, progress: Progress) -> SdfField:
    generator = torch.Generator().manual_seed(options.seed)
    hull, low, high = find_region(source)
    field: SdfField | None = None
    done = 0
    for size, share, renewals, rounds in _STAGES:
        longest = max(min(_FEWEST_NODES, options.resolution), round(size * options.resolution))
        box = make_box(low, high, longest)
        field = _first_field(hull, box, options) if field is None else field.refined(box)
        count = max(1, round(share * options.steps))
        _run_stage(field, source, options, (count, renewals, rounds), generator, progress, done)
        done += count
    assert field is not None, "there is at least one stage"
    field.anneal = 1.0
    with torch.no_grad():
        field.geometry.copy_(redistance(field.geometry))
    return field


def _run_stage(
    field: SdfField,
    source: PixelSource,
    options: SdfOptions,
    plan: tuple[int, int, int],
    generator: torch.Generator,
    progress: Progress,
    done: int | None = None,
) -> None:
    """`plan`: steps, renewals and rounds, as in _STAGES; `done`: steps before this stage, None to leave the
    annealing as it is."""
    count, renewals, rounds = plan
    optimizer = _optimizer(field, options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.2 ** (step / count))
    every = max(1, count // (renewals + 1))
    regularity = Regularity(field)
    for step in range(count):
        if step > 0 and step % every == 0:
            _renew(field, optimizer)
            if options.flatten_unseen:
                settle(field, unseen_nodes(field, source), rounds)
            regularity = Regularity(field)
        if done is not None:
            field.anneal = min(1.0, (done + step) / max(1, options.anneal_steps))
        _step(field, source, options, optimizer, regularity, generator)
        schedule.step()
        progress.advance()


def _step(
    field: SdfField,
    source: PixelSource,
    options: SdfOptions,
    optimizer: torch.optim.Optimizer,
    regularity: Regularity,
    generator: torch.Generator,
) -> None:
    batch = source.draw(options.rays, generator)
    jitter = torch.rand(len(batch.origins), generator=generator)
    optimizer.zero_grad()
    sdf_loss(field, batch, options, jitter).backward()
    regularity.add_gradient(field, options.eikonal_weight, options.bend_weight)
    optimizer.step()
    with torch.no_grad():
        field.log_sharpness.clamp_(*(math.log(s) for s in SHARPNESS_RANGE))


def _renew(field: SdfField, optimizer: torch.optim.Optimizer) -> None:
    """Make the distances true again; the optimiser forgets where they were heading."""
    with torch.no_grad():
        field.geometry.copy_(redistance(field.geometry))
    optimizer.state.pop(field.geometry, None)


def _optimizer(field: SdfField, options: SdfOptions) -> torch.optim.Optimizer:
    groups = [
        {"params": [field.geometry], "lr": options.learning_rate},
        {"params": [field.features], "lr": options.color_rate},
        {"params": list(field.shader.parameters()), "lr": 0.002},
        {"params": [field.log_sharpness], "lr": 0.02},
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)


def _first_field(hull: VisualHull | None, box: Box, options: SdfOptions) -> SdfField:
    if hull is None or options.start == "sphere":
        return SdfField(box, _sphere(box, _SPHERE_SHARE[hull is not None]), sharpness=_FIRST_SHARPNESS)
    distances = hull.distances(box.nodes()).reshape(box.shape) / box.voxel
    return SdfField(box, redistance(distances), sharpness=_FIRST_SHARPNESS)


def _sphere(box: Box, share: float) -> Tensor:
    """[X, Y, Z] distances in voxels to a sphere (an ellipsoid in a long box) in the middle of the box."""
    half = torch.tensor([(n - 1) / 2 for n in box.shape])
    places = (box.to_grid(box.nodes()) - half) / half
    level = torch.linalg.vector_norm(places, dim=1) - 2 * share
    return redistance((level * float(half.min())).reshape(box.shape))
