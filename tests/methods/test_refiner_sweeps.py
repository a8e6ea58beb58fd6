"""Sweeps: amounts for asked yaws by known measures, and a turner of the real classes."""

from __future__ import annotations

import pytest
import torch
from tiny_refiner import NUMBERS, ROWS, tiny_codes, tiny_refiner, tiny_self_taught

from manyview.errors import InputError
from manyview.methods.refiner.sweeps import Turner, match_yaws


def test_straight_and_bent_measures_are_inverted() -> None:
    targets = [-40.0, -20.0, 0.0, 15.0, 40.0]
    amounts, found = match_yaws(lambda x: 20 * x, targets)
    torch.testing.assert_close(amounts, torch.tensor(targets) / 20)
    torch.testing.assert_close(found, torch.tensor(targets))
    bent = lambda x: 50 * torch.tanh(x / 1.5) + 2 * torch.sin(3 * x)  # noqa: E731
    amounts, found = match_yaws(bent, targets, rounds=3)
    torch.testing.assert_close(bent(amounts), found, atol=1e-3, rtol=1e-4)
    assert float((found - torch.tensor(targets)).abs().max()) < 0.5


def test_a_target_of_zero_is_not_turned() -> None:
    amounts, found = match_yaws(lambda x: 10 * x + 3, [0.0, 13.0])
    assert amounts.tolist() == pytest.approx([0.0, 1.0], abs=1e-4)
    assert found.tolist() == pytest.approx([0.0, 13.0], abs=1e-3)


def test_what_is_out_of_reach_comes_as_near_as_it_can() -> None:
    amounts, found = match_yaws(lambda x: 30 * torch.tanh(x), [-80.0, 10.0], reach=4)
    assert float(amounts[0]) == -4
    assert float(found[0]) == pytest.approx(-30, abs=0.1)
    assert float(found[1]) == pytest.approx(10, abs=0.3)


def test_of_several_crossings_the_one_nearest_to_no_turn_counts() -> None:
    # Rises to 20 at amount 1 and falls again: 10 is crossed at 0.5 and at 2.5.
    hill = lambda x: torch.where(x < 1, 20 * x, 20 - 20 / 3 * (x - 1))  # noqa: E731
    amounts, _ = match_yaws(hill, [10.0])
    assert float(amounts[0]) == pytest.approx(0.5, abs=0.02)


def test_measures_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="yaw"):
        match_yaws(lambda x: x / 0, [10.0])
    with pytest.raises(InputError, match="targets"):
        match_yaws(lambda x: x, [])


def turner(refined: bool, **changes: int) -> Turner:
    taught = tiny_self_taught()
    return Turner(
        generator=tiny_codes(),
        basis=taught.basis,
        pose=taught.pose,
        code=tiny_codes().sample([5]),
        refiner=tiny_refiner(moving=True) if refined else None,
        **changes,
    )


def test_a_code_that_is_not_turned_stays_to_the_last_bit() -> None:
    for refined in (False, True):
        work = turner(refined)
        codes = work.turn(torch.tensor([0.0, 1.0]))
        assert codes.shape == (2, ROWS, NUMBERS)
        assert torch.equal(codes[0], work.code[0])
        assert not torch.equal(codes[1], work.code[0])


def test_refining_changes_turned_codes_and_is_repeatable() -> None:
    amounts = torch.tensor([-1.0, 2.0])
    plain, refined = turner(False).turn(amounts), turner(True).turn(amounts)
    assert float((plain - refined).abs().max()) > 1e-4
    assert torch.equal(refined, turner(True).turn(amounts))
    # A code's answer does not depend on the others beside it.
    torch.testing.assert_close(turner(True).turn(amounts[1:]), refined[1:], atol=1e-5, rtol=1e-4)
    noised = turner(True, level=400, num_steps=2, seed=1)
    assert torch.equal(noised.turn(amounts), turner(True, level=400, num_steps=2, seed=1).turn(amounts))
    assert not torch.equal(noised.turn(amounts), turner(True, level=400, num_steps=2, seed=2).turn(amounts))


def test_a_sweep_says_what_its_pictures_show() -> None:
    work = turner(True)
    sweep = work.sweep([-5.0, 0.0, 5.0])
    assert sweep.codes.shape == (3, ROWS, NUMBERS)
    torch.testing.assert_close(work.yaw_deg(sweep.codes), sweep.yaw_deg, atol=1e-3, rtol=1e-3)
    assert float(sweep.amounts[1]) == 0
