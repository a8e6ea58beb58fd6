"""Baselines with known answers, and the methods' predictors against their pipelines."""

from __future__ import annotations

import pytest
import torch

from manyview.bench.orbit4 import all_questions, observed_slots
from manyview.bench.predictors import (
    DimvisPredictor,
    One2OnePredictor,
    all_white,
    copy_nearest,
    mean_of_references,
    nearest_references,
)
from manyview.geometry.trajectories import orbit
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.one2one.model import relative_camera
from manyview.methods.one2one.pipeline import One2OnePipeline


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ([1, 0, 0, 0], [0, 0, 0, 0]),
        ([1, 1, 0, 0], [0, 1, 1, 0]),  # each missing view has one reference beside it
        ([1, 0, 1, 0], [0, 2, 2, 0]),  # slots 1 and 3 have two: the one at +90 degrees
        ([1, 1, 0, 1], [0, 1, 3, 3]),
    ],
)
def test_nearest_reference(given: list[int], nearest: list[int]) -> None:
    assert nearest_references(torch.tensor([given]).bool()).tolist() == [nearest]


def test_nearest_reference_treats_all_slots_alike() -> None:
    observed = observed_slots(all_questions())
    turned = nearest_references(observed.roll(1, dims=1))
    assert torch.equal(turned, (nearest_references(observed).roll(1, dims=1) + 1) % 4)


def test_baselines_on_grey_levels() -> None:
    levels = torch.tensor([0.1, 0.2, 0.4, 0.8])
    images = levels[None, :, None, None, None].expand(1, 4, 3, 8, 8)
    observed = torch.tensor([[True, False, True, False]])
    hidden = torch.where(observed[:, :, None, None, None], images, 7.0)  # what must not be read

    def answer(predictor) -> torch.Tensor:
        return predictor(hidden, observed, [0])[0, :, 0, 0, 0]

    torch.testing.assert_close(answer(copy_nearest), torch.tensor([0.1, 0.4, 0.4, 0.1]))
    torch.testing.assert_close(answer(mean_of_references), torch.tensor([0.1, 0.25, 0.4, 0.25]))
    torch.testing.assert_close(answer(all_white), torch.tensor([0.1, 1.0, 0.4, 1.0]))


def test_one2one_turns_from_the_nearest_reference(one2one: One2OnePipeline) -> None:
    # The camera numbers must be those the pipeline computes from real cameras, and each view's noise must
    # not depend on which others are asked for.
    images = torch.rand(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[True, False, False, True]])
    predictor = One2OnePredictor(pipeline=one2one, num_steps=2, seed=5)
    answer = predictor(images, observed, [77], 1.0)
    assert torch.equal(answer[0, [0, 3]], images[0, [0, 3]])
    cameras = orbit(4, 30.0)
    for missing, source in ((1, 0), (2, 3)):
        pose = relative_camera(cameras[[source]], cameras[[missing]])
        alone = one2one.predict(images[:, source], pose, items=[77 * 4 + missing], seed=5, num_steps=2)
        torch.testing.assert_close(answer[:, missing], alone, atol=1e-5, rtol=0)


def test_dimvis_does_not_read_what_is_asked_for(dimvis: DimvisPipeline) -> None:
    images = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[True, False, False, True], [False, True, False, False]])
    predictor = DimvisPredictor(pipeline=dimvis, num_steps=2)
    answers = predictor(images, observed, [1, 2], 3.0)
    spoiled = torch.where(observed[:, :, None, None, None], images, 0.5)
    assert torch.equal(predictor(spoiled, observed, [1, 2], 3.0), answers)
    assert torch.equal(answers[observed], images[observed])
    # An item's noise follows it to another batch.
    alone = predictor(images[1:], observed[1:], [2], 3.0)
    torch.testing.assert_close(alone, answers[1:], atol=1e-5, rtol=0)
    assert not torch.allclose(predictor(images[1:], observed[1:], [3], 3.0), alone, atol=1e-3)
