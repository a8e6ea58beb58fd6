"""Any capture's world and pictures brought to what the networks know, and answers brought back.

The networks were trained on objects whose longest side is 1, at the origin, seen square and upright from a
distance of about 1.5, through a lens that lets a length of 1 cover TRAINING_FILL of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity, nearest_to_lines
from manyview.geometry.rays import pixel_rays
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import look_at
from manyview.io.framing import TRAINING_FILL
from manyview.lift.field.neural import NeuralField
from manyview.lift.field.voxels import VoxelField
from manyview.lift.sdf.model import SdfField
from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.poses import up_axis
from manyview.types import Cameras, Views

DISTANCES = (1.2, 2.2)
"""Mean distances from the object, in its longest sides, that are left as they are."""
_EXTENT_OF_SIDE = 1.1
"""An object's longer extent in a picture, in units of its longest side: the mean over views of the
validation objects."""
_KEPT_OFFSET = 0.3
_KEPT_SIZES = (0.5, 1.4)
_KEPT_FOCALS = (0.9, 1.3)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a capture was brought to the networks' world."""

    similarity: Similarity
    """Maps the capture's world to the networks'."""
    size: float
    """About the object's longest side in the networks' world."""
    up: Tensor
    """[3] unit, float64: up in the capture's world and in the networks' (there is no turn between them)."""
    kept: bool
    """Whether the capture was as the networks want it already, so that nothing was moved or reframed."""

    @property
    def record(self) -> dict[str, object]:
        """For the manifest."""
        return {
            "scale": self.similarity.scale,
            "translation": self.similarity.translation.tolist(),
            "size": self.size,
            "up": self.up.tolist(),
            "kept": self.kept,
        }

    def frame(self, cameras: Cameras, resolution: int) -> Cameras:
        """Cameras in the places of V `cameras` (of the networks' world), square, upright, turned to the
        object and zoomed until it fills the picture as in training; where the capture was `kept` and these
        are square pinholes, they themselves.
        """
        if self.kept and _square_pinholes(cameras):
            return cameras.resized(resolution, resolution)
        centers = cameras.centers.double()
        distances = torch.linalg.vector_norm(centers, dim=1)
        if not bool((distances > 0.5 * self.size).all()):
            index = int(distances.argmin())
            line = f"stands inside the object ({float(distances[index]) / self.size:.2f} of its size from it)"
            raise InputError(f"cameras[{index}]", line, "expected cameras around the object")
        upright = rotation_to_z(self.up)
        poses = look_at(centers @ upright.mT)
        turn = torch.eye(4, dtype=torch.float64)
        turn[:3, :3] = upright.mT
        focal = TRAINING_FILL * resolution * distances / self.size
        K = torch.zeros(len(cameras), 3, 3, dtype=torch.float64)
        K[:, 0, 0] = K[:, 1, 1] = focal
        K[:, :2, 2] = resolution / 2
        K[:, 2, 2] = 1
        sizes = torch.tensor([[resolution, resolution]]).expand(len(cameras), 2).clone()
        return Cameras(world_from_cam=(turn @ poses).float(), K=K.float(), sizes=sizes)

    def views_back(self, views: Views) -> Views:
        """Views of the networks' world in the capture's: cameras moved, depths rescaled."""
        back = self.similarity.inverse()
        cameras = views.cameras
        return replace(
            views,
            cameras=None if cameras is None else back.apply_to_cameras(cameras),
            depths=None if views.depths is None else views.depths * back.scale,
        )

    def field_back(self, field: Volume) -> Volume:
        """A field of the networks' world in the capture's. Its tensors are shared, not copied."""
        return move_field(field, self.similarity.inverse())


def place(
    masks: Sequence[Tensor],
    cameras: Cameras,
    *,
    up: Tensor | None = None,
    argument: str = "INPUT",
) -> Placement:
    """Where the object of V masks [1, H, W], one for each of V `cameras`, is brought to.

    Its middle goes to the origin, its longest side to 1; but where the cameras are then nearer than 1.2 or
    farther than 2.2 on average, the scale makes that their distance (a smaller or larger object is nearer to
    what the networks know than a far camera). A single view says nothing about distance: its object is taken
    to have the size 1. `up`: the world's, by default told from the cameras. Raises `InputError` where the
    views' objects have no common place.
    """
    center, size = locate_object(masks, cameras, argument=argument)
    distance = float(torch.linalg.vector_norm(cameras.centers.double() - center, dim=1).mean())
    up = up_axis(cameras) if up is None else up.double()
    identity = torch.eye(3, dtype=torch.float64)
    if _is_placed(cameras, center, size, distance):
        still = Similarity(1.0, identity, torch.zeros(3, dtype=torch.float64))
        return Placement(similarity=still, size=1.0, up=up, kept=True)
    aim = min(max(distance / size, DISTANCES[0]), DISTANCES[1])
    scale = aim / distance
    move = Similarity(scale, identity, -scale * center)
    return Placement(similarity=move, size=size * scale, up=up, kept=False)


def locate_object(
    masks: Sequence[Tensor], cameras: Cameras, *, argument: str = "INPUT"
) -> tuple[Tensor, float]:
    """The middle [3] (float64) and about the longest side of the object that V masks [1, H, W] show.

    The middle is nearest to the rays through the middles of the masks' bounding boxes; the side follows from
    the boxes' longer sides at its distance. Of one view: on its ray, as far as the origin is, if it looks
    towards it, and 1.5 sides otherwise.
    """
    boxes = torch.tensor([_bounding_box(mask, index, argument) for index, mask in enumerate(masks)])
    middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).double()
    precise = cameras.to(torch.float64)
    origins, directions = pixel_rays(middles[:, None], precise)
    origins, directions = origins[:, 0], directions[:, 0]
    lengths = (boxes[:, 2:] - boxes[:, :2]).double() / precise.K[:, [0, 1], [0, 1]]
    angular = lengths.amax(dim=1) / _EXTENT_OF_SIDE
    if len(masks) == 1:
        along = -float(origins[0] @ directions[0])
        off = float(torch.linalg.vector_norm(origins[0] + along * directions[0]))
        if along <= 0 or off > 0.5 * along:
            along = 1.5
        center = origins[0] + along * directions[0]
    else:
        found = nearest_to_lines(origins, directions, parallel=1e-5)
        if found is None:
            line = "see the object from one direction only; expected views from around it"
            raise InputError(argument, f"its {len(origins)} views", line)
        center = found
    depths = ((center - precise.centers)[:, None] @ precise.world_from_cam[:, :3, 2:3])[:, 0, 0]
    if not bool((depths > 0).all()):
        index = int(depths.argmin())
        line = "the object that the other frames show lies behind it; expected cameras that look at it"
        raise InputError(argument, f"frame {index}", line)
    return center, float((angular * depths).mean())


def rotation_to_z(up: Tensor) -> Tensor:
    """[3, 3] float64 the smallest turn that takes the unit vector `up` [3] to +Z."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    axis = torch.linalg.cross(up.double(), z)
    sine, cosine = float(torch.linalg.vector_norm(axis)), float(up.double() @ z)
    if sine < 1e-9:
        return torch.diag(z.new_tensor([1.0, 1.0, 1.0] if cosine > 0 else [1.0, -1.0, -1.0]))
    angle = torch.atan2(torch.tensor(sine), torch.tensor(cosine)).double()
    return matrix_from_axis_angle(axis / sine * angle)


def move_field(field: Volume, move: Similarity) -> Volume:
    """The field in a world moved by a similarity without a turn. Tensors are shared.

    Raises `InputError` for a similarity that turns, since voxels stand along the axes.
    """
    if not torch.allclose(move.rotation.double(), torch.eye(3, dtype=torch.float64), atol=1e-9):
        raise InputError("move", "turns the world", "expected a scale and a shift")

    def moved(point: Sequence[float]) -> tuple[float, float, float]:
        x, y, z = move.apply_to_points(torch.tensor(list(point), dtype=torch.float64)).tolist()
        return x, y, z

    if isinstance(field, NeuralField):
        options = replace(
            field.options, center=moved(field.options.center), scale=field.options.scale * move.scale
        )
        made: Volume = NeuralField(field.encoding, options)
        made.network = field.network
        return made.requires_grad_(False)
    box = replace(field.box, low=moved(field.box.low), voxel=field.box.voxel * move.scale)
    if isinstance(field, SdfField):
        made = SdfField(box, field.geometry.detach())
    else:
        assert isinstance(field, VoxelField), "the kinds of volume there are"
        # Density is per world unit.
        made = VoxelField(box, field.geometry.detach(), field.index >= 0, gain=field.gain / move.scale)
    made.register_buffer("index", field.index)
    made.features = field.features
    made.load_state_dict(field.state_dict())
    if isinstance(made, SdfField) and isinstance(field, SdfField):
        made.anneal = field.anneal
    return made.requires_grad_(False)


def _bounding_box(mask: Tensor, index: int, argument: str) -> tuple[float, float, float, float]:
    """left, top, right, bottom of what is above one half, in pixels."""
    inside = mask[0] > 0.5
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError(argument, f"mask of frame {index}", "is empty; expected the object in every mask")
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def _square_pinholes(cameras: Cameras) -> bool:
    square = bool((cameras.sizes[:, 0] == cameras.sizes[:, 1]).all())
    bent = cameras.distortion is not None and bool((cameras.distortion != 0).any())
    return square and not bent


def _is_placed(cameras: Cameras, center: Tensor, size: float, distance: float) -> bool:
    """Whether cameras and object are about as in training."""
    if not _square_pinholes(cameras):
        return False
    focals = cameras.K[:, 0, 0].double() / cameras.sizes[:, 1]
    # The axes have to pass the origin closely, too: the picture's middle is where the object is expected.
    away = torch.linalg.cross(cameras.centers.double(), cameras.world_from_cam[:, :3, 2].double(), dim=-1)
    return (
        float(torch.linalg.vector_norm(center)) < _KEPT_OFFSET * max(1.0, size)
        and float(torch.linalg.vector_norm(away, dim=1).max()) < _KEPT_OFFSET
        and DISTANCES[0] <= distance <= DISTANCES[1]
        and _KEPT_SIZES[0] <= size <= _KEPT_SIZES[1]
        and _KEPT_FOCALS[0] <= float(focals.min())
        and float(focals.max()) <= _KEPT_FOCALS[1]
    )
