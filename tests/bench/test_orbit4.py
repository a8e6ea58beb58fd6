"""The protocol's counts, its order of views, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manyview.bench.orbit4 import all_questions, check_orbit, observed_slots, orbit_order, read_orbit
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.io.scene import write_scene
from manyview.types import Views


def test_counts_of_the_paper() -> None:
    questions = all_questions()
    assert len(set(questions)) == 4 * 14
    # A phase: 4 subsets of one with 3 missing, 6 of two with 2, 4 of three with 1: 12 + 12 + 4 pairs.
    pairs = Counter()
    for question in questions:
        pairs[question.num_references, question.phase] += len(question.missing)
    assert pairs == {(n, k): m for n, m in ((1, 12), (2, 12), (3, 4)) for k in range(4)}
    assert questions[0].azimuths == (0, 4, 8, 12)
    assert {question.azimuths for question in questions if question.phase == 3} == {(3, 7, 11, 15)}
    assert observed_slots(questions).sum(dim=1).tolist() == [q.num_references for q in questions]


def test_item_numbers_are_fixed_by_names_alone() -> None:
    questions = all_questions()
    items = {q.item(scene, s) for q in questions for scene in ("cup", "shoe") for s in (0, 1)}
    assert len(items) == 56 * 2 * 2
    assert max(items) < 2**48
    # Published numbers must stay the same from version to version.
    assert questions[0].item("cup", 0) == 160153484246709


def test_views_are_ordered_by_azimuth() -> None:
    cameras = orbit(16, 30.0, start_azimuth_deg=11.0)
    shuffle = [0, *torch.randperm(15, generator=torch.Generator().manual_seed(0)).add(1).tolist()]
    order = orbit_order(cameras[shuffle], "x")
    assert [shuffle[i] for i in order] == list(range(16))
    # Clockwise files come out counter-clockwise.
    assert orbit_order(cameras[[0, *range(15, 0, -1)]], "x") == [0, *range(15, 0, -1)]


def test_half_a_degree_off_is_accepted_two_are_not() -> None:
    azimuth = 22.5 * torch.arange(16, dtype=torch.float64)
    for off, accepted in ((0.5, True), (2.0, False)):
        for azimuth_off, elevation_off in ((off, 0.0), (0.0, off)):
            moved = azimuth.clone()
            moved[5] += azimuth_off
            elevation = torch.full((16,), 30.0, dtype=torch.float64)
            elevation[5] -= elevation_off
            cameras = sphere_cameras(moved, elevation)
            if accepted:
                assert orbit_order(cameras, "x") == list(range(16))
            else:
                with pytest.raises(InputError, match="--data: x: "):
                    orbit_order(cameras, "x")


def test_refusals(tmp_path: Path) -> None:
    images = torch.zeros(15, 3, 8, 8)
    write_scene(Views(images=images, cameras=orbit(16, size=8)[:15]), tmp_path / "short")
    with pytest.raises(InputError, match="15 views, orbit4 needs 16"):
        check_orbit(tmp_path / "short")
    write_scene(Views(images=images), tmp_path / "bare")
    with pytest.raises(InputError, match="has no cameras"):
        check_orbit(tmp_path / "bare")
    with pytest.raises(InputError, match="has no cameras"):
        read_orbit(tmp_path / "bare", 8)


def test_images_are_composited_then_averaged(tmp_path: Path) -> None:
    # Left half of each 2x2 block opaque black, right half hidden: over white the block averages to 1/2.
    images = torch.zeros(16, 3, 16, 16)
    masks = torch.zeros(16, 1, 16, 16)
    masks[..., 0::2] = 1
    views = Views(images=images, masks=masks, cameras=orbit(16, size=16))
    write_scene(views, tmp_path / "scene")
    read = read_orbit(tmp_path / "scene", 8)
    torch.testing.assert_close(read, torch.full((16, 3, 8, 8), 0.5))
    # The order of the files does not matter: the orbit begins at the first camera.
    turned = replace(views, images=images + torch.arange(16)[:, None, None, None] / 255)
    write_scene(turned[[0, *range(15, 0, -1)]], tmp_path / "turned")
    levels = read_orbit(tmp_path / "turned", 8)[:, 0, 0, 0]
    torch.testing.assert_close(levels, 0.5 + torch.arange(16) / 255 / 2)
