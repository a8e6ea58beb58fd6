"""Posed images of scenes as networks look at them: read once, queried from any camera.

Shapes as in `epipolar`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.sparsefusion.epipolar import depth_range, relative_transforms, same_cameras
from manyview.methods.sparsefusion.features import ResidualEncoder, Sampling
from manyview.methods.sparsefusion.spec import MAX_VIEWS
from manyview.types import Cameras

Own = Literal["refuse", "hide", "show"]
"""What to do where a query camera is also a context camera."""
RAYS_AT_ONCE = 4096
"""Rays times context views that are worked on together where no gradient is asked for."""


@dataclass(frozen=True)
class Context:
    """N posed images of each of B scenes, read once and queried many times."""

    maps: Tensor
    """[B, N, F, h, w] features."""
    images: Tensor
    """[B, N, 3, H, W] in [0, 1]."""
    cameras: Cameras
    """B N cameras, scene by scene."""
    depth_ranges: Tensor
    """[B, 2] nearest and farthest depth along a query camera's z axis."""
    present: Tensor
    """bool [B, N] on the CPU; False where a scene has fewer views than the batch's largest."""
    latents: Tensor | None = None
    """[B, N, c, h, w] of the images, where the EFT is to blend them as it blends colours."""


class ContextNetwork(ModelMixin, ConfigMixin):
    """What networks share that read a context once and are then asked for cameras.

    Their config has `sampling`, `half_range` and `min_near`.
    """

    encoder: ResidualEncoder

    @property
    def sampling(self) -> Sampling:
        """How pixels, cells and rays are laid over each other."""
        return self.config["sampling"]

    def depth_range(self, cameras: Cameras, center: Tensor | None = None) -> Tensor:
        """[2] nearest and farthest depth of a scene (`epipolar.depth_range` with the config's numbers)."""
        return depth_range(
            cameras, self.config["half_range"], center=center, min_near=self.config["min_near"]
        )

    def encode(
        self, images: Tensor, cameras: Cameras, depth_ranges: Tensor, present: Tensor | None = None
    ) -> Context:
        """The context of images [B, N, 3, H, W] in [0, 1] with B N cameras; see `encode_context`."""
        return encode_context(self.encoder, self.sampling, images, cameras, depth_ranges, present)


def split_rays(pixels: Tensor, context: Context, query: Cameras, at_once: int | None) -> tuple[Tensor, ...]:
    """Parts of pixels [R, 2], `at_once` each; None: so many that memory stays bounded where no gradient is
    asked for, else all."""
    if at_once is None:
        views = context.present.shape[1]
        whole = torch.is_grad_enabled()
        at_once = len(pixels) if whole else max(1, RAYS_AT_ONCE // (views * len(query)))
    return pixels.split(at_once)


def encode_context(
    encoder: ResidualEncoder,
    sampling: Sampling,
    images: Tensor,
    cameras: Cameras,
    depth_ranges: Tensor,
    present: Tensor | None = None,
) -> Context:
    """The context of images [B, N, 3, H, W] in [0, 1] with B N cameras of their size.

    `depth_ranges` [B, 2] from `epipolar.depth_range`; `present` bool [B, N], everything by default. Raises
    `InputError` for no or more than eight views, shapes that do not fit, a scene without any view, and
    depths that do not begin in front of the cameras.
    """
    if images.ndim != 5 or images.shape[2] != 3:
        raise InputError("images", tuple(images.shape), "expected [B, N, 3, H, W]")
    scenes, views, _, height, width = images.shape
    if not 1 <= views <= MAX_VIEWS:
        raise InputError("images", f"{views} views", f"expected 1 to {MAX_VIEWS}")
    if len(cameras) != scenes * views:
        raise InputError("cameras", len(cameras), f"expected {scenes * views}, one for every image")
    if bool((cameras.sizes != cameras.sizes.new_tensor([height, width])).any()):
        found = cameras.sizes.tolist()
        raise InputError("cameras.sizes", found, f"expected the images' size {[height, width]}")
    if depth_ranges.shape != (scenes, 2) or not bool(
        ((depth_ranges[:, 0] > 0) & (depth_ranges[:, 0] < depth_ranges[:, 1])).all()
    ):
        raise InputError("depth_ranges", depth_ranges.tolist(), "expected 0 < near < far for every scene")
    if present is None:
        present = torch.ones(scenes, views, dtype=torch.bool)
    present = present.cpu()
    if present.shape != (scenes, views) or not bool(present.any(dim=1).all()):
        raise InputError("present", present.tolist(), "expected one or more views in every scene")
    maps = encoder(images.flatten(0, 1).to(encoder.stem.weight.dtype), sampling)
    return Context(maps.unflatten(0, (scenes, views)), images, cameras, depth_ranges, present)


def place_query(context: Context, query: Cameras, own: Own = "refuse") -> tuple[Tensor, Tensor | None]:
    """[B, Q, N, 4, 4] float64 context_from_query of B Q query cameras, scene by scene, and bool [B, Q, N] the
    views that a query may not see (None where all see all).

    Raises `InputError` for queries that do not fit the context, and one without any context view left.
    """
    scenes = context.present.shape[0]
    if len(query) == 0 or len(query) % scenes:
        raise InputError("query", len(query), f"expected a multiple of {scenes}, the same for every scene")
    height, width = context.images.shape[-2:]
    if bool((query.sizes != query.sizes.new_tensor([height, width])).any()):
        raise InputError("query.sizes", query.sizes.tolist(), f"expected the images' {[height, width]}")
    relative = relative_transforms(query, context.cameras, scenes)
    return relative, _hidden_views(context, relative, own)


def _hidden_views(context: Context, relative: Tensor, own: Own) -> Tensor | None:
    """bool [B, Q, N] views that a query may not see; None where all see all."""
    hidden = ~context.present[:, None].expand(relative.shape[:3])
    same = same_cameras(relative, context.depth_ranges).cpu() & ~hidden
    if own == "refuse" and bool(same.any()):
        scene, query, view = (int(i) for i in same.nonzero()[0])
        raise InputError(
            f"query[{scene}, {query}]", f"is context view {view}", "expected a camera of no context view"
        )
    if own == "hide":
        hidden = hidden | same
    if bool(hidden.all(dim=2).any()):
        scene, query = (int(i) for i in hidden.all(dim=2).nonzero()[0])
        raise InputError(f"query[{scene}, {query}]", "has no context view but itself", "expected another")
    return hidden.to(context.maps.device) if bool(hidden.any()) else None
