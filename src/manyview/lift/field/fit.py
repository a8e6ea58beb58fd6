"""Fit a radiance field to posed views."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from manyview.errors import InputError
from manyview.lift.field.answers import Field
from manyview.lift.field.box import Box, make_box
from manyview.lift.field.hull import VisualHull
from manyview.lift.field.kernel_smoothing import diffuse
from manyview.lift.field.marching import run_blocks
from manyview.lift.field.neural import NeuralField, build_field
from manyview.lift.field.options import FieldOptions
from manyview.lift.field.pixels import PixelBatch, PixelSource, color_error
from manyview.lift.field.region import find_region
from manyview.lift.field.voxels import VoxelField, raw_for_opacity
from manyview.lift.sdf.fit import fit_pixels, refit_pixels
from manyview.lift.sdf.model import SdfField
from manyview.lift.sdf.options import SdfOptions
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

# Share of the final resolution, share of the steps.
_STAGES = ((0.4, 0.25), (0.7, 0.25), (1.0, 0.5))
_FIRST_OPACITY = 0.02


def fit_field(
    views: Views,
    options: FieldOptions | None = None,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
    outlines: tuple[Tensor, Cameras] | None = None,
) -> Field:
    """The field that shows the observed views of `views`.

    With masks it is the field of a surface (`SdfField`) unless the options say otherwise. Density voxels
    live in the masks' visual hull, without masks in the cube that the cameras look at. The world may have any
    scale. `weights` [V]: how much each view counts (1 when not given); views that weigh less than half of the
    heaviest do not carve the hull. `outlines`: masks [N, 1, H, W] and N cameras that carve it instead. Raises
    `InputError` for views without cameras, fewer than two observed views, cameras that all look one way,
    empty masks, and with encoding `surface` where none is left.
    """
    options = options or FieldOptions()
    options.check()
    source = open_pixels(views, options, weights, outlines)
    progress.start(options.steps, "steps of the field")
    try:
        if options.encoding in ("hash", "tiled", "dense", "triplane"):
            return _fit_neural(source, options, progress)
        if options.encoding == "surface" or (options.encoding == "auto" and source.masks is not None):
            surface = fit_pixels(source, surface_options(options), progress)
            if surface is not None:
                return surface
            if options.encoding == "surface":
                raise InputError("views", "no surface is left", "expected views of one object that agree")
            progress.start(options.steps, "steps of the field")
        return _fit_voxels(source, options, progress)
    finally:
        progress.finish()


def refit_field(
    field: Field,
    views: Views,
    options: FieldOptions | None = None,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
) -> Field:
    """`field`, fitted on to the observed views of `views`, which may be others than it was made from.

    `options.steps` steps from where it is, with a fresh optimiser, in the same box. Voxels are put on a grid
    of `options.resolution` nodes first, without what is as good as empty and, of a surface, with true
    distances; `options.encoding` says nothing here. The given field stays as it is. Raises `InputError` as
    `fit_field` does for views, and where a surface's last bit has gone.
    """
    options = options or FieldOptions()
    options.check()
    source = open_pixels(views, options, weights)
    generator = torch.Generator().manual_seed(options.seed)
    progress.start(options.steps, "steps of the field")
    try:
        if isinstance(field, SdfField):
            surface = refit_pixels(field, source, surface_options(options), progress)
            if surface is None:
                raise InputError("views", "no surface is left", "expected views of one object that agree")
            return surface
        if isinstance(field, VoxelField):
            box = make_box(field.box.low, field.box.high, max(8, options.resolution))
            finer = field.refined(box)
            _train_voxels(finer, source, options, (options.steps, options.learning_rate), generator, progress)
            return finer.requires_grad_(False)
        if isinstance(field, NeuralField):
            copied = copy.deepcopy(field).requires_grad_(True)
            _train_network(copied, source, options, generator, progress)
            return copied.requires_grad_(False)
    finally:
        progress.finish()
    raise InputError("field", type(field).__name__, "expected a field that fit_field makes")


def open_pixels(
    views: Views,
    options: FieldOptions,
    weights: Tensor | None = None,
    outlines: tuple[Tensor, Cameras] | None = None,
) -> PixelSource:
    """The observed views of `views` as `options` wants them."""
    return PixelSource(
        views,
        weights=weights,
        background=options.background,
        max_size=options.max_image_size,
        outlines=outlines,
    )


def field_loss(field: Field, batch: PixelBatch, options: FieldOptions, jitter: Tensor) -> Tensor:
    """[] weighted mean over the rays: Huber in colour, Huber against the mask, opacity."""
    seen = field.render_rays(batch.origins, batch.directions, background=options.background, jitter=jitter)
    delta = options.huber_delta
    loss = color_error(seen.colors, batch, delta)
    if batch.masks is not None:
        outline = functional.huber_loss(seen.alphas, batch.masks, delta=delta, reduction="none") / delta
        loss = loss + options.silhouette_weight * outline
    loss = loss + options.opacity_weight * (seen.alphas**2 + 0.01).sqrt()
    return (loss * batch.weights).mean()


def surface_options(options: FieldOptions) -> SdfOptions:
    """How a surface is fitted by these options."""
    return SdfOptions(
        resolution=max(16, options.resolution),
        steps=options.steps,
        rays=options.rays,
        huber_delta=options.huber_delta,
        mask_weight=options.silhouette_weight,
        background=options.background,
        max_image_size=options.max_image_size,
        seed=options.seed,
    )


def _fit_voxels(source: PixelSource, options: FieldOptions, progress: Progress) -> VoxelField:
    generator = torch.Generator().manual_seed(options.seed)
    hull, low, high = find_region(source)
    field = None
    for size, share in _STAGES:
        box = make_box(low, high, max(8, round(size * options.resolution)))
        field = _first_voxels(hull, box) if field is None else field.refined(box)
        count = max(1, round(share * options.steps))
        _train_voxels(field, source, options, (count, options.learning_rate), generator, progress)
    assert field is not None, "there is at least one stage"
    return field.requires_grad_(False)


def _train_voxels(
    field: VoxelField,
    source: PixelSource,
    options: FieldOptions,
    schedule: tuple[int, float],
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """`schedule`: steps and the first learning rate, which falls to a tenth."""
    count, rate = schedule
    groups = [
        {"params": [field.geometry], "lr": rate},
        {"params": [field.features], "lr": rate},
        {"params": list(field.shader.parameters()), "lr": 0.02 * rate},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-10, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / count))
    inner = _inner_nodes(field)
    for _ in range(count):
        batch = source.draw(options.rays, generator)
        jitter = torch.rand(len(batch.origins), generator=generator)
        optimizer.zero_grad()
        field_loss(field, batch, options, jitter).backward()
        _smooth(field, inner, options.smooth_weight)
        optimizer.step()
        falling.step()
        progress.advance()


def _first_voxels(hull: VisualHull | None, box: Box) -> VoxelField:
    active = torch.ones(box.shape, dtype=torch.bool)
    if hull is not None:
        active = (hull.distances(box.nodes()) < 2 * box.voxel).reshape(box.shape)
    # At softplus(raw) = 1 a hundredth of the longest side stops two thirds of the light.
    extent = box.voxel * (max(box.shape) - 1)
    gain = 100 / extent
    raw = raw_for_opacity(_FIRST_OPACITY, gain, extent / 60)
    return VoxelField(box, torch.full(box.shape, raw), active, gain=gain)


def _inner_nodes(field: VoxelField) -> Tensor:
    """int64 flat numbers of the active nodes with six active neighbours."""
    active = field.index >= 0
    inner = torch.zeros_like(active)
    middle = active[1:-1, 1:-1, 1:-1].clone()
    for axis in range(3):
        for start in (0, 2):
            spans = [slice(1, -1)] * 3
            spans[axis] = slice(start, start + active.shape[axis] - 2)
            middle &= active[spans[0], spans[1], spans[2]]
    inner[1:-1, 1:-1, 1:-1] = middle
    return inner.reshape(-1).nonzero()[:, 0]


def _smooth(field: VoxelField, nodes: Tensor, weight: float) -> None:
    """Add the gradient of the smoothness to the geometry's."""
    if weight <= 0 or len(nodes) == 0 or field.geometry.grad is None:
        return
    grid, total = field.geometry.detach().reshape(-1).numpy(), field.geometry.grad.reshape(-1).numpy()
    _, y, z = field.box.shape
    listed, amount = nodes.numpy(), weight / len(nodes)

    def work(start: int, stop: int) -> None:
        diffuse(start, stop, listed, grid, y * z, z, amount, total)

    run_blocks(len(listed), work, block=1 << 14)


def _fit_neural(source: PixelSource, options: FieldOptions, progress: Progress) -> NeuralField:
    generator = torch.Generator().manual_seed(options.seed)
    _, low, high = find_region(source)
    assert options.encoding not in ("auto", "surface", "voxels"), "these are fitted elsewhere"
    field = build_field(options.encoding, low, high, options.resolution, seed=options.seed)
    _train_network(field, source, options, generator, progress)
    return field.requires_grad_(False)


def _train_network(
    field: NeuralField,
    source: PixelSource,
    options: FieldOptions,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    rate = options.learning_rate
    groups = [
        {"params": list(field.encoding.parameters()), "lr": 0.1 * rate},
        {"params": list(field.network.parameters()), "lr": 0.1 * rate},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / options.steps))
    for _ in range(options.steps):
        batch = source.draw(options.rays, generator)
        jitter = torch.rand(len(batch.origins), generator=generator)
        optimizer.zero_grad()
        field_loss(field, batch, options, jitter).backward()
        optimizer.step()
        schedule.step()
        progress.advance()
