"""Input that contradicts itself: wrong lenses, turned or mirrored pictures, pictures of two objects.

Two things can be asked of posed pictures of one object before any network runs. Outlines: through every
pixel of an object's mask there has to be a point that all other masks allow. Colours: along that stretch of
the ray some point should look alike in another view. Both are necessary and neither is enough: an error that
keeps the outlines together, such as a focal length that is wrong in all views of an orbit alike, only makes
an object of another size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.pixels import inside_image, sample_images
from manyview.geometry.projection import project
from manyview.geometry.rays import pixel_rays
from manyview.io.framing import resize_area, size_within
from manyview.types import Cameras, Views

RAYS, DEPTHS = 300, 64
_SIDE = 128
_REACH = 1.0
"""Of the mean distance of cameras and object: how far before and behind the middle an object is looked for,
at most; an object of size 1 at 1.5 ends after half of it."""
_ALLOWED = 0.3
"""A point is inside a mask from this coverage on."""
_SLACK = 2 / 128
"""Share of the picture's side by which a mask may be too small: cameras and masks are never exact."""
IMPOSSIBLE = 0.2
"""Share of a mask that the others allow below which there is no common object."""
EXPLAINED = 0.99
"""Share that a change to the input has to reach to pass for an explanation."""
MATCHING = 0.2
"""Share of a view's pixels that another view is expected to show too; the rest may be hidden there."""
DIFFERENT_COLORS = {90.0: 0.04, 180.0: 0.12}
"""Difference at that share from which on a view's colours are those of something else: up to so many degrees
between it and the nearest view. Opposite sides of an object may well differ."""
_FACTORS = (0.5, 2 / 3, 0.8, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Agreement:
    """How far V views agree."""

    outlines: Tensor
    """[V] share of each mask through which some point lies in all other masks."""
    pairs: Tensor
    """[V, V] the same for each other mask alone; 1 on the diagonal."""
    colors: Tensor
    """[V, V] how far a view's pixels are from their best match in another view along the ray, inside all
    masks: the mean over the channels, at the quantile MATCHING over the pixels. Infinity on the diagonal and
    where there was nothing to compare."""

    @property
    def worst(self) -> float:
        """The smallest share of a mask."""
        return float(self.outlines.min())


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong."""

    frames: tuple[int, ...]
    """Of the views that were checked; more than one where it cannot be told which."""
    line: str


def check_views(views: Views, *, argument: str = "INPUT") -> list[Finding]:
    """What looks wrong with V >= 2 posed views with masks of one object about the origin.

    Empty where nothing does, which is no proof. Raises `InputError` where the views cannot be of one object:
    their masks share no volume.
    """
    small = _small(views)
    found = _same_places(small)
    agreement = measure(small)
    if agreement.worst < IMPOSSIBLE:
        frame = _name(small, int(agreement.outlines.argmin()))
        line = f"{agreement.worst:.0%} of its outline fits the other views: they share no object"
        raise InputError(argument, frame, f"{line}; expected the right cameras and one object")
    odd = _color_misfit(small, agreement)
    if agreement.worst < doubtful_share(len(small)):
        found.append(_explain(small, agreement) or _outline_finding(small, agreement))
    if odd is not None:
        found.insert(0, _color_finding(small, agreement, odd))
    return found


def doubtful_share(num_views: int) -> float:
    """Share of a mask that the others allow below which something is wrong.

    Errors of cameras and masks add up over the views: 0.985 of two, 0.965 of six and more. Renders of the
    validation objects with cameras off by 0.2 degrees and masks off by a pixel stay above it.
    """
    return 0.99 - 0.005 * min(num_views - 1, 5)


def measure(views: Views, *, rays: int = RAYS, depths: int = DEPTHS, seed: int = 0) -> Agreement:
    """How far the outlines and colours of V views agree, on up to `rays` pixels of each mask."""
    cameras, masks = views.cameras, views.masks
    assert cameras is not None, "views that are checked have cameras"
    assert masks is not None, "views that are checked have masks"
    count = len(views)
    draw = torch.Generator().manual_seed(seed)
    images = views.over(1.0)
    slack = max(1, round(_SLACK * max(masks.shape[-2:])))
    wider = torch.nn.functional.max_pool2d(masks, 2 * slack + 1, 1, slack)
    outlines = torch.ones(count)
    pairs = torch.ones(count, count)
    colors = torch.full((count, count), torch.inf)
    for view in range(count):
        others = [other for other in range(count) if other != view]
        inside = (masks[view, 0] > 0.5).flatten().nonzero()[:, 0]
        if len(inside) == 0 or not others:
            continue
        inside = inside[torch.randperm(len(inside), generator=draw)[:rays]]
        width = masks.shape[-1]
        pixels = torch.stack((inside % width, inside // width), dim=-1) + 0.5
        points = _along(pixels, cameras[view], depths)
        places, ahead = project(points[None], cameras[others])
        # Beyond a picture its border goes on: an object that it cuts off may reach there, no other.
        covered = sample_images(wider[others], places, padding="border")[:, 0]
        shown = inside_image(places, cameras.sizes[others]) & (ahead > 0)
        allowed = (covered > _ALLOWED) & (ahead > 0)
        together = allowed.all(dim=0)
        outlines[view] = together.any(dim=1).float().mean()
        pairs[view, others] = allowed.any(dim=2).float().mean(dim=1)
        own = images[view].flatten(1)[:, inside].mT
        seen = sample_images(images[others], places).permute(0, 2, 3, 1)
        apart = (seen - own[:, None]).abs().mean(dim=-1)
        usable = together & shown
        for place, other in enumerate(others):
            hit = usable[place].any(dim=1)
            if int(hit.sum()) >= 10:
                best = torch.where(usable[place], apart[place], torch.inf)[hit].amin(dim=1)
                colors[view, other] = best.quantile(MATCHING)
    return Agreement(outlines, pairs, colors)


def _along(pixels: Tensor, camera: Cameras, depths: int) -> Tensor:
    """[N, depths, 3] points on the rays of N pixels, about the origin's distance."""
    origins, directions = pixel_rays(pixels[None].to(camera.K), camera)
    distance = float(torch.linalg.vector_norm(camera.centers))
    reach = min(_REACH, 0.95 * distance)
    steps = torch.linspace(distance - reach, distance + reach, depths)
    return origins[0][:, None] + directions[0][:, None] * steps[None, :, None]


def _small(views: Views) -> Views:
    size = size_within(*views.size, _SIDE)
    if size == views.size:
        return views
    assert views.cameras is not None, "views that are checked have cameras"
    images, masks = resize_area(views.images, *size, views.masks)
    return Views(images=images, masks=masks, cameras=views.cameras.resized(*size), names=views.names)


def _same_places(views: Views) -> list[Finding]:
    """Pairs of cameras in one place that look the same way, but whose pictures differ."""
    assert views.cameras is not None, "views that are checked have cameras"
    poses = views.cameras.world_from_cam.double()
    shown = views.over(1.0)
    found = []
    for first in range(len(views)):
        for second in range(first + 1, len(views)):
            same = torch.allclose(poses[first], poses[second], atol=1e-4)
            lens = torch.allclose(views.cameras.K[first], views.cameras.K[second], rtol=1e-3)
            if same and lens and float((shown[first] - shown[second]).abs().mean()) > 0.02:
                line = f"{_name(views, first)} and {_name(views, second)} have one camera but differ"
                found.append(Finding((first, second), line))
    return found


def _color_misfit(views: Views, agreement: Agreement) -> int | None:
    """The view whose colours are farthest beyond what its nearest neighbour makes likely, if one's are."""
    assert views.cameras is not None, "views that are checked have cameras"
    directions = torch.nn.functional.normalize(views.cameras.centers.double(), dim=1)
    apart = torch.rad2deg(torch.arccos((directions @ directions.mT).clamp(-1, 1)))
    excess = []
    for view, colors in enumerate(agreement.colors):
        compared = torch.isfinite(colors)
        if not bool(compared.any()):
            excess.append(-1.0)
            continue
        nearest = float(apart[view][compared].min())
        limit = next(value for most, value in DIFFERENT_COLORS.items() if nearest <= most + 1e-6)
        excess.append(float(colors[compared].min()) - limit)
    worst = max(range(len(excess)), key=excess.__getitem__)
    return worst if excess[worst] > 0 else None


def _color_finding(views: Views, agreement: Agreement, odd: int) -> Finding:
    apart = float(agreement.colors[odd].min())
    frames = (0, 1) if len(views) == 2 else (odd,)
    who = " and ".join(_name(views, frame) for frame in frames)
    fits = "does not have the others' colours" if len(frames) == 1 else "do not have each other's colours"
    line = f"{who} {fits} where the outlines meet (off by {apart:.2f} of 1): another object or other light?"
    return Finding(frames, line)


def _outline_finding(views: Views, agreement: Agreement) -> Finding:
    frames = _odd_frames(agreement)
    who = " and ".join(_name(views, frame) for frame in frames)
    fits = "does not fit the others" if len(frames) == 1 else "do not fit each other"
    share = f"only {agreement.worst:.0%} of an outline is possible"
    return Finding(frames, f"{who} {fits} ({share}): a wrong camera, a bad mask, or another object?")


def _odd_frames(agreement: Agreement) -> tuple[int, ...]:
    """The view that agrees least with each of the others, or both of two."""
    if len(agreement.outlines) == 2:
        return (0, 1)
    both = torch.minimum(agreement.pairs, agreement.pairs.mT).clone()
    both.fill_diagonal_(0)
    return (int(both.sum(dim=1).argmin()),)


def _explain(views: Views, agreement: Agreement) -> Finding | None:
    """The simplest change that makes the outlines agree, if one does."""
    best: tuple[float, Finding | None] = (max(EXPLAINED, agreement.worst + 0.012), None)
    frames = _odd_frames(agreement)
    for changed, frame, what in _changes(views, frames):
        worst = measure(changed).worst
        if worst > best[0]:
            who = "the frames" if frame is None else _name(views, frame)
            if frame is not None and len(views) == 2:
                who = f"{_name(views, 0)} and {_name(views, 1)} do not fit each other: {who} (or the other)"
            line = f"{who} {what} ({agreement.worst:.0%} of an outline is possible, then {worst:.0%})"
            best = (worst + 1e-3, Finding(tuple(range(len(views))) if frame is None else (frame,), line))
    return best[1]


def _changes(views: Views, frames: tuple[int, ...]) -> Iterator[tuple[Views, int | None, str]]:
    """Views with one thing changed, which frame (None for all), and what the frame looks like then."""
    assert views.cameras is not None, "views that are checked have cameras"
    assert views.masks is not None, "views that are checked have masks"
    for frame in frames:
        for what, turn in (
            ("looks mirrored", lambda x: x.flip(-1)),
            ("looks upside down", lambda x: x.flip(-1, -2)),
            ("looks flipped top to bottom", lambda x: x.flip(-2)),
            ("looks turned by a quarter", lambda x: x.rot90(1, (-2, -1))),
            ("looks turned by a quarter", lambda x: x.rot90(-1, (-2, -1))),
        ):
            if views.size[0] != views.size[1] and "quarter" in what:
                continue
            images, masks = views.images.clone(), views.masks.clone()
            images[frame], masks[frame] = turn(images[frame]), turn(masks[frame])
            yield replace(views, images=images, masks=masks), frame, what
        for factor in _FACTORS:
            what = f"looks as if its focal length were {factor:.2g} of what it should be"
            yield _with_focal(views, [frame], 1 / factor), frame, what
    if len(views) > 2:
        for factor in _FACTORS:
            what = f"look as if all focal lengths were {factor:.2g} of what they should be"
            yield _with_focal(views, list(range(len(views))), 1 / factor), None, what


def _with_focal(views: Views, frames: list[int], factor: float) -> Views:
    assert views.cameras is not None, "views that are checked have cameras"
    K = views.cameras.K.clone()
    K[frames, 0, 0] *= factor
    K[frames, 1, 1] *= factor
    return replace(views, cameras=replace(views.cameras, K=K))


def _name(views: Views, frame: int) -> str:
    return f"frame {views.names[frame] if views.names else frame}"
