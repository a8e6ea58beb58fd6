"""Attribute boundaries: known planes are found, conditioning leaves others alone, edits move what they
say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.refiner.attributes import Boundary, condition, edit_attribute, fit_boundary

DIM = 8


def unit(seed: int) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(DIM, generator=torch.Generator().manual_seed(seed)), dim=0
    )


def scored(normal: Tensor, noise: float, count: int = 4000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    codes = 3 + 2 * torch.randn(count, DIM, generator=generator)
    return codes, codes @ normal + noise * torch.randn(count, generator=generator)


def test_a_plane_is_found_from_the_ends_of_its_scores() -> None:
    normal = unit(1)
    codes, scores = scored(normal, 0.3)
    found = fit_boundary(codes, scores, share=0.05)
    assert float(found.normal @ normal) > 0.97
    assert_close(found.normal.norm(), torch.tensor(1.0))
    assert found.accuracy == 1.0
    middle = scores.median()
    assert abs(float(found.distance(codes).median())) < 0.4
    side = (found.distance(codes) > 0) == (scores > middle)
    assert float(side.float().mean()) > 0.9
    assert_close(found.distance(codes[:2]), codes[:2] @ found.normal + found.bias)


def test_chance_is_told_from_an_attribute() -> None:
    codes, _ = scored(unit(1), 0.0)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    assert fit_boundary(codes, noise, share=0.1).accuracy < 0.65


def test_scale_and_sign_of_scores_do_not_matter_but_for_the_direction() -> None:
    codes, scores = scored(unit(3), 0.2)
    first, second = fit_boundary(codes, scores), fit_boundary(codes, 7 * scores - 100)
    assert_close(first.normal, second.normal)
    back = fit_boundary(codes, -scores)
    assert float(first.normal @ back.normal) < -0.99
    assert torch.equal(fit_boundary(codes, scores).normal, first.normal)


def test_the_optimum_is_that_of_the_support_vector_machine() -> None:
    # Two points at +-1 on an axis: margin 1 would need normal 1; hinges squared give w = 2c / (1 + 2c) with c
    # the weight of the sum of squares.
    from manyview.methods.refiner.attributes import _separate

    rows = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    signs = torch.tensor([1.0, -1], dtype=torch.float64)
    for strength in (0.1, 1.0, 10.0):
        normal, bias = _separate(rows, signs, strength)
        # loss = w^2 / 2 + 2 strength (1 - w)^2
        expected = 4 * strength / (1 + 4 * strength)
        assert_close(normal, torch.tensor([expected, 0], dtype=torch.float64), atol=1e-6, rtol=0)
        assert abs(float(bias)) < 1e-6


def test_conditioned_edits_leave_the_other_attributes() -> None:
    main, others = Boundary(unit(1), 0.5, 1.0), [Boundary(unit(2), 0.0, 1.0), Boundary(unit(3), 1.0, 1.0)]
    found = condition(main, others)
    codes = torch.randn(3, 4, DIM)
    moved = edit_attribute(codes, found, 2.5)
    for other in others:
        assert_close(
            other.distance(moved.flatten(0, 1)), other.distance(codes.flatten(0, 1)), atol=1e-5, rtol=0
        )
    gain = main.distance(moved[:, 0]) - main.distance(codes[:, 0])
    assert float(gain.min()) > 0.5
    assert math.isnan(found.accuracy)
    with pytest.raises(InputError, match="nothing but a mixture"):
        condition(main, [main, others[0]])


def test_edits_move_their_rows_by_their_amounts() -> None:
    boundary = Boundary(unit(4), 0.0, 1.0)
    codes = torch.randn(2, 5, DIM)
    moved = edit_attribute(codes, boundary, torch.tensor([1.0, -2.0]), (1, 3)) - codes
    assert_close(moved[1, 2], -2 * boundary.normal)
    assert float(moved[:, [0, 3, 4]].abs().max()) == 0
    assert_close(edit_attribute(codes, boundary, 1.5) - codes, (1.5 * boundary.normal).expand(2, 5, -1))
    with pytest.raises(InputError, match="expected a range within 0 to 5"):
        edit_attribute(codes, boundary, 1.0, (2, 9))


def test_saved_and_loaded(tmp_path: Path) -> None:
    boundary = Boundary(unit(4), 0.1, 0.9)
    boundary.save(tmp_path / "boundary.safetensors")
    again = Boundary.load(tmp_path / "boundary.safetensors")
    assert torch.equal(again.normal, boundary.normal)
    assert (again.bias, again.accuracy) == (0.1, 0.9)


def test_refusals() -> None:
    codes, scores = scored(unit(1), 0.1, 100)
    with pytest.raises(InputError, match="takes 5 codes or more"):
        fit_boundary(codes, scores, share=0.02)
    with pytest.raises(InputError, match="scores that differ"):
        fit_boundary(codes, torch.zeros(100), share=0.1)
    with pytest.raises(InputError, match=r"expected \[N, D\] and \[N\]"):
        fit_boundary(codes, scores[:50], share=0.1)
