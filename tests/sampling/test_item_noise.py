from __future__ import annotations

import pytest
import torch

from manyview.sampling.noise import (
    generator_seed,
    item_generator,
    item_integers,
    item_noise,
    item_uniform,
    mix64,
)


def test_mix64_is_splitmix64() -> None:
    # The first output of SplitMix64 from state 0, as published with the reference implementation.
    assert mix64(0) == 0xE220A8397B1DCDAF
    assert mix64(1, 2) != mix64(2, 1)
    assert mix64(-1) == mix64(2**64 - 1)


@pytest.mark.parametrize("shape", [(3, 8, 8), (5,), ()])
def test_noise_does_not_depend_on_the_batch(shape: tuple[int, ...]) -> None:
    items = torch.tensor([9, 0, 4, 7, 10**12, 4])
    whole = item_noise(1, items, shape)
    assert whole.shape == (6, *shape)
    for parts in ([6], [1] * 6, [2, 4], [5, 1]):
        split = torch.cat([item_noise(1, part, shape) for part in items.split(parts)])
        assert torch.equal(whole, split)
    assert torch.equal(whole[2], whole[5])  # the same item twice
    for row, item in zip(whole, items.tolist(), strict=True):
        alone = torch.empty(shape).normal_(generator=item_generator(1, item))
        assert torch.equal(row, alone)


def test_noise_is_standard_normal_and_independent() -> None:
    # 400 items x 256 numbers: the mean of 102400 has deviation 0.003, a correlation of 256 pairs has 1/16.
    noise = item_noise(0, range(400), (256,))
    assert abs(float(noise.mean())) < 0.015
    assert abs(float(noise.var()) - 1) < 0.025
    correlation = torch.corrcoef(noise)
    off = correlation[~torch.eye(400, dtype=torch.bool)]
    assert abs(float(off.std()) - 1 / 16) < 0.005
    assert float(off.abs().max()) < 0.36  # 5.7 deviations; the largest of 79800 pairs lies near 4.5
    first_numbers = noise[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([first_numbers[:-1], first_numbers[1:]]))[0, 1])) < 0.25


def test_seeds_and_streams_are_independent() -> None:
    noise = [item_noise(seed, range(40), (256,), stream).flatten() for seed in (0, 1) for stream in (0, 1)]
    correlation = torch.corrcoef(torch.stack(noise)) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.05  # 10240 pairs: deviation 0.01


def test_no_two_items_share_a_generator() -> None:
    # A 64-bit hash cut to the 32 bits torch uses would give 300000^2 / 2^33 = 10 equal pairs here.
    assert len({generator_seed(5, item) for item in range(300_000)}) == 300_000
    assert generator_seed(5, 1) != generator_seed(5, 1 + 2**32)


def test_uniform_and_integers_cover_their_range() -> None:
    values = item_uniform(0, range(2000))
    assert values.shape == (2000,)
    assert 0 <= float(values.min()) < 0.01
    assert 0.99 < float(values.max()) < 1
    steps = item_integers(0, range(2000), 10)
    # 200 of each expected, deviation 13.4.
    assert torch.bincount(steps, minlength=10).sub(200).abs().max() < 70
    assert torch.equal(steps[500:502], item_integers(0, [500, 501], 10))
    assert item_integers(0, range(3), 4, (2, 2)).shape == (3, 2, 2)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    item_noise(0, range(3), (4,))
    assert torch.equal(before, torch.get_rng_state())
