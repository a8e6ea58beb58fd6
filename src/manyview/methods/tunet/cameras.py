"""Pairs of cameras as tensors: what TUNet is told of a reference and its targets.

Only what lies between the two cameras enters, in the reference's own axes and in units in which the
reference stands `DISTANCE` from the point that is looked at. So nothing changes when the whole world is
moved, turned or scaled. R references, B targets; every target belongs to one reference.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.geometry.pixels import pixel_centers
from manyview.geometry.projection import require_pinhole, transform_points
from manyview.geometry.sweep import relative_sweep_grid
from manyview.types import Cameras

DISTANCE = 1.5
CAMERA_NUMBERS = 19
"""Of a camera's vector: rotation 9, translation 3, lens 4, point looked at 3."""
RAY_NUMBERS = 6


@dataclass(frozen=True, kw_only=True)
class CameraPairs:
    """References and targets, all float32."""

    reference_lens: Tensor
    """[R, 4] fx / width, fy / height, cx / width, cy / height."""
    reference_focus: Tensor
    """[R, 3] the point looked at, in the reference's axes."""
    target_lens: Tensor
    """[B, 4]"""
    target_focus: Tensor
    """[B, 3] the same point in the target's axes."""
    reference_from_target: Tensor
    """[B, 4, 4] rigid, in normalised units."""
    reference_of: Tensor
    """[B] int64, which reference a target belongs to."""

    def __len__(self) -> int:
        return len(self.reference_of)

    def to(self, device: torch.device | str) -> CameraPairs:
        """Moved to a device."""
        return CameraPairs(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def targets(self, chosen: slice | Tensor) -> CameraPairs:
        """The same references with some of the targets."""
        return CameraPairs(
            reference_lens=self.reference_lens,
            reference_focus=self.reference_focus,
            target_lens=self.target_lens[chosen],
            target_focus=self.target_focus[chosen],
            reference_from_target=self.reference_from_target[chosen],
            reference_of=self.reference_of[chosen],
        )

    def narrowed(self) -> tuple[CameraPairs, Tensor]:
        """The same targets without references that none of them has, and the numbers [r] of those left."""
        used, places = self.reference_of.unique(return_inverse=True)
        kept = replace(
            self,
            reference_lens=self.reference_lens[used],
            reference_focus=self.reference_focus[used],
            reference_of=places,
        )
        return kept, used

    def reference_vectors(self) -> Tensor:
        """[R, 19] the references' cameras: at the origin of their own axes."""
        axes = torch.eye(4, device=self.reference_lens.device).expand(len(self.reference_lens), 4, 4)
        return _vectors(axes, self.reference_lens, self.reference_focus)

    def target_vectors(self) -> Tensor:
        """[B, 19] the targets' cameras as the references see them."""
        return _vectors(self.reference_from_target, self.target_lens, self.target_focus)

    def reference_rays(self, cells: tuple[int, int]) -> Tensor:
        """[R, 6, h, w] origin and unit direction through the middle of every cell, about the point looked at,
        in the references' axes."""
        axes = torch.eye(4, device=self.reference_lens.device).expand(len(self.reference_lens), 4, 4)
        return _rays(axes, self.reference_lens, self.reference_focus, cells)

    def target_rays(self, cells: tuple[int, int]) -> Tensor:
        """[B, 6, h, w] the same of the targets, in their references' axes."""
        focus = self.reference_focus[self.reference_of]
        return _rays(self.reference_from_target, self.target_lens, focus, cells)

    def sweep(self, count: int, half_range: float, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Where the targets' rays fall in their references at `count` depths about the point looked at: a
        grid [B, D, h, w, 2] for `grid_sample` and bool [B, D, h, w], whether that is a place of the image."""
        offsets = torch.linspace(-half_range, half_range, count, device=self.target_focus.device)
        if count == 1:
            offsets = torch.zeros_like(offsets)
        depths = (self.target_focus[:, 2:] + offsets).clamp_min(1e-2)
        lens = self.reference_lens[self.reference_of]
        return relative_sweep_grid(self.reference_from_target, self.target_lens, lens, depths, cells)


def pair_cameras(
    references: Cameras,
    targets: Cameras,
    *,
    focus: Tensor | None = None,
    reference_of: Tensor | None = None,
) -> CameraPairs:
    """Pairs of R references and B targets in one world.

    focus [3] or [R, 3]: the point of the world that the scene is about, whose distance from the reference is
    the unit (`scene_focus` of a whole capture); when not given, of every reference the point of its optical
    axis nearest to the world's origin, which is where an object of this package stands. reference_of [B]:
    all of the only reference, or one by one, when not given. Raises `InputError` for numbers that do not fit,
    for cameras with lens distortion and for a reference that stands on the focus.
    """
    require_pinhole(references)
    require_pinhole(targets)
    if reference_of is None:
        if len(references) not in (1, len(targets)):
            accepted = f"expected 1 or {len(targets)}, one for each target"
            raise InputError("references", len(references), accepted)
        count = torch.arange(len(targets), device=targets.K.device)
        reference_of = torch.zeros_like(count) if len(references) == 1 else count
    points = axis_points(references) if focus is None else focus.to(references.K).expand(len(references), 3)
    in_reference = transform_points(references.cam_from_world.double(), points.double()[:, None])[:, 0]
    lengths = torch.linalg.vector_norm((points - references.centers).double(), dim=-1)
    if bool((lengths < 1e-9).any()):
        raise InputError("cameras", "reference stands on the point looked at", "expected one away from it")
    scale = DISTANCE / lengths
    of = reference_of
    in_target = transform_points(targets.cam_from_world.double(), points[of].double()[:, None])[:, 0]
    relative = references.cam_from_world.double()[of] @ targets.world_from_cam.double()
    relative[:, :3, 3] *= scale[of][:, None]
    return CameraPairs(
        reference_lens=_lenses(references),
        reference_focus=(in_reference * scale[:, None]).float(),
        target_lens=_lenses(targets),
        target_focus=(in_target * scale[of][:, None]).float(),
        reference_from_target=relative.float(),
        reference_of=of,
    )


def scene_focus(cameras: Cameras) -> Tensor:
    """[3] the point that a capture's cameras look at; where their axes are parallel, the point of the first
    one's axis nearest to the world's origin."""
    try:
        return focus_point(cameras)
    except InputError:
        return axis_points(cameras[0])[0]


def axis_points(cameras: Cameras) -> Tensor:
    """[V, 3] of each camera the point of its optical axis nearest to the world's origin; where that lies
    behind it, the point `DISTANCE` ahead."""
    forward = cameras.world_from_cam[:, :3, 2]
    ahead = -(cameras.centers * forward).sum(dim=-1, keepdim=True)
    return cameras.centers + torch.where(ahead > 1e-6, ahead, DISTANCE) * forward


def _lenses(cameras: Cameras) -> Tensor:
    size = cameras.sizes.flip(-1).to(cameras.K)
    focal = torch.stack([cameras.K[:, 0, 0], cameras.K[:, 1, 1]], dim=-1)
    return torch.cat([focal / size, cameras.K[:, :2, 2] / size], dim=-1).float()


def _vectors(transforms: Tensor, lens: Tensor, focus: Tensor) -> Tensor:
    return torch.cat([transforms[:, :3, :3].flatten(1), transforms[:, :3, 3], lens, focus], dim=-1)


def _rays(transforms: Tensor, lens: Tensor, focus: Tensor, cells: tuple[int, int]) -> Tensor:
    rows, columns = cells
    shares = pixel_centers(rows, columns).to(lens) / lens.new_tensor([columns, rows])
    ideal = (shares[None] - lens[:, None, None, 2:]) / lens[:, None, None, :2]
    through = torch.cat([ideal, torch.ones_like(ideal[..., :1])], dim=-1)
    # Sums of products: autocast would multiply matrices in half precision.
    turned = (transforms[:, None, None, :3, :3] * through[..., None, :]).sum(dim=-1)
    directions = torch.nn.functional.normalize(turned, dim=-1)
    origins = (transforms[:, :3, 3] - focus)[:, None, None].expand_as(directions)
    return torch.cat([origins, directions], dim=-1).permute(0, 3, 1, 2)
