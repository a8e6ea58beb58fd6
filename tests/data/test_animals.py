"""Aligned animals: they face +X, are symmetric, and a view's yaw is where its camera stands."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from manyview.data.procedural.animals import (
    EYES,
    SNOUT,
    draw_yaw,
    make_animal,
    render_single_views,
    render_sweep,
    view_cameras,
)
from manyview.geometry.projection import project


def test_they_face_the_camera_of_yaw_zero_and_stand_upright() -> None:
    for seed in range(12):
        animal = make_animal(seed)
        centres = animal.vertices[animal.faces].mean(dim=1)
        eyes, snout = (centres[animal.material == slot].mean(dim=0) for slot in (EYES, SNOUT))
        assert float(eyes[0]) > 0.1, seed
        assert float(snout[0]) > 0.1, seed
        assert abs(float(eyes[1])) < 0.02, seed
        assert float(eyes[2]) > 0.1, seed
        low, high = animal.vertices.amin(dim=0), animal.vertices.amax(dim=0)
        assert_close((high - low).max(), torch.tensor(1.0))
        assert_close(low + high, torch.zeros(3), atol=1e-5, rtol=0)


def test_a_camera_of_positive_yaw_sees_the_snout_at_its_left() -> None:
    animal = make_animal(3)
    snout = animal.vertices[animal.faces].mean(dim=1)[animal.material == SNOUT].mean(dim=0)
    pixels, _ = project(snout[None, None], view_cameras([-40.0, 0.0, 40.0]))
    columns = pixels[:, 0, 0]
    assert float(columns[2]) < float(columns[1]) < float(columns[0])
    assert abs(float(columns[1]) - 32) < 1


def test_opposite_yaws_are_mirror_images_but_for_the_light() -> None:
    views = render_sweep(5, [-35.0, 35.0], size=48)
    assert views.masks is not None
    assert float((views.masks[0].flip(-1) - views.masks[1]).abs().mean()) < 0.01
    # Not so the pictures of one animal at one yaw and of another.
    other = render_sweep(6, [35.0], size=48)
    assert other.masks is not None
    assert float((other.masks[0] - views.masks[1]).abs().mean()) > 0.02


def test_single_views_follow_from_their_seeds() -> None:
    some = render_single_views([4, 9, 2], size=32)
    one = render_single_views([9], size=32)
    assert np.array_equal(some.images[1], one.images[0])
    assert np.array_equal(some.depths[1], one.depths[0])
    assert some.images.shape == (3, 32, 32, 3)
    assert some.yaw_deg.tolist() == [np.float32(draw_yaw(seed)) for seed in (4, 9, 2)]
    sweep = render_sweep(9, [draw_yaw(9)], size=32)
    assert_close(
        torch.from_numpy(one.images[0]).float(), sweep.over(1.0)[0].permute(1, 2, 0) * 255, atol=0.6, rtol=0
    )
    assert sweep.cameras is not None
    assert np.allclose(some.K, sweep.cameras.K[0].numpy())
    covered = some.masks == 255
    assert covered.mean() > 0.05
    assert 0.6 < some.depths[covered].min() < some.depths[covered].max() < 2.4
    assert (some.depths[some.masks == 0] == 0).all()
    assert (some.images[some.masks == 0] == 255).all()


def test_yaws_fill_their_range_evenly() -> None:
    yaws = np.array([draw_yaw(seed, 30.0) for seed in range(2000)])
    assert yaws.min() < -29
    assert yaws.max() > 29
    assert np.abs(np.histogram(yaws, 6, (-30, 30))[0] / 2000 - 1 / 6).max() < 0.04


def test_animals_differ() -> None:
    shapes = torch.stack([render_sweep(seed, [20.0], size=32).over(1.0)[0] for seed in range(8)])
    gaps = torch.pdist(shapes.flatten(1)) / shapes[0].numel() ** 0.5
    assert float(gaps.min()) > 0.04
