"""The generator as half of an autoencoder: its losses on known pictures, who learns from what, the codes
that are remembered and drawn, the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import NUMBERS, SIZE, short_run, tiny_generator, write_single_views

from manyview.methods.refiner.autoencoder import AutoencoderOptions, CodeAutoencoder, pyramid_l1, told_twice
from manyview.methods.refiner.code_distribution import CodeDistribution, fit_mapping
from manyview.methods.refiner.train_autoencoder import AutoencoderTask
from manyview.methods.refiner.train_generator import GeneratorTask
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator

OPTIONS = AutoencoderOptions(remembered=6, settling=3)


def networks(options: AutoencoderOptions = OPTIONS) -> CodeAutoencoder:
    torch.manual_seed(4)
    encoder = StyleGAN2Discriminator(
        resolution=SIZE, channel_base=256, channel_max=8, group_size=1, outputs=NUMBERS
    )
    return CodeAutoencoder(tiny_generator(), encoder, options).train()


def one_pass(model: CodeAutoencoder) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, SIZE, SIZE, generator=draws) * 2 - 1
    return model(pictures, torch.randn(4, NUMBERS, generator=draws))


def test_the_pyramid_on_known_pictures() -> None:
    """One level of grey is in the last level alone, a chess board in the first alone; and what is between two
    grey halves is in all."""
    black = torch.zeros(1, 3, 32, 32)
    assert float(pyramid_l1(black, black)) == 0
    assert float(pyramid_l1(black, black + 0.25)) == pytest.approx(0.25, abs=1e-6)
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    assert float(pyramid_l1(black, black + 0.5 * board)) == pytest.approx(0.5, abs=1e-6)
    halves = torch.where(torch.arange(32) < 16, 0.0, 1.0)
    assert float(pyramid_l1(black, black + halves)) > 0.5


def test_who_learns_from_what() -> None:
    """The encoder from both losses, synthesis from the picture, the mapping network from nothing."""
    model = networks()
    parts = one_pass(model)
    groups = {"synthesis": model.generator.blocks, "encoder": model.encoder}
    learns = {
        loss: {
            name
            for name, part in groups.items()
            if any(
                g is not None and bool(g.any())
                for g in torch.autograd.grad(
                    parts[loss], list(part.parameters()), retain_graph=True, allow_unused=True
                )
            )
        }
        for loss in ("reconstruction", "rate", "told_twice")
    }
    assert learns == {
        "reconstruction": {"synthesis", "encoder"},
        "rate": {"encoder"},
        "told_twice": {"encoder"},
    }
    assert not any(weight.requires_grad for weight in model.generator.mapping.parameters())
    costs = OPTIONS.rate * parts["rate"] + OPTIONS.apart * parts["told_twice"]
    torch.testing.assert_close(parts["loss"], parts["reconstruction"] + costs)


@pytest.mark.parametrize("odd", [0, 1, 3])
def test_mirrored_pictures_have_mirrored_codes(odd: int) -> None:
    model = networks(AutoencoderOptions(odd=odd, remembered=6))
    pictures = torch.rand(3, 3, SIZE, SIZE) * 2 - 1
    codes, mirrored = model.encode(pictures), model.encode(pictures.flip(-1))
    if not odd:
        assert not torch.allclose(codes, mirrored, atol=1e-3)
        return
    torch.testing.assert_close(mirrored[:, :odd], -codes[:, :odd])
    torch.testing.assert_close(mirrored[:, odd:], codes[:, odd:])
    assert float(codes.detach().abs().min(dim=0).values.max()) > 0


def test_what_a_code_tells_twice() -> None:
    """Nothing where the rest follows the sign alone or nothing; its variance where it follows the size."""
    turn = torch.linspace(-1, 1, 101)[:, None].requires_grad_(True)
    size = turn.detach().abs()
    even = (size - size.mean()) / size.std()
    assert float(told_twice(torch.cat([turn, 3 * turn], dim=1).detach(), 1)) < 1e-6
    rest = (2 * even).requires_grad_(True)
    found = told_twice(torch.cat([turn, rest], dim=1), 1)
    assert float(found.detach()) == pytest.approx(4, rel=0.03)
    grads = torch.autograd.grad(found, [turn, rest])
    assert not bool(grads[0].any())  # the turn learns nothing of it
    assert bool(grads[1].any())
    assert float(told_twice(turn.detach(), 0)) == 0


def test_the_last_codes_are_remembered() -> None:
    model = networks()
    pictures = torch.rand(8, 3, SIZE, SIZE) * 2 - 1
    for part in pictures.split(4):
        model(part, torch.zeros(4, NUMBERS))
    codes = model.encode(pictures).detach()
    assert float(model.count) == 8
    # Six places: the first two codes have made room for the last two.
    torch.testing.assert_close(model.seen, torch.cat([codes[6:], codes[2:6]]))
    before = model.seen.clone()
    model.eval()
    one_pass(model)
    assert torch.equal(model.seen, before)


def test_a_code_is_a_pictures_own() -> None:
    encoder = networks().encoder
    pictures = torch.rand(5, 3, SIZE, SIZE)
    torch.testing.assert_close(encoder(pictures[2:3]), encoder(pictures)[2:3])


def test_two_pictures_are_learnt() -> None:
    """Codes and drawings of a black and a grey picture come apart."""
    model = networks(AutoencoderOptions(rate=1e-3))
    weights = [*model.encoder.parameters(), *model.generator.blocks.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-2, betas=(0.9, 0.99))
    pictures = torch.stack([torch.full((3, SIZE, SIZE), level) for level in (-0.8, 0.4)])
    draws, found = torch.Generator().manual_seed(0), []
    for _ in range(60):
        parts = model(pictures, torch.randn(2, NUMBERS, generator=draws))
        found.append(float(parts["reconstruction"].detach()))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    levels = model.draw(model.encode(pictures)).detach().mean(dim=(1, 2, 3))
    assert float(levels[1] - levels[0]) > 0.6


def turned_codes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes that lie evenly within +-3 along one direction, normally with 1 along another, and hardly differ
    else, about a mean of their own; and those directions as rows."""
    draws = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(NUMBERS, NUMBERS, generator=draws))[0]
    numbers = 0.05 * torch.randn(count, NUMBERS, generator=draws)
    numbers[:, 0] = 6 * torch.rand(count, generator=draws) - 3
    numbers[:, 1] = torch.randn(count, generator=draws)
    return torch.linspace(-1, 1, NUMBERS) + numbers @ axes, axes


def test_drawn_codes_lie_as_the_codes_do() -> None:
    codes, axes = turned_codes(4000)
    distribution = CodeDistribution(codes)
    z = torch.randn(4000, NUMBERS, generator=torch.Generator().manual_seed(1))
    drawn = (distribution.draw(z) - torch.linspace(-1, 1, NUMBERS)) @ axes.T
    even, normal = drawn[:, 0].abs(), drawn[:, 1]
    assert float(even.max()) < 3.2
    assert float((even < 1.5).float().mean()) == pytest.approx(0.5, abs=0.05)  # even, not normal
    assert float(normal.std()) == pytest.approx(1, abs=0.05)
    assert float(drawn[:, 2:].std()) < 0.08
    # Quantiles to quantiles: what is in the middle stays, what is drawn as the outermost is the outermost.
    torch.testing.assert_close(
        distribution.draw(torch.zeros(1, NUMBERS))[0],
        distribution.mean + distribution.axes @ distribution.quantiles.median(dim=0).values,
        atol=1e-2,
        rtol=0,
    )
    far = torch.zeros(1, NUMBERS)
    far[0, 0] = 40.0
    along = (distribution.draw(far)[0] - distribution.mean) @ distribution.axes[:, 0]
    assert float(along) == pytest.approx(float(distribution.quantiles[-1, 0]), abs=1e-4)
    # Fewer latents than numbers: only the widest axes move.
    few = distribution.draw(torch.randn(50, 2)) - distribution.mean
    assert float((few @ distribution.axes[:, 2:]).abs().max()) < 1e-4


def test_the_mapping_learns_to_draw_them() -> None:
    torch.manual_seed(5)
    generator = StyleGAN2Generator(
        resolution=SIZE, z_dim=NUMBERS, w_dim=NUMBERS, mapping_layers=3, mapping_lr=1.0, channel_base=256,
        channel_max=8,
    )  # fmt: skip
    blocks = [weight.clone() for weight in generator.blocks.parameters()]
    distribution = CodeDistribution(turned_codes(500)[0])
    fit_mapping(generator, distribution, 500, seed=0)
    # Latents of the length that the mapping network gives all of them.
    z = torch.randn(2000, NUMBERS, generator=torch.Generator().manual_seed(2))
    z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True))
    told, wanted = generator.map(z)[:, 0].detach(), distribution.draw(z)
    assert float((told - wanted).square().sum(dim=1).mean()) < 0.15 * float(wanted.var(dim=0).sum())
    assert float((generator.w_mean - told.mean(dim=0)).abs().max()) < 0.2
    assert all(map(torch.equal, blocks, generator.blocks.parameters()))


def test_run_resumes_exactly_and_a_game_goes_on_with_it(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", size=SIZE)

    def train(out: Path, stop: int | None = None) -> None:
        task = AutoencoderTask([data], validation=data, size=SIZE, autoencoder=OPTIONS)
        task.build = networks
        short_run(task, out, stop)

    train(tmp_path / "whole")
    with pytest.raises(Exception, match="stopped after step 2"):
        train(tmp_path / "parts", stop=2)
    train(tmp_path / "parts")
    exports = [tmp_path / name / "export" for name in ("whole", "parts")]
    weights = [StyleGAN2Generator.from_pretrained(str(export)).state_dict() for export in exports]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert bool(weights[0]["mapping.w_mean"].any())
    found = (tmp_path / "whole" / "train.json").read_text()
    assert "psnr_val" in found
    assert "spread_val" in found
    going_on = GeneratorTask([data], size=SIZE, initial=exports[0]).first_generator()
    torch.testing.assert_close(going_on.state_dict(), {k: v.float() for k, v in weights[0].items()})
