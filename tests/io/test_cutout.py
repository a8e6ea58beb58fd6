"""Objects cut out of a plain background, and backgrounds that are not plain."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from manyview.errors import MissingDependency
from manyview.io.cutout import cut_by_rembg, cut_from_plain

SIDE = 64


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    v, u = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    return u, v


def disc(x: float = 0.1, y: float = -0.2, radius: float = 0.5) -> torch.Tensor:
    u, v = grid()
    return ((u - x) ** 2 + (v - y) ** 2 < radius**2).float()


def wall(slope: float = 0.06, noise: float = 0.004) -> torch.Tensor:
    u, v = grid()
    light = torch.stack([0.8 + slope * u, 0.78 + slope * u + 0.02 * v, 0.75 - 0.03 * v])
    return light + noise * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def iou(mask: torch.Tensor, truth: torch.Tensor) -> float:
    found = mask[0] > 0.5
    return float((found & truth.bool()).sum() / (found | truth.bool()).sum())


def test_a_disc_before_a_wall_whose_light_falls_off():
    truth = disc()
    image = wall() * (1 - truth) + torch.tensor([0.5, 0.2, 0.3])[:, None, None] * truth
    mask = cut_from_plain(image)
    assert mask is not None
    assert iou(mask, truth) > 0.97
    assert float(mask[0][truth == 0].mean()) < 0.01


def test_holes_of_background_colour_are_filled_and_specks_dropped():
    truth = disc()
    ring = truth * (1 - disc(radius=0.2))
    image = wall() * (1 - ring)
    image[:, 3, 3] = 0.0
    mask = cut_from_plain(image)
    assert mask is not None
    assert iou(mask, truth) > 0.97
    assert float(mask[0, 3, 3]) == 0


def test_an_object_that_leaves_the_picture_on_one_side():
    truth = disc(x=0.8, radius=0.5)
    mask = cut_from_plain(wall() * (1 - truth))
    assert mask is not None
    assert iou(mask, truth) > 0.95


def test_what_is_not_plain():
    u, v = grid()
    clutter = torch.stack(
        [0.5 + 0.4 * (8 * u).sin(), 0.5 + 0.4 * (9 * v).sin(), 0.5 + 0.4 * (7 * (u + v)).sin()]
    )
    assert cut_from_plain(clutter * (1 - disc())) is None
    horizon = torch.where(v < 0, 0.9, 0.3).expand(3, -1, -1)  # a table before a wall
    assert cut_from_plain(horizon * (1 - disc())) is None
    assert cut_from_plain(wall()) is None  # nothing on it
    assert cut_from_plain(wall() * (1 - disc(radius=2.0))) is None  # nothing but it


@pytest.mark.skipif(importlib.util.find_spec("rembg") is not None, reason="rembg is installed")
def test_rembg_is_asked_for_in_one_line():
    with pytest.raises(
        MissingDependency, match=r"--masks: rembg: needs a package: pip install 'manyview\[masks\]'"
    ):
        cut_by_rembg(torch.zeros(3, 8, 8))
