"""Input that lies: what is found, and that honest input is left in peace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from box_capture import box_cameras, draw_box

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.methods.sparsefusion.checks import check_views, measure
from manyview.types import Views

STILL = Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


def box_views(count: int = 5, hue: float = 0.0, **changes) -> Views:
    cameras = box_cameras(count, size=(64, 64), lens=None, move=STILL, **changes)
    images, masks = draw_box(cameras, STILL, hue=hue, times=2)
    return Views(
        images=images, masks=masks, cameras=cameras.to(torch.float32), names=tuple("abcdefgh"[:count])
    )


@pytest.fixture(scope="module")
def honest() -> Views:
    return box_views()


def changed(views: Views, frame: int, turn) -> Views:
    images, masks = views.images.clone(), views.masks.clone()
    images[frame], masks[frame] = turn(images[frame]), turn(masks[frame])
    return replace(views, images=images, masks=masks)


def with_focal(views: Views, factors: list[float]) -> Views:
    K = views.cameras.K * torch.tensor(factors)[:, None, None] ** torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    )
    return replace(views, cameras=replace(views.cameras, K=K))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_honest_views_agree(count: int):
    views = box_views(count, arc_deg=40.0 * count)
    agreement = measure(views)
    # A pixel of a mask lies on the object by half at least, the other masks count from three tenths.
    assert agreement.worst > 0.985
    # Neighbours 40 degrees apart share a side, so a fifth of the pixels find their very colour.
    assert float(agreement.colors.amin(dim=1).max()) < 0.02
    assert check_views(views) == []


def test_a_tenth_of_a_degree_and_a_pixel_are_forgiven(honest: Views):
    K = honest.cameras.K.clone()
    K[:, 0, 2] += torch.tensor([0.5, -0.5, 0.4, -0.3, 0.5])
    nudged = replace(honest, cameras=replace(honest.cameras, K=K))
    assert check_views(nudged) == []


def test_one_wrong_focal_length_is_named(honest: Views):
    found = check_views(with_focal(honest, [1, 1, 1.5, 1, 1]))
    assert len(found) == 1
    assert found[0].frames == (2,)
    assert "frame c looks as if its focal length were 1.5 of what it should be" in found[0].line


def test_of_two_views_it_cannot_be_told_which():
    found = check_views(with_focal(box_views(2, arc_deg=80.0), [1.5, 1.0]))
    assert len(found) == 1
    assert "frame a and frame b do not fit each other" in found[0].line


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda x: x.rot90(1, (-2, -1)), "looks turned by a quarter"),
        (lambda x: x.flip(-1, -2), "looks"),
    ],
    ids=["quarter", "upside down"],
)
def test_a_turned_picture_is_named(honest: Views, turn, said: str):
    found = check_views(changed(honest, 1, turn))
    assert found
    assert found[-1].frames == (1,)
    assert said in found[-1].line


def test_a_picture_of_something_else(honest: Views):
    # The same box in other colours: outlines cannot tell.
    other = box_views(hue=1.0)
    images = honest.images.clone()
    images[3] = other.images[3]
    found = check_views(replace(honest, images=images))
    assert found
    assert found[0].frames == (3,)
    assert "frame d does not have the others' colours" in found[0].line


def test_views_of_nothing_in_common_are_refused(honest: Views):
    masks = torch.zeros_like(honest.masks)
    masks[:, :, 5:12, 5:12] = 1  # in a corner of every picture: rays that miss each other
    with pytest.raises(InputError, match="they share no object; expected the right cameras and one object"):
        check_views(replace(honest, masks=masks))


def test_one_camera_twice(honest: Views):
    poses = honest.cameras.world_from_cam.clone()
    poses[1] = poses[0]
    cameras = replace(honest.cameras, world_from_cam=poses)
    lines = [finding.line for finding in check_views(replace(honest, cameras=cameras))]
    assert any("frame a and frame b have one camera but differ" in line for line in lines)


def test_the_order_of_views_changes_nothing_but_the_order(honest: Views):
    order = [3, 0, 4, 1, 2]
    whole = 10_000  # all pixels, so that no draw is involved
    first, again = measure(honest, rays=whole), measure(honest[order], rays=whole)
    torch.testing.assert_close(again.outlines, first.outlines[order])
    torch.testing.assert_close(again.colors, first.colors[order][:, order])
