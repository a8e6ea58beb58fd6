"""The refiner's losses: known answers, masks, and the optimum that the guard is there against."""

from __future__ import annotations

import pytest
import torch
from tiny_refiner import ToyGenerator

from manyview.methods.refiner.losses import (
    Geometry,
    RefinerLosses,
    feature_loss,
    guard_loss,
    latent_loss,
    visible,
    warp_loss,
)
from manyview.methods.refiner.pose import PoseEstimator


def still(size: int = 16, depth: float = 1.5) -> Geometry:
    """No turn: every pixel looks at itself."""
    return Geometry(
        depth=torch.full((1, 1, size, size), depth),
        K=torch.tensor([[[18.0, 0, size / 2], [0, 18.0, size / 2], [0, 0, 1]]]),
        pose=torch.eye(4)[None],
        mask=torch.ones(1, 1, size, size),
    )


def test_warp_loss_is_the_mean_square_over_the_mask() -> None:
    geometry = still()
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:8, 4:8] = 1
    geometry = Geometry(**{**vars(geometry), "mask": mask})
    source = torch.zeros(1, 3, 16, 16)
    refined = torch.ones(1, 3, 16, 16)
    refined[..., 4:8, 4:8] = 0.5
    assert float(
        warp_loss(source, refined, geometry, refined_depth=None, losses=RefinerLosses())
    ) == pytest.approx(0.25)
    everywhere = warp_loss(source, refined, geometry, refined_depth=None, losses=RefinerLosses(masked=False))
    assert float(everywhere) == pytest.approx(1 - 0.75 * 16 / 256, abs=1e-4)


def test_pixels_outside_the_picture_do_not_count() -> None:
    geometry = still()
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = 0.75  # 0.75 / 1.5 x 18 = 9 pixels to the right: the last nine columns look outside
    geometry = Geometry(**{**vars(geometry), "pose": pose})
    refined = torch.zeros(1, 3, 16, 16)
    refined[..., :9] = 1  # what is looked up begins at column 9
    source = torch.zeros(1, 3, 16, 16)
    loss = warp_loss(source, refined, geometry, refined_depth=None, losses=RefinerLosses())
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_hidden_pixels_do_not_count() -> None:
    geometry = still()
    nearer = torch.full((1, 1, 16, 16), 1.5)
    nearer[..., :8] = 1.0  # the other view sees something else in front
    seen = visible(geometry, nearer, 0.05)
    assert float(seen[..., 1:7].max()) == 0
    assert float(seen[..., 9:].min()) == 1
    source, refined = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    refined[..., :7] = 1
    losses = RefinerLosses()
    assert float(warp_loss(source, refined, geometry, refined_depth=nearer, losses=losses)) < 1e-6
    assert float(warp_loss(source, refined, geometry, refined_depth=None, losses=losses)) > 0.3


def test_latent_loss_in_deviations() -> None:
    spread = torch.tensor([2.0, 0.5])
    codes = torch.zeros(1, 3, 2)
    moved = codes + torch.tensor([2.0, 1.0])
    assert float(latent_loss(moved, codes, spread)) == pytest.approx((1 + 4) / 2)


def test_feature_loss_over_the_variance() -> None:
    features = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(feature_loss(features, features)) == 0
    shifted = feature_loss(features + 1, features)
    assert float(shifted) == pytest.approx(1 / float(features.var()), rel=1e-4)
    assert float(feature_loss(features[:1], features[:1], still(16))) == pytest.approx(0, abs=1e-6)


def test_guard_counts_turns_and_shifts() -> None:
    wanted = torch.zeros(2, 6)
    found = torch.tensor([[0.0, 0.3, 0, 0, 0, 0], [0.0, 0, 0, 0.4, 0, 0]])
    assert float(guard_loss(found, wanted)) == pytest.approx((0.09 + 0.16) / 2)


def test_without_leaves_one_loss_out() -> None:
    losses = RefinerLosses()
    assert (losses.warp, losses.latent, losses.feature) == (1.0, 1.0, 1.0)
    for name in ("warp", "latent", "feature", "guard"):
        left = losses.without(name)
        assert getattr(left, name) == 0
        assert sum(getattr(left, other) == getattr(losses, other) for other in vars(losses)) == 7
    assert losses.cells(64) == 16
    assert losses.cells(512) == 32


def test_not_turning_is_the_optimum_of_the_printed_losses_and_the_guard_forbids_it() -> None:
    """The paper's losses vanish at w_plus = w with a pose network that finds no turn there; with the guard's
    weight the true turned code is better, without it the source's own code is."""
    scene = ToyGenerator(64)
    camera = PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8)
    codes = scene.sample([4, 5])
    meant = torch.zeros(1, scene.w_dim)
    meant[0, 0] = 0.8
    turned = codes + meant @ scene.meaning
    turns = camera.turn(torch.full((2,), 0.8 * 24))
    with torch.no_grad():
        look = scene.render(codes)
    solid = (look.depths > 0).float()
    spread = torch.full((scene.w_dim,), 0.6)

    def total(answer: torch.Tensor, pose: torch.Tensor, guard: float) -> float:
        """With the pose that a network would find of the answer."""
        geometry = Geometry(
            depth=torch.where(look.depths > 0, look.depths, 1.5),
            K=camera.K(64, 64)[None],
            pose=camera.transform(pose),
            mask=solid,
        )
        with torch.no_grad():
            images, features = scene.features(answer, 16)
        _, own = scene.features(codes, 16)
        return float(
            warp_loss(look.images, images, geometry, refined_depth=None, losses=RefinerLosses())
            + latent_loss(answer, codes, spread)
            + feature_loss(features, own)
            + guard * guard_loss(pose, turns)
        )

    none = torch.zeros_like(turns)
    assert total(codes, none, 0.0) == pytest.approx(0, abs=1e-3)
    assert total(turned, turns, 0.0) > 0.02
    assert total(codes, none, 60.0) > total(turned, turns, 60.0)
