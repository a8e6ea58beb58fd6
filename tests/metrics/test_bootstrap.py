"""Intervals from resampling objects, and the table they end in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyview.errors import InputError
from manyview.metrics import Estimate, Skipped, bootstrap_mean, format_table


def test_mean_is_over_items() -> None:
    # Three items of one object and one of another: (1 + 2 + 3 + 10) / 4, not the mean of the objects' means.
    found = bootstrap_mean([1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"])
    assert found.mean == 4.0
    assert (found.num_items, found.num_groups) == (4, 2)


def test_two_objects_by_hand() -> None:
    # Of two objects a resample is a a, a b, b a or b b: means 0, 0.5, 0.5, 1. The extremes have 25% each,
    # so the 2.5% and 97.5% quantiles are 0 and 1.
    assert bootstrap_mean([0.0, 1.0], [0, 1]).ci95 == (0.0, 1.0)


def test_items_of_one_object_are_not_independent() -> None:
    # 20 objects, each measured 50 times with the same value: as sure as 20 numbers, not 1000.
    values = np.random.default_rng(0).normal(size=20)
    few = bootstrap_mean(values.tolist(), range(20))
    many = bootstrap_mean(np.repeat(values, 50).tolist(), np.repeat(np.arange(20), 50).tolist())
    assert few.ci95 is not None
    assert many.ci95 == pytest.approx(few.ci95)
    # About the normal theory's width, 2 * 1.96 * deviation / sqrt(20).
    expected = 2 * 1.96 * values.std() / 20**0.5
    assert few.ci95[1] - few.ci95[0] == pytest.approx(expected, rel=0.15)


def test_seed_and_order() -> None:
    values, groups = torch.rand(30), [index % 7 for index in range(30)]
    first = bootstrap_mean(values, groups, seed=1)
    assert bootstrap_mean(values, groups, seed=1) == first
    assert bootstrap_mean(values, groups, seed=2).ci95 != first.ci95


def test_coverage_is_about_95_percent() -> None:
    # 200 draws of 30 normal objects: the true mean 0 must be inside in most of them. The percentile
    # interval of 30 objects covers near 93.5%; 4 standard errors of a share over 200 draws are 7%.
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        interval = bootstrap_mean(generator.normal(size=30).tolist(), range(30), num_resamples=400).ci95
        assert interval is not None
        inside += interval[0] <= 0 <= interval[1]
    assert 0.865 <= inside / 200 <= 1


def test_one_object_has_no_interval() -> None:
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]).ci95 is None


def test_bad_values() -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        bootstrap_mean([1.0, float("inf")], [0, 1])
    with pytest.raises(InputError, match="expected one number for each of 1"):
        bootstrap_mean([1.0, 2.0], [0])
    with pytest.raises(InputError, match="values"):
        bootstrap_mean([], [])


def test_json_form() -> None:
    estimate = Estimate(mean=20.0, ci95=(19.0, 21.0), num_items=8, num_groups=2)
    assert estimate.as_json() == {"mean": 20.0, "ci95": [19.0, 21.0]}
    assert Skipped("no weights").as_json() == {"skipped": "no weights"}


def test_table() -> None:
    estimate = Estimate(mean=20.0, ci95=(19.04, 21.0), num_items=8, num_groups=2)
    rows = {
        "ours": {"psnr": estimate, "lpips_vgg": Skipped("needs weights")},
        "paper": {"psnr": 16.32, "ssim_skimage": 0.78},
    }
    assert format_table(rows, digits=1) == (
        "|  | psnr | lpips_vgg | ssim_skimage |\n"
        "| --- | --- | --- | --- |\n"
        "| ours | 20.0 [19.0, 21.0] | skipped | - |\n"
        "| paper | 16.3 | - | 0.8 |\n"
        "\n"
        "lpips_vgg: skipped, needs weights\n"
    )
