"""Cross-view consistency on planes whose pixels can be matched by hand."""

from __future__ import annotations

import pytest
import torch

from manyview.errors import InputError
from manyview.metrics import neighbour_l1, reprojection_l1
from manyview.types import Cameras


def shifted_cameras(offsets: list[float], size: int = 16, focal: float = 16.0) -> Cameras:
    """Cameras side by side looking along world +z, moved by `offsets` along their x axis."""
    matrices = torch.eye(4).repeat(len(offsets), 1, 1)
    matrices[:, 0, 3] = torch.tensor(offsets)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Cameras(
        world_from_cam=matrices,
        K=K.repeat(len(offsets), 1, 1),
        sizes=torch.full((len(offsets), 2), size),
    )


# A plane at depth 2 and cameras 0.5 apart with focal 16: the picture moves by 16 * 0.5 / 2 = 4 pixels.
SHIFT = 4


def plane_views() -> tuple[torch.Tensor, torch.Tensor, Cameras]:
    wide = torch.rand(3, 16, 16 + SHIFT, generator=torch.Generator().manual_seed(0))
    images = torch.stack((wide[..., :16], wide[..., SHIFT:]))
    return images, torch.full((2, 1, 16, 16), 2.0), shifted_cameras([0.0, 0.5])


def test_consistent_views_have_no_error() -> None:
    found = reprojection_l1(*plane_views())
    assert found.pairs == ((1, 0), (0, 1))
    # Each sees all but 4 of the other's 16 columns.
    assert found.num_pixels.tolist() == [16 * 12, 16 * 12]
    assert found.mean_l1 == pytest.approx(0, abs=1e-5)


def test_error_is_the_colour_difference() -> None:
    images, depths, cameras = plane_views()
    images = images * 0.5
    images[1] += 0.25
    found = reprojection_l1(images, depths, cameras)
    assert found.l1.tolist() == pytest.approx([0.25, 0.25], abs=1e-5)
    assert found.mean_l1 == pytest.approx(0.25, abs=1e-5)


def test_hidden_pixels_are_left_out() -> None:
    # Camera 1 has something at depth 1 in front of half its plane: camera 0's plane pixels that fall there
    # are hidden and must not count, however wrong their colour.
    images, depths, cameras = plane_views()
    depths[1, :, :8] = 1.0
    images[1, :, :8] = 5.0
    found = reprojection_l1(images, depths, cameras, pairs=[(1, 0)])
    assert found.num_pixels.tolist() == [8 * 12]
    assert found.mean_l1 == pytest.approx(0, abs=1e-5)


def test_background_does_not_count() -> None:
    images, depths, cameras = plane_views()
    depths[0, :, 4:] = 0
    assert reprojection_l1(images, depths, cameras, pairs=[(1, 0)]).num_pixels.tolist() == [4 * 12]


def test_nothing_in_common() -> None:
    images, depths, _ = plane_views()
    found = reprojection_l1(images, depths, shifted_cameras([0.0, 100.0]))
    assert found.num_pixels.tolist() == [0, 0]
    assert found.l1.isnan().all()
    with pytest.raises(InputError, match="no pixel is visible in two views"):
        _ = found.mean_l1


def test_shapes_are_checked() -> None:
    images, depths, cameras = plane_views()
    with pytest.raises(InputError, match="images, depths"):
        reprojection_l1(images[:1], depths, cameras)


def test_neighbours_on_an_orbit() -> None:
    levels = torch.tensor([0.0, 0.1, 0.4]).reshape(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert neighbour_l1(levels).tolist() == pytest.approx([0.1, 0.3, 0.4])
    assert neighbour_l1(levels, closed=False).tolist() == pytest.approx([0.1, 0.3])
    # Starting the orbit elsewhere only moves the numbers along.
    turned = neighbour_l1(levels.roll(1, dims=0))
    assert turned.tolist() == pytest.approx([0.4, 0.1, 0.3])
