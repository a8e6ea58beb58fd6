"""The self-taught camera: how an object turned between two pictures of a generator, and through which lens.

Nothing says how far away a generator's objects are or how large: scale is free. Here they are `pivot` away,
and a pose is a turn about the point on the camera's axis at that distance and a shift, so that a net that has
learnt nothing yet turns objects in place instead of swinging them out of the picture (Monodepth2's pose turns
about the camera, which suits cars). Poses `source_from_target` map camera points of the target (the pixel
grid) into the source's camera, OpenCV axes. A camera that moves to its right about the object (positive yaw,
as `geometry.trajectories.yaw_sweep`) makes a positive turn about the camera's y axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from manyview.geometry.rotations import (
    axis_angle_from_matrix,
    quaternion_from_axis_angle,
    rigid_from_vector,
)
from manyview.geometry.trajectories import sphere_cameras
from manyview.nets.monodepth.encoder import COMPACT_WIDTHS
from manyview.nets.monodepth.motion import LogFocal, PoseNet
from manyview.types import Cameras

PIVOT = 1.5
FOCAL = 35 / 32
"""In image widths: that of the package's renders."""
REACH = 0.7
"""How far from the pivot a surface may be."""


class PoseEstimator(ModelMixin, ConfigMixin):
    """Monodepth2's pose network on pairs, the lens, and the axis about which sweeps were found to turn."""

    axis: Tensor

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = COMPACT_WIDTHS,
        hidden: int = 48,
        pivot: float = PIVOT,
        reach: float = REACH,
        focal: float = FOCAL,
        learned_focal: bool = False,
        scale: float = 20.0,
    ) -> None:
        """`pivot`, `reach`: depths lie within pivot +- reach. `focal`: in image widths, given, or where the
        learning of it begins. `scale`: of the network's answers, which are about 0.01 at first."""
        super().__init__()
        self.net = PoseNet(widths=tuple(widths), hidden=hidden)
        self.lens = LogFocal(focal=focal, learned=learned_focal)
        self.register_buffer("axis", torch.tensor([0.0, 1.0, 0.0]))

    @property
    def pivot(self) -> float:
        """Depth of the point about which objects turn."""
        return float(self.config["pivot"])

    @property
    def depths(self) -> tuple[float, float]:
        """Nearest and farthest depth of a surface."""
        reach = float(self.config["reach"])
        return self.pivot - reach, self.pivot + reach

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """[B, 6] turn (axis-angle) and shift of `source` against `target`, [B, 3, H, W] in [0, 1] each.

        Half the difference of what the network tells of a pair and of the pair exchanged, so a pair of equal
        pictures has no turn, and exchanging them inverts it.
        """
        both = self.net(torch.cat([target, source]), torch.cat([source, target]))[:, 0]
        there, back = both.chunk(2)
        return (there - back) * (0.5 * float(self.config["scale"]))

    def transform(self, vector: Tensor) -> Tensor:
        """[B, 4, 4] `source_from_target` of turns and shifts [B, 6]."""
        moved = rigid_from_vector(vector)
        offset = vector.new_tensor([0.0, 0.0, self.pivot])
        shift = moved[:, :3, 3] + offset - moved[:, :3, :3] @ offset
        bottom = moved.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(moved), 1, 4)
        return torch.cat([torch.cat([moved[:, :3, :3], shift[..., None]], dim=2), bottom], dim=1)

    def turn(self, yaw_deg: Tensor) -> Tensor:
        """[B, 6] the pure turns about the axis by yaws [B]."""
        angles = torch.deg2rad(yaw_deg).to(self.axis)
        return torch.cat([angles[:, None] * self.axis, angles.new_zeros(len(angles), 3)], dim=1)

    def yaw_deg(self, vector: Tensor) -> Tensor:
        """[B] degrees that turns [B, 6] have about the axis (the twist), positive as for a camera moving to
        its right."""
        quaternion = quaternion_from_axis_angle(vector[:, :3].float())
        along = (quaternion[:, 1:] * self.axis).sum(dim=1)
        return torch.rad2deg(2 * torch.atan2(along, quaternion[:, 0]))

    def K(self, height: int, width: int) -> Tensor:
        """[3, 3] intrinsics in pixels."""
        return self.lens.K(height, width)

    @torch.no_grad()
    def find_axis(self, vectors: Tensor) -> None:
        """Take as axis the one that turns [N, 6] have in common, the longer ones counting more, pointing
        down in the picture."""
        turns = vectors[:, :3].double()
        _, directions = torch.linalg.eigh(turns.T @ turns)
        axis = directions[:, -1]
        self.axis.copy_((axis if axis[1] >= 0 else -axis).to(self.axis))

    @property
    def elevation_deg(self) -> float:
        """How far above the object's middle the camera stands, as the axis says."""
        return float(torch.rad2deg(torch.atan2(self.axis[2], self.axis[1])))

    def cameras(self, vectors: Tensor, height: int, width: int) -> Cameras:
        """Where pictures were seen from, of their turns [V, 6] against one of azimuth 0; world up +Z, the
        pivot at the origin."""
        first = sphere_cameras([0.0], self.elevation_deg, self.pivot, size=(height, width))
        moved = self.transform(vectors.float().cpu()).double() @ first.cam_from_world.double()
        back = torch.linalg.inv(moved).float()
        rotation, _, other = torch.linalg.svd(back[:, :3, :3])
        back[:, :3, :3] = rotation @ other  # rounding apart, it is one already
        count = len(vectors)
        K = self.K(height, width).detach().float().cpu().expand(count, 3, 3).clone()
        return Cameras(world_from_cam=back, K=K, sizes=first.sizes.expand(count, 2).clone())


def vectors_between(poses: Tensor, pivot: float) -> Tensor:
    """[B, 6] turns and shifts about the pivot of poses [B, 4, 4]: what `PoseEstimator.transform` takes."""
    offset = poses.new_tensor([0.0, 0.0, pivot])
    shift = poses[:, :3, 3] - offset + poses[:, :3, :3] @ offset
    return torch.cat([axis_angle_from_matrix(poses[:, :3, :3]), shift], dim=1)
