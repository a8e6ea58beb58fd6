"""Gaussians from posed views (Kerbl et al. 2023), with masks, weights and few views in mind."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import common_size
from manyview.geometry.projection import require_pinhole
from manyview.io.framing import resize_area, size_within
from manyview.lift.splats.losses import dissimilarity, object_box, target_moments
from manyview.lift.splats.model import Splats
from manyview.lift.splats.options import SplatOptions
from manyview.lift.splats.population import Population
from manyview.lift.splats.render import render_splats
from manyview.lift.splats.start import DISTANCE, fit_frame, scene_box, start_splats
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

EXTENT = 1.1 * DISTANCE


def fit_splats(
    views: Views,
    options: SplatOptions | None = None,
    progress: Progress = silent,
    *,
    weights: Tensor | None = None,
) -> Splats:
    """Gaussians in the world of `views.cameras` that look like the observed views.

    `weights` [V], at least 0, scale the loss of each view (generated views deserve less than given ones).
    Runs on the device of the images. The fit works on cameras moved to a standard frame and the answer is
    moved back, so neither the scale of the world nor its origin matters. Views that contradict each other
    give a compromise; a single view gives Gaussians that explain it and no more.

    Raises `InputError`: no cameras, no observed views, cameras of several sizes or with distortion, all masks
    empty, weights that do not fit.
    """
    options = SplatOptions() if options is None else options
    chosen, shares = _check(views, weights)
    chosen = _shrink(chosen, options.max_side)
    assert chosen.cameras is not None, "checked above"
    cameras, similarity = fit_frame(chosen.cameras)
    chosen = replace(chosen, cameras=cameras)
    generator = torch.Generator().manual_seed(options.seed)
    start = start_splats(chosen, options.num_points, options.sh_degree, generator, scene_box(cameras))
    rates = {
        "means": options.rate_means * EXTENT,
        "log_scales": options.rate_scales,
        "quaternions": options.rate_quaternions,
        "opacity_logits": options.rate_opacities,
        "sh_base": options.rate_colors,
        "sh_rest": options.rate_colors / 20,
    }
    population = Population(start, rates)
    targets = _Targets(chosen, shares, options)
    progress.start(options.num_steps, "steps")
    try:
        for step in range(options.num_steps):
            _step(population, targets, step, options, generator)
            progress.advance()
    finally:
        progress.finish()
    return population.splats(options.sh_degree).detached().moved(similarity.inverse())


class _Targets:
    """The views to look like, in the random order of the fit: every view once before any comes again."""

    def __init__(self, views: Views, shares: Tensor, options: SplatOptions) -> None:
        assert views.cameras is not None, "checked in fit_splats"
        # Taken apart once: making a `Cameras` checks its numbers, which shows in a step of milliseconds.
        self.cameras: list[Cameras] = [views.cameras[index] for index in range(len(views))]
        self.images = views.over(options.background)
        self.masks = views.masks
        self.shares = shares.tolist()
        self.boxes = [
            object_box(None if self.masks is None else self.masks[i], views.size) for i in range(len(views))
        ]
        self.order: list[int] = []
        self._moments: dict[int, Tensor] = {}

    def moments(self, index: int) -> Tensor:
        """`target_moments` of a view within its box, the same in every step."""
        if index not in self._moments:
            rows, columns = self.boxes[index]
            self._moments[index] = target_moments(self.images[index][:, rows, columns])
        return self._moments[index]

    def draw(self, generator: torch.Generator) -> int:
        """The next view's index."""
        if not self.order:
            self.order = torch.randperm(len(self.cameras), generator=generator).tolist()
        return self.order.pop()


def _step(
    population: Population, targets: _Targets, step: int, options: SplatOptions, generator: torch.Generator
) -> None:
    """One view: render, compare, move; now and then add and remove Gaussians."""
    fraction = step / options.num_steps
    degree = min(options.sh_degree, int(2 * fraction * (options.sh_degree + 1)))
    ratio = options.rate_means_end / options.rate_means
    population.set_rate("means", options.rate_means * EXTENT * ratio**fraction)
    index = targets.draw(generator)
    splats = population.splats(degree)
    probe = torch.zeros(1, len(splats), 2, dtype=splats.means.dtype, device=splats.means.device)
    probe.requires_grad_()
    drawn = render_splats(
        splats,
        targets.cameras[index],
        background=options.background,
        backend=options.backend,
        screen_offsets=probe,
    )
    loss = view_loss(drawn.images[0], drawn.alphas[0], targets, index, options)
    (targets.shares[index] * loss).backward()
    width = targets.images.shape[-1]
    assert probe.grad is not None, "the renderer gives the gradient of the screen positions"
    population.step(probe.grad[0] * (0.5 * width), drawn.visible[0])
    last = options.densify_until * options.num_steps
    if step > 0 and step % options.densify_every == 0:
        if options.densify_from * options.num_steps <= step <= last:
            population.densify(
                options.densify_gradient, options.split_scale * EXTENT, options.most_splats, generator
            )
        has_seen_all = options.densify_every >= 2 * len(targets.cameras)
        population.prune(options.prune_opacity, options.prune_scale * EXTENT, hidden=has_seen_all)
        population.forget_gradients()
    if options.fade_every and 0 < step <= last and step % options.fade_every == 0:
        population.fade(0.01)


def view_loss(image: Tensor, alpha: Tensor, targets: _Targets, index: int, options: SplatOptions) -> Tensor:
    """The loss of one rendered view [3, H, W] with alpha [1, H, W] against view `index`."""
    target = targets.images[index]
    loss = (1 - options.dssim_weight) * (image - target).abs().mean()
    if options.dssim_weight > 0:
        rows, columns = targets.boxes[index]
        # Outside the box there is nothing to see; its share of the mean is zero.
        unlike = dissimilarity(image[:, rows, columns], target[:, rows, columns], targets.moments(index))
        loss = loss + options.dssim_weight * 2 * unlike.sum() / target.numel()
    if targets.masks is not None and options.mask_weight > 0:
        loss = loss + options.mask_weight * (alpha - targets.masks[index]).abs().mean()
    return loss


def _check(views: Views, weights: Tensor | None) -> tuple[Views, Tensor]:
    """The observed views, and their weights with a mean of 1."""
    if views.cameras is None:
        raise InputError("views.cameras", "none", "expected cameras (see `manyview reconstruct --help`)")
    require_pinhole(views.cameras)
    height, width = common_size(views.cameras)
    if (height, width) != views.size:
        raise InputError("views.cameras.sizes", (height, width), f"expected the images' size {views.size}")
    if not bool(views.observed.any()):
        raise InputError("views.observed", "none", "expected at least one observed view")
    shares = torch.ones(len(views)) if weights is None else weights.float().cpu()
    if tuple(shares.shape) != (len(views),) or not bool((shares >= 0).all() and torch.isfinite(shares).all()):
        raise InputError("weights", tuple(shares.shape), f"expected {len(views)} numbers, at least 0")
    observed = views.observed.cpu()
    if not bool((shares[observed] > 0).any()):
        raise InputError("weights", "all zero", "expected a positive weight for an observed view")
    index = (observed & (shares > 0)).nonzero()[:, 0]
    return views[index], shares[index] / shares[index].mean()


def _shrink(views: Views, max_side: int) -> Views:
    size = size_within(*views.size, max_side)
    if size == views.size:
        return views
    assert views.cameras is not None, "checked in fit_splats"
    images, masks = resize_area(views.images, *size, alpha=views.masks)
    return Views(images=images, masks=masks, cameras=views.cameras.resized(*size))
