"""The synthetic generator is what it says, and the refiner undoes its entanglement given the truth."""

from __future__ import annotations

import pytest
import torch
from tiny_refiner import ToyGenerator

from manyview.geometry.pixels import pixel_centers
from manyview.methods.refiner.coarse_pose import inner_mask
from manyview.methods.refiner.losses import Geometry, RefinerLosses, guard_loss, latent_loss, warp_loss
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.pose import PoseEstimator


@pytest.fixture(scope="module")
def scene() -> ToyGenerator:
    return ToyGenerator(32)


def test_codes_are_entangled_as_told(scene: ToyGenerator) -> None:
    said = scene.says(scene.sample(range(4000)))
    correlation = torch.corrcoef(said.T)
    # 0.75 over the root of 0.75^2 + 0.5^2.
    assert float(correlation[0, 1]) == pytest.approx(0.832, abs=0.03)
    assert float(correlation[0, 2]) == pytest.approx(0.832, abs=0.03)
    assert float(correlation[0, 3:].abs().max()) < 0.06
    assert float(said[:, 0].std()) == pytest.approx(1, abs=0.04)


def test_rows_are_shared_out(scene: ToyGenerator) -> None:
    code = scene.sample([3])
    step = scene.meaning[1] + scene.meaning[0]  # tint and yaw
    first, second = code.clone(), code.clone()
    first[:, :2] += step
    second[:, 2:] += step
    assert float(scene.yaw_deg(first) - scene.yaw_deg(code)) == pytest.approx(24, abs=1e-3)
    assert float(scene.yaw_deg(second) - scene.yaw_deg(code)) == pytest.approx(0, abs=1e-3)
    assert (scene.nuisances(second) - scene.nuisances(code))[0].tolist() == pytest.approx([1, 0], abs=1e-4)


def test_depths_are_where_the_body_is(scene: ToyGenerator) -> None:
    code = scene.sample([1])
    look = scene.render(code)
    solid = look.depths[0, 0] > 0
    assert 0.1 < float(solid.float().mean()) < 0.5
    grid = pixel_centers(32, 32)
    rays = torch.cat([(grid - 16) / (35 / 32 * 32), torch.ones(32, 32, 1)], dim=-1)
    points = rays * look.depths[0, 0, ..., None] - torch.tensor([0.0, 0.0, 1.5])
    yaw = torch.deg2rad(scene.yaw_deg(code))
    c, s = float(yaw.cos()), float(yaw.sin())
    own = points[solid] @ torch.tensor([[c, 0.0, s], [0, 1, 0], [-s, 0, c]])
    length = own.norm(dim=1)
    bumps = torch.exp(7 * (own / length[:, None] @ scene.centers.T - 1))
    radius = 0.36 * (1 + (bumps * scene._heights(scene.says(code))[0]).sum(dim=1))
    assert float((length - radius).abs().median()) < 1e-3


def test_pictures_are_differentiable_in_every_number(scene: ToyGenerator) -> None:
    code = scene.sample([2]).requires_grad_()
    (scene(code) * torch.linspace(0, 1, 32)).square().sum().backward()
    assert code.grad is not None
    meaning = code.grad[0, :2].sum(dim=0) @ scene.meaning.T
    assert bool((meaning[[0, 2]].abs() > 1e-3).all())
    # Finite differences along the yaw agree.
    step = 1e-2 * scene.meaning[0]

    def value(codes: torch.Tensor) -> float:
        with torch.no_grad():
            return float((scene(codes) * torch.linspace(0, 1, 32)).square().sum())

    base = scene.sample([2])
    numeric = (value(base + step) - value(base - step)) / 2e-2
    analytic = float((code.grad @ scene.meaning[0]).sum())
    assert analytic == pytest.approx(numeric, rel=0.15)


def test_a_refiner_given_the_truth_undoes_the_entanglement(scene: ToyGenerator) -> None:
    """A few steps with the losses and true depth and pose: yaw stays, tint and horn go back."""
    torch.manual_seed(0)
    camera = PoseEstimator(widths=(8, 8, 8, 8, 8), hidden=8)
    model = CodeRefiner(
        num_ws=4, w_dim=12, model_channels=32, channel_mult=(1,), attention_levels=(), norm_groups=8
    )
    model.set_statistics(torch.zeros(12), 0.6)
    along = torch.nn.functional.one_hot(torch.tensor(0), 12).float() @ scene.mixing.T @ scene.meaning
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses, spread = RefinerLosses(), torch.full((12,), 0.6)

    def draw(first: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        codes = scene.sample(range(first, first + 8))
        amounts = torch.linspace(-1.2, 1.2, 8)
        edited = codes + amounts[:, None, None] * along
        return codes, edited, camera.turn(scene.yaw_deg(edited) - scene.yaw_deg(codes))

    def answer(codes: torch.Tensor, edited: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        return model(codes, edited, turns, torch.zeros(len(codes), dtype=torch.int64))

    for step in range(40):
        codes, edited, turns = draw(100 + 8 * step)
        refined = answer(codes, edited, turns)
        with torch.no_grad():
            look = scene.render(codes)
        solid = (look.depths > 0).float()
        geometry = Geometry(
            depth=torch.where(solid > 0, look.depths, 1.5),
            K=camera.K(32, 32)[None],
            pose=camera.transform(turns),
            mask=inner_mask(solid),
        )
        found = camera.turn(scene.yaw_deg(refined) - scene.yaw_deg(codes))
        loss = warp_loss(look.images, scene(refined), geometry, refined_depth=None, losses=losses)
        loss = loss + latent_loss(refined, codes, spread) + 60 * guard_loss(found, turns)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    codes, edited, turns = draw(5000)
    with torch.no_grad():
        refined = answer(codes, edited, turns)
    wrong = (scene.nuisances(edited) - scene.nuisances(codes)).abs().sum()
    left = (scene.nuisances(refined) - scene.nuisances(codes)).abs().sum()
    assert float(1 - left / wrong) > 0.5
    assert float((scene.yaw_deg(refined) - scene.yaw_deg(edited)).abs().mean()) < 3
