"""The regressor: compositing in closed form, a slow reference, what must change nothing, and its training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_sparsefusion import SIZE, scene_cameras, scene_images
from torch.testing import assert_close

from manyview.cli.recipes import Recipe, make_task
from manyview.data.packed import PackedViews, pack_procedural
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit
from manyview.methods.sparsefusion.epipolar import read_maps
from manyview.methods.sparsefusion.examples import open_posed
from manyview.methods.sparsefusion.regressor import (
    DENSITY_SCALE,
    PixelRegressor,
    build_regressor,
    composite,
    middle_depths,
)
from manyview.methods.sparsefusion.train import SparseFusionNetwork, SparseFusionTask
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

RANGE = torch.tensor([[0.6, 2.4]], dtype=torch.float64)
TIGHT = {"atol": 1e-9, "rtol": 0}


def tiny_regressor(**changes: Any) -> PixelRegressor:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "stem": 2,
        "width": 12,
        "view_layers": 2,
        "shared_layers": 1,
        "num_depths": 6,
        "num_octaves": 3,
        "half_range": 0.9,
        "normalization": "group",
    }
    net = PixelRegressor(**{**options, **changes})
    for layer in (*net.each_view, *net.all_views):  # they begin as the identity
        torch.nn.init.normal_(layer.second.weight, std=0.3)
    return net.double().eval()


def ask(net, images, cameras, query, *, rows=2, columns=3, ranges=RANGE, present=None, **options):
    with torch.no_grad():
        context = net.encode(images, cameras, ranges, present)
        return net(context, query, rows, columns, **options)


def test_fog_lets_through_what_beer_and_lambert_say() -> None:
    """Density s and colour c everywhere: exp(-s L) of the white shows through a ray's length L, whatever the
    number of pieces. A ray whose unit direction has z = 0.5 is twice as long as the depth range."""
    density, color, near, far = 1.3, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), 0.6, 2.4
    rays = torch.tensor([[0, 0, 1.0, 0, 0, 0], [0.75**0.5, 0, 0.5, 0, 0, 0]], dtype=torch.float64)[None, None]
    for pieces in (1, 2, 7):
        depths = middle_depths(RANGE, pieces)
        shape = (1, 1, 2, pieces)
        seen, alphas, met = composite(
            torch.full(shape, density, dtype=torch.float64), color.expand(*shape, 3), depths, rays, RANGE
        )
        for ray, length in enumerate((far - near, 2 * (far - near))):
            through = math.exp(-density * length)
            assert_close(alphas[0, 0, ray, 0], torch.tensor(1 - through, dtype=torch.float64))
            assert_close(seen[0, 0, ray], color * (1 - through) + through)
    # Seven pieces: the mean depth is nearly that of the exponential between near and far,
    # near + 1 / s - (far - near) q / (1 - q) with q = exp(-s (far - near)).
    q = math.exp(-density * (far - near))
    assert float(met[0, 0, 0, 0]) == pytest.approx(near + 1 / density - (far - near) * q / (1 - q), abs=0.01)


def test_an_opaque_piece_hides_what_is_behind() -> None:
    depths = middle_depths(RANGE, 3)
    assert_close(depths, torch.tensor([[0.9, 1.5, 2.1]], dtype=torch.float64))
    ray = torch.tensor([0, 0, 1.0, 0, 0, 0], dtype=torch.float64).expand(1, 1, 1, 6)
    density = torch.tensor([0.0, 1e4, 1e4], dtype=torch.float64).expand(1, 1, 1, 3)
    color = torch.eye(3, dtype=torch.float64).expand(1, 1, 1, 3, 3)
    seen, alphas, met = composite(density, color, depths, ray, RANGE)
    assert_close(seen[0, 0, 0], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert float(alphas) == 1.0
    assert float(met) == pytest.approx(1.5)
    empty = composite(torch.zeros_like(density), color, depths, ray, RANGE)
    assert_close(empty[0][0, 0, 0], torch.ones(3, dtype=torch.float64))


def waves(values, octaves):
    out = [math.sin(2**k * x) for x in values for k in range(octaves)]
    out += [math.cos(2**k * x) for x in values for k in range(octaves)]
    return torch.tensor([*out, *values], dtype=torch.float64)


@torch.no_grad()
def test_agrees_with_a_slow_reference() -> None:
    """Ray by ray, sample by sample, view by view, in world coordinates."""
    net = tiny_regressor()
    cameras, images = scene_cameras(4, distorted=False), scene_images(3)
    query = cameras[3]
    answer = ask(net, images[None], cameras[:3], query)
    maps = net.encoder(images)
    move, K = query.world_from_cam[0], query.K[0]
    for i, v in enumerate((4.0, 12.0)):  # middles of 2 x 3 cells of a 16 px image
        for j, u in enumerate((SIZE / 6, SIZE / 2, SIZE * 5 / 6)):
            ahead = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], K.new_tensor(1.0)])
            left, color, alpha = 1.0, torch.zeros(3, dtype=torch.float64), 0.0
            for place in range(6):
                depth = 0.6 + 1.8 * (place + 0.5) / 6
                point = move[:3, :3] @ (ahead * depth) + move[:3, 3]
                features = []
                for view in range(3):
                    own = cameras.world_from_cam[view]
                    local = own[:3, :3].T @ (point - own[:3, 3])
                    turned = own[:3, :3].T @ move[:3, :3] @ (ahead / ahead.norm())
                    pixel = cameras.K[view] @ local
                    where = (pixel[:2] / pixel[2]).reshape(1, 1, 1, 1, 1, 2)
                    inside = local[2] > 0 and bool(((where >= 0) & (where <= SIZE)).all())
                    seen = torch.cat(
                        [
                            read_maps(maps[None, [view]], where, SIZE, SIZE).flatten(),
                            read_maps(images[None, [view]], where, SIZE, SIZE).flatten(),
                            torch.tensor([float(inside)], dtype=torch.float64),
                        ]
                    )
                    x = net.enter(torch.cat([waves(local.tolist(), 3), turned]))
                    for shown, layer in zip(net.shown, net.each_view, strict=True):
                        x = x + shown(seen)
                        x = x + layer.second(F.relu(layer.first(F.relu(x))))
                    features.append(x)
                x = torch.stack(features).mean(dim=0)
                for layer in net.all_views:
                    x = x + layer.second(F.relu(layer.first(F.relu(x))))
                told = net.leave(F.relu(x))
                thick = DENSITY_SCALE * float(F.softplus(told[0])) * 0.3 * float(ahead.norm())
                weight = left * (1 - math.exp(-thick))
                color, alpha, left = color + weight * told[1:].sigmoid(), alpha + weight, left - weight
            assert_close(answer.colors[0, 0, :, i, j], color + 1 - alpha, **TIGHT)
            assert float(answer.alphas[0, 0, 0, i, j]) == pytest.approx(alpha, abs=1e-9)


def test_what_changes_nothing() -> None:
    """The order of the views, where the world's origin is, views that are not there, and pieces of rays."""
    net, cameras, images = tiny_regressor(), scene_cameras(5), scene_images(3)[None]
    first = ask(net, images, cameras[:3], cameras[3:])
    order = [2, 0, 1]
    other = ask(net, images[:, order], cameras[order], cameras[3:])
    assert_close(other.colors, first.colors, **TIGHT)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    away = Similarity(1.0, turn * torch.linalg.det(turn), torch.tensor([300.0, -70.0, 20.0]).double())
    moved = away.apply_to_cameras(cameras)
    again = ask(net, images, moved[:3], moved[3:])
    assert_close(again.colors, first.colors, **TIGHT)
    assert_close(again.depths, first.depths, **TIGHT)
    pieces = ask(net, images, cameras[:3], cameras[3:], rays_at_once=2)
    assert_close(pieces.colors, first.colors, **TIGHT)
    padded = torch.cat([images, torch.rand_like(images[:, :1])], dim=1)
    present = torch.tensor([[True, True, True, False]])
    longer = ask(net, padded, cameras[[0, 1, 2, 4]], cameras[3:4], present=present)
    assert_close(longer.colors, first.colors[:, :1], **TIGHT)


def test_a_query_never_sees_itself() -> None:
    net, cameras, images = tiny_regressor(), scene_cameras(3), scene_images(3)[None]
    with pytest.raises(InputError, match="is context view 1"):
        ask(net, images, cameras, cameras[[1]])
    hidden = ask(net, images, cameras, cameras[[1]], own="hide")
    without = ask(net, images[:, [0, 2]], cameras[[0, 2]], cameras[[1]])
    assert_close(hidden.colors, without.colors, **TIGHT)
    with pytest.raises(InputError, match="expected 1 to 8"):
        net.encode(images[:, :0], cameras[[]], RANGE)


def test_gradients_reach_every_weight() -> None:
    net = tiny_regressor().train()
    cameras = scene_cameras(4)
    context = net.encode(scene_images(3)[None], cameras[:3], RANGE)
    answer = net(context, cameras[3], 4, 4)
    (answer.colors - torch.rand_like(answer.colors)).square().mean().backward()
    untouched = [name for name, w in net.named_parameters() if w.grad is None or not bool(w.grad.any())]
    assert untouched == []


def test_sizes() -> None:
    """The compact one is about as large as the compact EFT (921 342 weights)."""
    with torch.device("meta"):
        count = sum(weight.numel() for weight in build_regressor("compact").parameters())
        assert build_regressor("paper").config["width"] == 512
    assert 0.8 < count / 921_342 < 1.25


class TinyTask(SparseFusionTask):
    def build_regressor(self) -> PixelRegressor:
        return tiny_regressor(width=24, num_depths=12).float()


def test_it_trains_on_the_same_examples(tmp_path: Path) -> None:
    """The last twenty of forty steps have less than 0.8 of the first five's mean loss; the export goes on."""
    pack_procedural(tmp_path / "packed", 0, 2, orbit(6, size=SIZE), supersample=1)
    sets = [open_posed(PackedViews(tmp_path / "packed"))]
    task = TinyTask(sets, stage="regressor", context_views=(2, 3), rays_at_once=16, validation=sets[0])
    both = SparseFusionTask(sets, stage="eft", context_views=(2, 3), rays_at_once=16)
    assert [task.examples.draw(i) for i in range(9)] == [both.examples.draw(i) for i in range(9)]
    config = TrainConfig(
        steps=40,
        batch_size=4,
        lr=1e-2,
        warmup_steps=2,
        ema_decay=0.9,
        log_every=5,
        validate_every=40,
        dtype="fp32",
        device="cpu",
        num_threads=1,
        tensorboard=False,
    )
    recipe = Recipe(
        target="sparsefusion", data=(tmp_path / "packed",), stage="regressor", context_views=(2, 3)
    )
    from_flags = make_task(recipe, torch.device("cpu"))  # without a codec
    assert isinstance(from_flags, SparseFusionTask)
    assert (from_flags.stage, from_flags.examples.draw(3)) == ("regressor", task.examples.draw(3))
    report = fit(task, config, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in report.curve if "loss" in row]
    assert sum(losses[4:]) / 4 < 0.8 * losses[0], losses
    assert list(report.validation) == ["loss_val_color", "psnr_val"]
    assert [path.name for path in report.export.iterdir()] == ["regressor"]
    model = TinyTask(sets, stage="regressor", rays_at_once=16, initial=report.export).build()
    assert isinstance(model, SparseFusionNetwork)
    assert isinstance(model.eft, PixelRegressor)
    kept: Any = PixelRegressor.from_pretrained(str(report.export / "regressor"))
    assert all(torch.equal(kept.state_dict()[k].float(), v) for k, v in model.eft.state_dict().items())
