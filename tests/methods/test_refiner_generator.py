"""Training of the refiner's generator: each network's gradient, the changes before the discriminator, the
run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import SIZE, short_run, tiny_discriminator, tiny_generator, write_single_views
from torch import nn

from manyview.errors import InputError
from manyview.methods.refiner.augmentation import LARGEST, Draws, augment, draw_augmentation
from manyview.methods.refiner.gan import GanNetworks, GanOptions, gradient_penalty
from manyview.methods.refiner.single_views import SingleViewSet, pack_single_views
from manyview.methods.refiner.train_generator import GeneratorTask
from manyview.nets.stylegan2.generator import StyleGAN2Generator


def networks(**options: float) -> GanNetworks:
    return GanNetworks(tiny_generator(), tiny_discriminator(), GanOptions(**options)).train()


def one_pass(game: GanNetworks, **flags: bool) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    items = torch.arange(4)
    return game(
        torch.rand(4, 3, SIZE, SIZE, generator=draws) * 2 - 1,
        torch.randn(4, 8, generator=draws),
        torch.randn(4, 8, generator=draws),
        torch.full((4,), 10),
        draw_augmentation(0, items),
        draw_augmentation(0, items, 9),
        **flags,
    )


def gradients(loss: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True))


def test_each_network_learns_from_its_own_loss_alone() -> None:
    game = networks(augmentation=0.5)
    parts = one_pass(game)
    assert all(g is None for g in gradients(parts["generator"], game.discriminator))
    assert all(g is None for g in gradients(parts["discriminator"], game.generator))
    for loss, module in (("generator", game.generator), ("discriminator", game.discriminator)):
        both, own = gradients(parts["loss"], module), gradients(parts[loss], module)
        assert any(g is not None and bool(g.any()) for g in own)
        for a, b in zip(both, own, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


def test_the_generator_learns_what_the_discriminator_says() -> None:
    """Its gradient is the one through the discriminator, although no second forward pass is made."""
    from manyview.methods.refiner.gan import _through

    judge = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    )
    weight = torch.randn(3, 2, 2, requires_grad=True)
    inputs = torch.randn(5, 3, 2, 2)

    def loss(pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(-judge(pictures)).mean()

    (direct,) = torch.autograd.grad(loss(inputs * weight), weight)
    shown = inputs * weight
    pictures = shown.detach().requires_grad_()
    ours = _through(shown, pictures, loss(pictures))
    assert float(ours.detach()) == pytest.approx(float(loss(shown).detach()), rel=1e-6)
    (found,) = torch.autograd.grad(ours, weight)
    torch.testing.assert_close(found, direct)


def test_losses_of_an_undecided_discriminator() -> None:
    game = networks(augmentation=0.0)
    with torch.no_grad():
        for weight in game.discriminator.out.parameters():
            weight.zero_()
    parts = one_pass(game)
    # softplus(0) = ln 2: once for the generator, once each for real and made.
    assert float(parts["generator"].detach()) == pytest.approx(0.6931, abs=1e-3)
    assert float(parts["discriminator"]) == pytest.approx(1.3863, abs=1e-3)


def test_penalty_of_a_linear_discriminator() -> None:
    real = torch.rand(3, 3, 4, 4, requires_grad=True)
    slope = torch.randn(3, 4, 4)
    assert float(gradient_penalty((real * slope).sum(dim=(1, 2, 3)), real)) == pytest.approx(
        float(slope.square().sum()), rel=1e-5
    )


def test_penalty_and_path_lengths_reach_their_networks() -> None:
    game = networks(path_length=1.0)
    parts = one_pass(game, penalise=True, measure_paths=True)
    assert float(parts["r1"]) > 0
    assert float(parts["paths"]) > 0
    assert any(g is not None and bool(g.any()) for g in gradients(parts["r1"], game.discriminator))
    assert any(g is not None and bool(g.any()) for g in gradients(parts["paths"], game.generator))


def test_augmentation_adapts_to_how_sure_the_discriminator_is() -> None:
    game = networks(adapted_over=100, sureness=-2.0)
    one_pass(game)
    assert float(game.strength) == pytest.approx(0.04)  # too sure: up by 4 of 100
    for _ in range(30):
        one_pass(game)
    assert float(game.strength) == pytest.approx(LARGEST)
    unsure = networks(adapted_over=100, sureness=2.0)
    one_pass(unsure)
    assert float(unsure.strength) == 0


def test_no_change_without_probability() -> None:
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    draws = draw_augmentation(0, torch.arange(6))
    torch.testing.assert_close(augment(images, draws, 0.0), images, atol=1e-5, rtol=0)


def test_half_of_the_real_pictures_are_mirrored_and_no_made_one() -> None:
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    draws = draw_augmentation(0, torch.arange(64))
    torch.testing.assert_close(augment(images, draws, 0.0), images, atol=1e-5, rtol=0)
    changed = augment(images, draws, 0.0, mirror=True)
    same = (changed - images).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (changed - images.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert bool((same ^ mirrored).all())
    assert 15 < int(mirrored.sum()) < 49


def test_a_generator_of_one_side_does_not_pass_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator that knows left from right sees made pictures as they are, mirrored ones or not, and
    real ones both ways round."""
    seen = []

    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            left, right = images.detach().chunk(2, dim=-1)
            seen.append((left.mean(dim=(1, 2, 3)) > right.mean(dim=(1, 2, 3))).float().mean())
            return images.mean(dim=(1, 2, 3), keepdim=True)[..., 0]

    game = networks(augmentation=1e-9)
    count = 32
    half = torch.ones(count, 3, SIZE, SIZE)
    half[..., SIZE // 2 :] = -1
    monkeypatch.setattr(game, "discriminator", Watching())
    monkeypatch.setattr(game.generator, "synthesize", lambda codes, noise: half + 0 * codes.sum())
    draws = [draw_augmentation(1, torch.arange(count), stream) for stream in (10, 20)]
    z = torch.randn(count, game.generator.z_dim)
    game(half, z, z, torch.full((count,), 99), *draws)
    on_real, on_made = seen
    assert 0.25 < float(on_real) < 0.75
    assert float(on_made) == 1


def test_white_comes_in_from_outside() -> None:
    images = torch.full((1, 3, 16, 16), -1.0)
    chance = torch.ones(1, 8)
    chance[0, 1] = 0
    amount = torch.zeros(1, 8, 2)
    amount[0, 1, 0] = 2.0  # 2 x an eighth of the picture to the side
    shifted = augment(images, Draws(chance, amount), 0.5)
    assert float(shifted[..., -3:].min()) == pytest.approx(1.0, abs=1e-5)
    assert float(shifted[..., :11].max()) == pytest.approx(-1.0, abs=1e-5)


def test_changes_are_differentiable_and_belong_to_items() -> None:
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    items = torch.tensor([3, 8, 9, 11])
    out = augment(images, draw_augmentation(5, items), 0.7)
    out.square().sum().backward()
    assert images.grad is not None
    assert bool((images.grad.abs().sum(dim=(1, 2, 3)) > 0).all())
    alone = augment(images[1:2], draw_augmentation(5, items[1:2]), 0.7)
    torch.testing.assert_close(alone, out[1:2])


def test_run_resumes_exactly_and_exports_a_generator(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", size=SIZE)

    def train(out: Path, stop: int | None = None) -> None:
        task = GeneratorTask([data], validation=data, size=SIZE, options=GanOptions(r1_every=2))
        task.build = lambda: GanNetworks(tiny_generator(), tiny_discriminator(), task.options)
        short_run(task, out, stop, betas=(0.0, 0.99))

    train(tmp_path / "whole")
    with pytest.raises(Exception, match="stopped after step 2"):
        train(tmp_path / "parts", stop=2)
    train(tmp_path / "parts")
    weights = [
        StyleGAN2Generator.from_pretrained(str(tmp_path / name / "export")).state_dict()
        for name in ("whole", "parts")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["mapping.w_mean"], torch.zeros(8).to(weights[0]["mapping.w_mean"]))


def test_views_of_another_size_are_refused(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", size=48)
    with pytest.raises(InputError, match=r"--data: .* expected square views of a multiple of 32 pixels"):
        GeneratorTask([data], size=32)


def test_animals_are_packed_with_their_yaw_and_depth(tmp_path: Path) -> None:
    pack_single_views(tmp_path / "animals", 3, 2, size=32, supersample=1)
    views = SingleViewSet(tmp_path / "animals")
    assert len(views) == 2
    assert bool((views.yaw_deg.abs() <= 60).all())
    assert float(views.yaw_deg[0]) != float(views.yaw_deg[1])
    image, depth = views.image(0), views.depth(0)
    solid = depth[0] > 0
    assert 0.02 < float(solid.float().mean()) < 0.9
    assert float(image.amin(dim=0)[~solid].median()) == 1.0
    # An animal of longest side 1 seen from 1.5 away.
    assert 0.6 < float(depth[0][solid].min()) < float(depth[0][solid].max()) < 2.4
    # Finished shards stay; another yaw range is another data set.
    before = (tmp_path / "animals" / "views_00000003.npy").stat().st_mtime_ns
    pack_single_views(tmp_path / "animals", 3, 2, size=32, supersample=1)
    assert (tmp_path / "animals" / "views_00000003.npy").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="begun with other options"):
        pack_single_views(tmp_path / "animals", 3, 2, size=32, supersample=1, max_yaw_deg=20)
