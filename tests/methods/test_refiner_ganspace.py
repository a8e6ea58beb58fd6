"""Principal directions of codes, edits along them, and the search for the one that rotates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.refiner.ganspace import (
    Directions,
    IncrementalPCA,
    edit_codes,
    fit_directions,
    random_amounts,
    sweep_amounts,
)
from manyview.methods.refiner.generator import FunctionCodes, StyleGANCodes
from manyview.methods.refiner.rotation_search import (
    RotationEdit,
    default_ranges,
    find_mirror_rotation,
    find_rotation,
)
from manyview.nets.stylegan2.generator import StyleGAN2Generator

ROWS, DIM, SIDE = 6, 8, 16
YAW, SIZE, COLOUR = 1, 0, 2
"""The coordinates of the toy's codes that do something. Their deviations are 2, 4 and 1.5."""


def toy_rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    rows = torch.randn(700, DIM, generator=generator, dtype=torch.float64) @ mixing
    return (rows + 30 * torch.randn(DIM, generator=generator, dtype=torch.float64)).float()


@pytest.mark.parametrize("chunk", [1, 7, 100, 700])
def test_any_chunks_give_the_full_decomposition(chunk: int) -> None:
    rows = toy_rows()
    pca = IncrementalPCA(DIM)
    for part in rows.split(chunk):
        pca.partial_fit(part)
    centred = (rows.double() - rows.double().mean(dim=0)).numpy()
    _, singular, right = torch.linalg.svd(torch.from_numpy(centred), full_matrices=False)
    vectors, deviations = pca.components(DIM)
    assert pca.count == 700
    assert_close(pca.mean, rows.mean(dim=0), atol=1e-5, rtol=1e-5)
    assert_close(deviations.double(), singular / math.sqrt(699), atol=1e-5, rtol=1e-5)
    assert_close((vectors.double() * right).sum(dim=1).abs(), torch.ones(DIM, dtype=torch.float64))
    assert_close(vectors @ vectors.T, torch.eye(DIM), atol=1e-5, rtol=0)


def test_more_directions_than_codes_are_refused() -> None:
    pca = IncrementalPCA(DIM)
    pca.partial_fit(toy_rows()[:4])
    with pytest.raises(InputError, match="expected 1 to 3 of 4 codes"):
        pca.components(4)


def test_directions_of_a_generator(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = StyleGAN2Generator(8, 6, 5, mapping_layers=2, mapping_lr=1.0, channel_base=32, channel_max=4)
    counted: list[int] = []
    codes = StyleGANCodes(net)
    found = fit_directions(codes.sample, 250, 80, chunk=100, progress=counted.append)
    again = fit_directions(lambda seeds: codes.sample(seeds)[:, 0], 250, 3, chunk=33)
    assert counted == [100, 100, 50]
    assert found.vectors.shape == (5, 5)
    assert_close(again.vectors, found.vectors[:3], atol=1e-4, rtol=0)
    assert_close(again.deviations, found.deviations[:3])
    found.save(tmp_path / "directions.safetensors")
    loaded = Directions.load(tmp_path / "directions.safetensors")
    assert all(torch.equal(getattr(loaded, n), getattr(found, n)) for n in ("mean", "vectors", "deviations"))


def test_a_sample_follows_from_its_seed() -> None:
    net = StyleGAN2Generator(8, 6, 5, mapping_layers=2, channel_base=32, channel_max=4)
    codes = StyleGANCodes(net)
    assert_close(codes.sample([3, 8, 1])[1], codes.sample([8])[0])
    assert codes(codes.sample([1, 2])).shape == (2, 3, 8, 8)


def axes() -> Directions:
    deviations = torch.tensor([4.0, 2.0, 1.5, 1.0])
    return Directions(torch.zeros(DIM), torch.eye(DIM)[:4], deviations)


def test_edits_move_their_rows_alone() -> None:
    codes = torch.randn(2, ROWS, DIM)
    moved = edit_codes(codes, axes(), 1, torch.tensor([1.5, -1.0]), (1, 3)) - codes
    expected = torch.zeros(2, ROWS, DIM)
    expected[0, 1:3, 1], expected[1, 1:3, 1] = 3.0, -2.0
    assert_close(moved, expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="expected 0 to 3"):
        edit_codes(codes, axes(), 4, 1.0, (0, 2))
    with pytest.raises(InputError, match="expected a range within 0 to 6"):
        edit_codes(codes, axes(), 0, 1.0, (3, 7))


def test_amounts() -> None:
    amounts = random_amounts(1000, seed=3, item=4)
    assert torch.equal(amounts, random_amounts(1000, seed=3, item=4))
    assert not torch.equal(amounts, random_amounts(1000, seed=3, item=5))
    assert -3 <= float(amounts.min()) < -2.9
    assert 2.9 < float(amounts.max()) <= 3
    assert sweep_amounts(5).tolist() == [-3, -1.5, 0, 1.5, 3]


def toy_generator() -> FunctionCodes:
    """A bright bar in the middle: its side place is sin(yaw), which rows 0 and 1 set; its height is the size
    that the first coordinate sets; its colour the third's. Row 2's yaw coordinate changes the colour, too."""

    def images(codes: Tensor) -> Tensor:
        yaw = 0.2 * codes[:, :2, YAW].mean(dim=1)
        height = 4 + 0.3 * codes[:, :4, SIZE].mean(dim=1)
        grid = torch.arange(SIDE) + 0.5 - SIDE / 2
        across = torch.exp(-((grid - 5 * yaw.sin()[:, None]) ** 2) / 4)
        along = torch.exp(-((grid / height[:, None]) ** 2))
        shape = along[:, None, :, None] * across[:, None, None, :]
        hue = torch.sigmoid(codes[:, :, COLOUR].mean(dim=1) + 2 * codes[:, 2, YAW])
        return shape * torch.stack([hue, 1 - hue, torch.ones_like(hue)], dim=1)[:, :, None, None]

    return FunctionCodes(images, num_ws=ROWS, w_dim=DIM, resolution=SIDE)


def side_deg(images: Tensor) -> Tensor:
    """[N] the toy's yaw, from where its bar stands."""
    weight = images.sum(dim=1).sum(dim=1)
    grid = torch.arange(SIDE) + 0.5 - SIDE / 2
    return torch.rad2deg(torch.asin(((weight * grid).sum(dim=1) / weight.sum(dim=1) / 5).clamp(-1, 1)))


def hue_change(before: Tensor, after: Tensor) -> Tensor:
    shares = [x.sum(dim=(2, 3)) / x.sum(dim=(1, 2, 3))[:, None] for x in (before, after)]
    return (shares[0] - shares[1]).abs().sum(dim=1)


def test_the_search_finds_what_turns_with_the_least_else() -> None:
    generator = toy_generator()
    codes = 0.3 * torch.randn(6, ROWS, DIM, generator=torch.Generator().manual_seed(0))
    for turned in (1, -1):  # also with the measure turned round, the edit's positive way gives positive yaw
        best, tried = find_rotation(
            generator,
            axes(),
            codes,
            lambda a, b, way=turned: way * (side_deg(b) - side_deg(a)),
            hue_change,
            components=range(20),
            batch_size=4,
        )
        assert (best.component, best.layers) == (YAW, (0, 2))
        assert best.sign == turned
        assert abs(best.yaw_per_sigma_deg - math.degrees(0.4)) < 2
        assert len(tried) == 4 * len(default_ranges(ROWS))
        moved = best.apply(codes, axes(), 1.0)
        assert float((turned * (side_deg(generator(moved)) - side_deg(generator(codes)))).min()) > 10
        assert RotationEdit.from_dict(best.as_dict()) == best


def test_the_mirror_search_finds_the_turn_without_a_measure() -> None:
    best, tried = find_mirror_rotation(toy_generator(), axes())
    assert (best.component, best.layers) == (YAW, (0, 2))
    assert math.isnan(best.yaw_per_sigma_deg)
    others = [edit.score for edit in tried if edit.component != YAW]
    assert max(others) < 0.5 * best.score


def test_a_search_that_finds_nothing_says_so() -> None:
    generator = toy_generator()
    codes = torch.zeros(2, ROWS, DIM)
    with pytest.raises(InputError, match="none of them turns the object"):
        find_rotation(generator, axes(), codes, lambda a, b: torch.zeros(len(a)), hue_change)
    with pytest.raises(InputError, match="leaves nothing to try"):
        find_rotation(generator, axes(), codes, hue_change, hue_change, components=[7])
