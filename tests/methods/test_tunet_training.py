"""What training shows TUNet, and that it learns from it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tunet_sets import CELLS, CHANNELS, numbers_of, posed, tiny_sizes

from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.methods.tunet.cameras import pair_cameras
from manyview.methods.tunet.examples import PairExamples, PosedLatents
from manyview.methods.tunet.means import MeanOptions
from manyview.methods.tunet.model import TUNet
from manyview.methods.tunet.train import TunetTask, TunetTraining, pairs_of
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

MEANS = MeanOptions(t_star=600, steps=5)


def task_of(sets: list[PosedLatents], **changes: Any) -> TunetTask:
    sizes = changes.pop("sizes", tiny_sizes(num_classes=len(changes.get("classes", ()))))
    return TunetTask(sets, MEANS, 0.16, **{"sizes": sizes, **changes})


def test_orbits_pair_any_two_views() -> None:
    examples = PairExamples([posed([8, 6, 5])], targets=4)
    seen: set[tuple[int, int]] = set()
    for item in range(300):
        draw = examples.draw(item)
        start, stop = (int(examples.sets[0].starts[draw.scene + end]) for end in (0, 1))
        assert all(start <= view < stop for view in (draw.reference, *draw.targets))
        assert len({draw.reference, *draw.targets}) == 5
        seen |= {(draw.reference, target) for target in draw.targets}
    # Of the scene of 5 views all 20 ordered pairs come up.
    assert len({pair for pair in seen if pair[0] >= 14}) == 20
    # Every epoch has each scene once.
    for first in (0, 3, 6):
        assert sorted(examples.draw(item).scene for item in range(first, first + 3)) == [0, 1, 2]


def test_ordered_captures_pair_as_the_paper_does_and_anew_every_epoch() -> None:
    sets = posed([30, 9, 12], ordered=True)
    examples = PairExamples([sets], targets=1)
    assert len(examples.sets[0]) == 2  # the one of 9 frames is left out
    assert len(examples) == 20
    epochs = []
    for epoch in range(2):
        draws = [examples.draw(item) for item in range(20 * epoch, 20 * epoch + 20)]
        long = sorted((d.reference, d.targets[0]) for d in draws if d.scene == 0)
        assert [reference for reference, _ in long] == list(range(10))
        assert len({target for _, target in long} & set(range(14, 25))) == 10
        short = [(d.reference - 30, d.targets[0] - 30) for d in draws if d.scene == 1]
        assert all(0 <= r < 6 <= t < 12 and t - r >= 5 for r, t in short)
        epochs.append(long)
    assert epochs[0] != epochs[1]
    more = PairExamples([sets], targets=4).draw(0)
    assert len(set(more.targets)) == 4


def test_shares_decide_how_often_a_set_is_drawn() -> None:
    sets = [posed([4] * 3), posed([30], ordered=True)]
    examples = PairExamples(sets, targets=1, shares=(3, 1))
    drawn = torch.tensor([examples.draw(item).source for item in range(1000)])
    assert float(drawn.float().mean()) == pytest.approx(0.25, abs=0.05)
    pairs = {(d.reference, d.targets) for d in map(examples.draw, range(400)) if d.source == 1}
    assert len(pairs) > 40  # references and targets change from item to item


def test_a_batch_holds_what_was_drawn_with_its_cameras() -> None:
    sets = posed([8, 6], class_ids=torch.tensor([1, -1]))
    task = task_of([sets], classes=("cup", "shoe"), options=TunetTraining(targets=3, class_drop=0.0))
    items = torch.arange(40)
    batch = task.batch(items)
    pairs = pairs_of(batch)
    draws = [task.examples.draw(item) for item in range(40)]
    assert numbers_of(batch["reference"]) == [draw.reference for draw in draws]
    assert numbers_of(batch["target"]) == [target for draw in draws for target in draw.targets]
    assert batch["class_ids"].tolist() == [1 if draw.scene == 0 else 2 for draw in draws]
    assert batch["reference_of"].tolist() == [n for n in range(40) for _ in range(3)]
    # The cameras are those of the same views: targets stand where their azimuth says, seen from the
    # reference.
    draw = draws[5]
    own, others = sets.cameras[draw.reference], sets.cameras[list(draw.targets)]
    expected = pair_cameras(own, others, focus=sets.focus[draw.scene])
    chosen = pairs.reference_of == 5
    for field in fields(expected):
        found = getattr(pairs, field.name)
        found = found[5:6] if field.name in ("reference_lens", "reference_focus") else found[chosen]
        if field.name != "reference_of":
            torch.testing.assert_close(found, getattr(expected, field.name))
    assert spherical_angles(own.centers)[2][0] == pytest.approx(1.5)
    alone = task.batch(items[7:8])
    assert torch.equal(alone["target"], batch["target"][21:24])


def test_classes_are_dropped_to_unknown() -> None:
    sets = posed([6] * 2, class_ids=torch.tensor([0, 1]))
    task = task_of([sets], classes=("a", "b"), options=TunetTraining(targets=1, class_drop=0.3))
    items, told = torch.arange(500), []

    class Spy(TUNet):
        def forward(self, estimates, pairs, timestep=None, class_ids=None):
            told.append(class_ids)
            return torch.zeros(len(pairs), *estimates.shape[1:])

    model = task.build()
    model.__class__ = Spy
    batch = task.batch(items)
    loss, parts = task.loss(model, batch, items, seed=3)
    share = float((told[0] == 2).float().mean())
    assert share == pytest.approx(0.3, abs=0.06)
    assert torch.equal(told[0][told[0] != 2], batch["class_ids"][told[0] != 2])
    # The network says 0: the loss is the mean square of the targets; the paper's is alpha_bar times that.
    assert float(loss) == pytest.approx(float(batch["target"].square().mean()))
    assert float(parts["mean_mse"]) == pytest.approx(0.16 * float(loss))
    again = task.loss(model, batch, items, seed=3)
    assert torch.equal(told[0], told[1])
    assert torch.equal(again[0], loss)


def learnable() -> PosedLatents:
    """Scenes of one value each, that every view shows."""
    sets = posed([6] * 4)
    marks = torch.randn(4, 1, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(0))
    return replace(
        sets,
        latents=marks.expand(4, 6, CHANNELS, CELLS, CELLS)
        .reshape(24, *marks.shape[2:3], CELLS, CELLS)
        .half(),
    )


@pytest.mark.parametrize("ablation", ["full", "no-cross-attention", "concat"])
def test_training_learns_and_exports(ablation: Any, tmp_path: Path) -> None:
    sets = learnable()
    task = task_of([sets], options=TunetTraining(targets=2, ablation=ablation), validation=sets, seed=1)
    config = TrainConfig(
        steps=40,
        batch_size=4,
        lr=5e-3,
        warmup_steps=2,
        ema_decay=0.9,
        log_every=10,
        validate_every=40,
        schedule="cyclic",
        cycles=2,
        device="cpu",
        dtype="fp32",
        tensorboard=False,
    )
    report = fit(task, config, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in report.curve]
    assert losses[-1] < max(0.7 * losses[0], 0.02)
    assert set(report.validation) == {"loss_val", "copy_val"}
    assert report.validation["copy_val"] == pytest.approx(0, abs=1e-6)  # here all views are alike
    network = TUNet.from_pretrained(report.export / "tunet", local_files_only=True)
    assert network.options.cross_attention == (ablation == "full")
    assert network.options.conditioning == ("concat" if ablation == "concat" else "blocks")
    assert network.options.t_star == 600
    # It goes on from an export of its own sizes, and from no other.
    onwards = task_of([sets], options=TunetTraining(ablation=ablation), initial=report.export)
    found = onwards.build().state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value.float())
    with pytest.raises(InputError, match="--initial"):
        task_of([sets], sizes=tiny_sizes(widths=(16, 24)), initial=report.export).build()


def test_every_weight_of_the_full_network_learns() -> None:
    """The authors' attention projections came to be after the optimiser and never learned; here nothing is
    left out."""
    task = task_of([learnable()], options=TunetTraining(targets=2))
    torch.manual_seed(0)
    model = task.build().train()
    with torch.no_grad():  # output layers begin at zero, which would hide what comes before them
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape))
    items = torch.arange(8)
    loss, _ = task.loss(model, task.batch(items), items, 0)
    loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"options": {"targets": 0}}, "--targets-each"),
        ({"options": {"class_drop": 2}}, "--class-drop"),
        ({"options": {"ablation": "half"}}, "--ablation"),
        ({"shares": (1, 2)}, "--shares"),
        ({"preset": "paper", "sizes": None}, "--preset"),
    ],
)
def test_refusals(changes: dict[str, Any], flag: str) -> None:
    sets = [posed([4])]
    if flag == "--preset":  # the published network reads 4 channels: ours of 4 are right, of 8 they are not
        wide = replace(sets[0], latents=torch.zeros(4, 8, CELLS, CELLS).half())
        with pytest.raises(InputError, match="--vae"):
            TunetTask([wide], MEANS, 0.16, preset="paper")
        return
    if "options" in changes:
        with pytest.raises(InputError, match=flag):
            TunetTraining(**changes["options"])
        return
    with pytest.raises(InputError, match=flag):
        task_of(sets, **changes)


def test_sets_that_give_no_pair_are_refused() -> None:
    with pytest.raises(InputError, match="at least 10 frames"):
        PairExamples([posed([9, 5], ordered=True)])
    with pytest.raises(InputError, match="two views"):
        PairExamples([posed([1])])
    with pytest.raises(InputError, match="one size"):
        PairExamples([posed([4]), replace(posed([4]), latents=torch.zeros(4, 2, 4, 4).half())])
