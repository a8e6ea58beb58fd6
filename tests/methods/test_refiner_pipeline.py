"""The refiner as a pipeline: codes and photos in, views with cameras out; saving, loading, any generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import NUMBERS, ROWS, SIZE, tiny_components, write_tiny_bundle

import manyview as mv
from manyview.errors import InputError
from manyview.io.result import Result
from manyview.methods.refiner.attributes import Boundary
from manyview.methods.refiner.generator import FunctionCodes
from manyview.methods.refiner.inversion import InversionOptions
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.types import Views

TARGETS = (-3.0, 0.0, 3.0)


@pytest.fixture(scope="module")
def pipe() -> RefinerPipeline:
    parts = tiny_components()
    parts.pop("yaw")
    return RefinerPipeline(**parts)


def test_a_seed_becomes_views_with_cameras(pipe: RefinerPipeline, tmp_path: Path) -> None:
    result = pipe(targets=TARGETS, seed=4, points=False)
    views = result.views
    assert views.images.shape == (3, 3, SIZE, SIZE)
    assert views.observed.tolist() == [False, True, False]
    assert views.cameras is not None
    # The source stands on azimuth 0, the pivot's depth away.
    torch.testing.assert_close(
        views.cameras.centers[1], torch.tensor([pipe.pose.pivot, 0.0, 0.0]), atol=1e-5, rtol=0
    )
    assert result.codes.shape == (3, ROWS, NUMBERS)
    assert torch.equal(result.codes[1], result.source[0])
    told = result.manifest["options"]
    assert told["targets_deg"] == list(TARGETS)
    assert told["reached_deg"] == [round(float(yaw), 2) for yaw in result.yaw_deg]
    assert told["refined"] is True
    result.save(tmp_path / "out")
    again = Result.load(tmp_path / "out")
    torch.testing.assert_close(again.views.over(1.0), views.over(1.0), atol=0.003, rtol=0)
    assert (tmp_path / "out" / "video.mp4").stat().st_size > 500


def test_the_same_seed_the_same_views_and_a_code_its_own(pipe: RefinerPipeline) -> None:
    first, again = (pipe(targets=TARGETS, seed=4, points=False) for _ in range(2))
    assert torch.equal(first.views.images, again.views.images)
    by_code = pipe(first.source, targets=TARGETS, points=False)
    assert torch.equal(by_code.views.images, first.views.images)
    other = pipe(targets=TARGETS, seed=5, points=False)
    assert not torch.equal(other.views.images, first.views.images)


def test_a_drawn_code_faces_the_middle_of_the_direction(pipe: RefinerPipeline) -> None:
    basis, drawn = pipe.directions, pipe.sample(4)
    assert float(basis.places(drawn).abs()) > 0.1
    faced = pipe(targets=[0.0], seed=4, points=False)
    torch.testing.assert_close(basis.places(faced.source), torch.zeros(1), atol=1e-5, rtol=0)
    # Turned there along the direction, and nothing else.
    torch.testing.assert_close(faced.source, basis.edit(drawn, -basis.places(drawn)))
    as_drawn = pipe(targets=[0.0], seed=4, facing=False, points=False)
    torch.testing.assert_close(as_drawn.source, drawn)
    moved = basis.edit(drawn, torch.tensor([1.5]))
    torch.testing.assert_close(basis.places(moved) - basis.places(drawn), torch.tensor([1.5]))


def test_without_refining_it_is_ganspace(pipe: RefinerPipeline) -> None:
    result = pipe(targets=[2.0], seed=4, refine=False, points=False)
    edited = pipe.directions.edit(result.source, result.amounts)
    torch.testing.assert_close(result.codes, edited)
    assert not torch.equal(pipe(targets=[2.0], seed=4, points=False).codes, result.codes)


def test_a_photo_is_inverted_first(pipe: RefinerPipeline) -> None:
    with torch.no_grad():
        photo = pipe.codes_of(pipe.sample(11)).clamp(0, 1)
    options = InversionOptions(steps=4, starts=16)
    result = pipe(Views(images=photo), targets=[0.0, 2.0], inversion=options, points=False)
    assert result.inversion is not None
    assert not bool(result.views.observed.any())
    assert result.manifest["options"]["inversion"]["psnr_db"] == round(result.inversion.psnr_db, 2)


def test_attributes_move_refined_codes(pipe: RefinerPipeline) -> None:
    normal = torch.nn.functional.one_hot(torch.tensor(6), NUMBERS).float()
    boundary = Boundary(normal, 0.0, 1.0)
    plain = pipe(targets=TARGETS, seed=1, points=False)
    moved = pipe(targets=TARGETS, seed=1, attribute=(boundary, 1.5), points=False)
    torch.testing.assert_close(moved.codes - plain.codes, 1.5 * normal.expand(3, ROWS, -1), atol=1e-5, rtol=0)


def test_save_and_load(pipe: RefinerPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    again = mv.load("refiner", weights=str(tmp_path / "saved"))
    first = pipe(targets=TARGETS, seed=2, points=False)
    second = again(targets=TARGETS, seed=2, points=False)
    torch.testing.assert_close(first.views.images, second.views.images)


def test_bundles(tmp_path: Path) -> None:
    loaded = mv.load("refiner", weights=str(write_tiny_bundle(tmp_path / "whole")))
    assert loaded(targets=[1.0], points=False).manifest["options"]["refined"] is True
    bare = mv.load("refiner", weights=str(write_tiny_bundle(tmp_path / "bare", leave_out=("refiner",))))
    assert bare(targets=[1.0], points=False).manifest["options"]["refined"] is False
    with pytest.raises(InputError, match="refine"):
        bare(targets=[1.0], refine=True)
    lone = write_tiny_bundle(tmp_path / "lone", leave_out=("refiner", "depth", "pose", "directions"))
    with pytest.raises(InputError, match="has no depth and pose and directions; train them"):
        mv.load("refiner", weights=str(lone))


def test_any_function_of_codes_is_turned(pipe: RefinerPipeline) -> None:
    def squares(codes: torch.Tensor) -> torch.Tensor:
        """A square whose place the first number says."""
        places = torch.linspace(-1, 1, SIZE)
        across = torch.sigmoid(20 * (0.4 - (places - 0.3 * codes[:, :4, 0].mean(dim=1)[:, None]).abs()))
        down = torch.sigmoid(20 * (0.4 - places.abs()))
        cover = across[:, None, None, :] * down[None, None, :, None]
        return 1 - cover * torch.tensor([0.2, 0.5, 0.8])[:, None, None]

    parts = tiny_components()
    parts.pop("yaw")
    other = RefinerPipeline(**parts)
    other.use_generator(FunctionCodes(squares, num_ws=ROWS, w_dim=NUMBERS, resolution=SIZE))
    result = other(targets=[0.0, 2.0], seed=0, refine=False, points=False)
    torch.testing.assert_close(result.views.images[0], squares(result.source)[0])
    with pytest.raises(InputError, match="generator"):
        other.use_generator(FunctionCodes(squares, num_ws=ROWS, w_dim=NUMBERS + 1, resolution=SIZE))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targets": []}, "--targets"),
        ({"targets": [200.0]}, "--targets"),
        ({"num_steps": 0}, "--steps"),
        ({"level": 1000}, "level"),
        ({"truncation": 2.0}, "truncation"),
        ({"views": torch.zeros(1, ROWS, NUMBERS + 1)}, "codes"),
        ({"views": Views(images=torch.rand(1, 3, 8, 9))}, "INPUT"),
    ],
)
def test_bad_input_is_refused(pipe: RefinerPipeline, wrong: dict, said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}: "):
        pipe(**wrong)
