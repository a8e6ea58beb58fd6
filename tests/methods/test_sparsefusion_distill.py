"""Distillation from a teacher that knows the scene, at toy size: what it recovers, keeps and may not use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_teacher import OracleTeacher, ball_views
from tiny_sparsefusion import SIZE
from tiny_teacher import tiny_teacher
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.trajectories import sphere_cameras
from manyview.lift.field.neural import NeuralField, sparsefusion_field
from manyview.lift.field.options import FieldOptions
from manyview.lift.field.render import render_field
from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.distill import Distilled, distill
from manyview.methods.sparsefusion.distill_options import DistillOptions, published_options
from manyview.methods.sparsefusion.iterations import input_loss, opacity_term
from manyview.methods.sparsefusion.schedule import target_weight
from manyview.methods.sparsefusion.train import color_loss
from manyview.progress import silent
from manyview.types import Views

SMALL = DistillOptions(
    targets=6,
    warmup_steps=30,
    rounds=2,
    steps_per_round=12,
    rows=0,
    field=FieldOptions(encoding="voxels", resolution=24, rays=500),
)
LOOP = DistillOptions(
    targets=3,
    targets_per_round=1,
    warmup_steps=3,
    rounds=3,
    steps_per_round=1,
    schedule="uniform",
    most_steps=2,
    rows=0,
    field=FieldOptions(encoding="dense", resolution=12),
)


def given(count: int = 2) -> Views:
    return ball_views(sphere_cameras([0.0, 110.0][:count], 20.0, 1.5, size=32))


def scored() -> Views:
    return ball_views(sphere_cameras([60.0, 200.0, 300.0], 20.0, 1.5, size=32))


def psnr(field: Volume, views: Views) -> float:
    assert views.cameras is not None
    seen = render_field(field, views.cameras)
    return float(-10 * (seen.images - views.over(1.0)).square().mean().log10())


def state_of(found: Distilled) -> dict[str, torch.Tensor]:
    return found.field.state_dict()


@pytest.fixture(scope="module")
def distilled() -> tuple[Distilled, OracleTeacher, list[float]]:
    teacher = OracleTeacher()
    held: list[float] = []
    made = distill(teacher, given(), SMALL, on_round=lambda _, field: held.append(psnr(field, scored())))
    return made, teacher, held


def test_the_scene_is_recovered_where_no_input_view_looks(distilled: Any):
    made, _, held = distilled
    # White alone gives 9.6 dB, the right outline in its mean colour about 20.
    assert held[-1] > 23
    # Rounds of diffusion, whose pictures are sharp here, add to the EFT's blurred ones.
    assert held[-1] > held[0]
    assert psnr(made.field, given()) > 24


def test_the_record_says_what_was_done(distilled: Any):
    made, teacher, _ = distilled
    record = made.record
    assert record.pictures == {"eft": 6, "diffusion": 12}
    assert [entry["t_max"] for entry in record.rounds] == pytest.approx([0.99, 0.4])
    assert [entry["steps"] for entry in record.rounds] == [25, 25]
    assert [entry["weight"] for entry in record.rounds] == pytest.approx(
        [target_weight(0.99), target_weight(0.4)]
    )
    assert teacher.drawn == [(pytest.approx(0.99), 25), (pytest.approx(0.4), 25)]
    assert record.rounds[0]["apart"] > record.rounds[1]["apart"]
    assert set(record.seconds) == {"look", "warm-up", "render", "diffusion", "field"}
    assert not record.stopped_early


def test_scored_poses_are_not_asked_for_unless_wanted():
    views = scored()
    assert views.cameras is not None
    short = replace(SMALL, warmup_steps=2, rounds=0)
    without, with_them = OracleTeacher(), OracleTeacher()
    distill(without, given(), short, test_cameras=views.cameras)
    distill(with_them, given(), replace(short, use_test_poses=True), test_cameras=views.cameras)
    assert len(without.asked[0]) == 6
    gaps = torch.cdist(without.asked[0].centers.double(), views.cameras.centers.double())
    assert float(gaps.min()) > 1e-3
    assert torch.equal(with_them.asked[0].centers[:6], without.asked[0].centers)
    assert torch.equal(with_them.asked[0].centers[6:], views.cameras.centers)
    with pytest.raises(InputError, match="use-test-poses"):
        distill(OracleTeacher(), given(), replace(short, use_test_poses=True))


def test_a_killed_run_goes_on_to_the_same_field(distilled: Any, tmp_path: Path):
    class Killed(Exception):
        pass

    def kill(done: int, _: Volume) -> None:
        if done == 1:
            raise Killed

    with pytest.raises(Killed):
        distill(OracleTeacher(), given(), SMALL, checkpoint=tmp_path, on_round=kill)
    teacher = OracleTeacher()
    teacher.look(given(), distilled[0].cameras)  # the truth; what it says is kept on disk
    resumed = distill(teacher, given(), SMALL, checkpoint=tmp_path)
    assert len(teacher.asked) == 1
    assert len(teacher.drawn) == 1
    for name, value in state_of(distilled[0]).items():
        assert torch.equal(value, state_of(resumed)[name]), name
    assert [entry["apart"] for entry in resumed.record.rounds] == [
        entry["apart"] for entry in distilled[0].record.rounds
    ]
    with pytest.raises(InputError, match="another distillation"):
        distill(OracleTeacher(), given(), SMALL, seed=1, checkpoint=tmp_path)


def test_one_view_is_enough_and_masks_are_made_from_white():
    views = given(1)
    bare = Views(images=views.over(1.0), cameras=views.cameras)
    assert psnr(distill(OracleTeacher(), bare, SMALL).field, scored()) > 21


def test_pictures_that_agree_with_nothing_leave_a_field():
    class Blank(OracleTeacher):
        def look(self, *arguments: Any, **options: Any):
            told = super().look(*arguments, **options)
            return replace(told, images=told.images * 0 + 1, coverage=told.coverage * 0)

    made = distill(Blank(), given(), replace(SMALL, warmup_steps=4, rounds=1, steps_per_round=2))
    assert len(made.record.rounds) == 1


def test_it_stops_where_nothing_moves():
    lazy = replace(SMALL, warmup_steps=10, rounds=5, steps_per_round=1, stop_below=0.5)
    made = distill(OracleTeacher(), given(), lazy)
    assert made.record.stopped_early
    assert made.record.pictures["diffusion"] == 6


def test_the_published_loop_runs_and_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    views = ball_views(sphere_cameras([0.0, 110.0], 20.0, 1.5, size=SIZE))
    teacher = tiny_teacher()
    options = replace(LOOP, perceptual="codec", render_size=SIZE // 2)
    whole = distill(teacher, views, options)
    assert isinstance(whole.field, NeuralField)
    assert whole.record.pictures == {"eft": 3, "diffusion": 3}
    monkeypatch.setattr("manyview.methods.sparsefusion.iterations._KEPT_EVERY", 1)

    class Killed(Exception):
        pass

    class KillAfterFour:
        count = 0

        def start(self, total: int, what: str) -> None:
            pass

        def finish(self) -> None:
            pass

        def advance(self, n: int = 1) -> None:
            self.count += n
            if self.count == 4 + 3:  # three views looked at, then iterations
                raise Killed

    with pytest.raises(Killed):
        distill(teacher, views, options, checkpoint=tmp_path, progress=KillAfterFour())
    assert [path.name for path in tmp_path.glob("round-*")] == ["round-000004"]
    resumed = distill(teacher, views, options, checkpoint=tmp_path, progress=silent)
    for name, value in state_of(whole).items():
        assert torch.equal(value, state_of(resumed)[name]), name


def test_step_a_alone_learns_the_input_views():
    # No weight on distillation pictures: the loop is a fit of the input views.
    views = given()
    options = replace(
        LOOP,
        targets=1,
        warmup_steps=25,
        rounds=0,
        target_weight=1e-9,
        grid_rate=0.1,
        network_rate=2e-2,
        render_size=8,
    )
    made = distill(OracleTeacher(), views, options)
    before = distill(OracleTeacher(), views, replace(options, warmup_steps=1))
    assert psnr(made.field, views) > psnr(before.field, views) + 4
    assert psnr(made.field, views) > 17


def test_the_terms_of_step_a():
    from manyview.lift.field.answers import RayAnswer

    colors = torch.tensor([[0.3, 0.5, 0.5], [1.0, 1.0, 1.0]])
    seen = RayAnswer(colors=colors, alphas=torch.tensor([0.9, 0.0]), depths=torch.zeros(2))
    target = torch.tensor([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]).mT.reshape(3, 1, 2)
    masks = torch.tensor([1.0, 0.0]).reshape(1, 1, 2)
    # Of e = 0.2 and 0.1 at scale 0.1: 0.1 (sqrt 5 - 1) in one of six numbers, 0.1 (sqrt 2 - 1) in one of two.
    expected = 0.1 * (5**0.5 - 1) / 6 + 0.1 * (2**0.5 - 1) / 2
    opacity = ((0.81 + 0.01) ** 0.5 + 0.1) / 2
    found = input_loss(seen, target, masks, published_options())
    assert_close(found, torch.tensor(expected + 1e-3 * opacity))
    assert_close(opacity_term(seen.alphas), torch.tensor(opacity))
    assert_close(color_loss(torch.zeros(1), torch.zeros(1), torch.ones(1)), torch.tensor(0.0))


def test_the_published_numbers():
    options = published_options()
    options.check()
    assert options.warmup_steps + options.rounds == 3000
    assert (options.network_rate, options.grid_rate, options.most_steps) == (5e-4, 5e-3, 50)
    assert (options.schedule, options.t_first, options.jitter) == ("uniform", 0.99, 0.17)
    with torch.device("meta"):
        field = sparsefusion_field()
    assert (field.options.num_coarse, field.options.num_fine, field.options.bound) == (64, 64, 4.0)


def test_options_that_cannot_work_are_refused():
    for changes, words in (
        ({"perceptual": "codec"}, "perceptual"),
        ({"t_last": 0.0}, "t_last"),
        ({"targets_per_round": 7}, "targets_per_round"),
        ({"rounds": -1}, "rounds"),
        ({"target_weight": 0.0}, "target_weight"),
    ):
        with pytest.raises(InputError, match=words):
            replace(SMALL, **changes).check()
    with pytest.raises(InputError, match="given_poses"):
        distill(OracleTeacher(), given(1), replace(SMALL, given_poses=True))
