"""The generator as half of an autoencoder: its losses on known pictures and codes, who learns from what, the
codes that are remembered, the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import NUMBERS, SIZE, tiny_generator, write_single_views

from manyview.methods.refiner.autoencoder import (
    AutoencoderOptions,
    CodeAutoencoder,
    matching_distance,
    pyramid_l1,
    sliced_distance,
)
from manyview.methods.refiner.train_autoencoder import AutoencoderTask
from manyview.methods.refiner.train_generator import GeneratorTask
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.training.config import TrainConfig
from manyview.training.loop import fit

OPTIONS = AutoencoderOptions(remembered=6, drawn=16, directions=4)


def networks(options: AutoencoderOptions = OPTIONS) -> CodeAutoencoder:
    torch.manual_seed(4)
    encoder = StyleGAN2Discriminator(
        resolution=SIZE, channel_base=256, channel_max=8, group_size=1, outputs=NUMBERS
    )
    return CodeAutoencoder(tiny_generator(), encoder, options).train()


def tiny_generator_that_maps_fast() -> StyleGAN2Generator:
    torch.manual_seed(5)
    return StyleGAN2Generator(
        resolution=SIZE, z_dim=8, w_dim=NUMBERS, mapping_layers=2, mapping_lr=1.0, channel_base=256,
        channel_max=8,
    )  # fmt: skip


def one_pass(model: CodeAutoencoder, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return model(
        torch.rand(4, 3, SIZE, SIZE, generator=draws) * 2 - 1,
        torch.randn(4, NUMBERS, generator=draws),
        torch.randn(16, 8, generator=draws),
        torch.rand(16, generator=draws),
        torch.randn(4, NUMBERS, generator=draws),
    )


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


def test_the_distance_of_shifted_sets() -> None:
    """Along the axes the squared lengths of a shift's parts, whichever order the points are in."""
    draws = torch.Generator().manual_seed(0)
    points, shift = torch.randn(64, 3, generator=draws), torch.tensor([1.0, -2.0, 0.5])
    moved = points[torch.randperm(64, generator=draws)] + shift
    found = sliced_distance(points, moved, 7 * torch.eye(3))
    assert float(found) == pytest.approx(float(shift.square().sum()), rel=1e-5)
    # Twice as wide: the mean square of the points themselves.
    wide = float(sliced_distance(points, 2 * points, torch.eye(3)))
    assert wide == pytest.approx(float(points.square().sum(dim=1).mean()), rel=1e-5)


def test_who_learns_from_what() -> None:
    """Mapping learns from the distance alone, the encoder from the rest, synthesis from the picture."""
    model = networks()
    one_pass(model)  # so that there are codes to compare with
    parts = one_pass(model, 1)
    groups = {
        "mapping": list(model.generator.mapping.parameters()),
        "synthesis": list(model.generator.blocks.parameters()),
        "encoder": list(model.encoder.parameters()),
    }
    learns = {
        loss: {
            name
            for name, weights in groups.items()
            if any(
                g is not None and bool(g.any())
                for g in torch.autograd.grad(parts[loss], weights, retain_graph=True, allow_unused=True)
            )
        }
        for loss in ("reconstruction", "rate", "matching")
    }
    assert learns == {
        "reconstruction": {"synthesis", "encoder"},
        "rate": {"encoder"},
        "matching": {"mapping"},
    }
    weighed = parts["reconstruction"] + OPTIONS.rate * parts["rate"] + OPTIONS.matching * parts["matching"]
    torch.testing.assert_close(parts["loss"], weighed)


def test_the_last_codes_are_remembered() -> None:
    model = networks()
    pictures = torch.rand(8, 3, SIZE, SIZE) * 2 - 1
    z, choice, directions = torch.randn(16, 8), torch.rand(16), torch.randn(4, NUMBERS)
    for part in pictures.split(4):
        model(part, torch.zeros(4, NUMBERS), z, choice, directions)
    codes = model.encoder(pictures).detach()
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
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    pictures = torch.stack([torch.full((3, SIZE, SIZE), level) for level in (-0.8, 0.4)])
    draws, found = torch.Generator().manual_seed(0), []
    z, choice, directions = torch.randn(16, 8), torch.rand(16), torch.randn(4, NUMBERS)
    for _ in range(60):
        noise = torch.randn(2, NUMBERS, generator=draws)
        parts = model(pictures, noise, z, choice, directions)
        found.append(float(parts["reconstruction"].detach()))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    levels = model.draw(model.encoder(pictures)).detach().mean(dim=(1, 2, 3))
    assert float(levels[1] - levels[0]) > 0.6


def test_drawn_codes_come_to_lie_where_encoded_ones_do() -> None:
    """Encoded codes are wide along one direction, less so along another and narrow else, about a mean of
    their own; so are drawn ones after some passes."""
    mapping = tiny_generator_that_maps_fast().mapping
    draws = torch.Generator().manual_seed(0)
    widths, middle = torch.full((NUMBERS,), 0.2), torch.linspace(-1, 1, NUMBERS)
    widths[3], widths[5] = 6.0, 1.0
    codes = middle + widths * torch.randn(512, NUMBERS, generator=draws)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=5e-2)
    for _ in range(300):
        drawn = mapping(torch.randn(512, 8, generator=draws))
        distance = matching_distance(drawn, codes, torch.randn(32, NUMBERS, generator=draws))
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    found = mapping(torch.randn(2000, 8, generator=draws)).detach()
    spread = found.std(dim=0)
    assert spread.argsort(descending=True)[:2].tolist() == [3, 5]
    assert float(spread[3]) == pytest.approx(6.0, rel=0.25)
    assert float(spread[5]) == pytest.approx(1.0, rel=0.25)
    narrow = widths < 1
    assert float(spread[narrow].max()) < 0.6
    assert float((found.mean(dim=0) - middle)[narrow].abs().max()) < 0.3


def test_the_matching_is_in_units_of_the_codes() -> None:
    """Turning both sets changes nothing, as long as nothing is narrow; a shift by one deviation along an axis
    is as far as along another."""
    draws = torch.Generator().manual_seed(0)
    codes = 100 * torch.randn(64, 3, generator=draws) * torch.tensor([1.0, 5.0, 30.0])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=draws))[0]
    none = torch.zeros(0, 3)
    assert float(matching_distance(codes, codes, none)) == pytest.approx(0, abs=1e-5)
    deviations = codes.std(dim=0, correction=0)
    far = [matching_distance(codes + deviations * axis, codes, none) for axis in torch.eye(3)]
    turned = [
        matching_distance((codes + deviations * axis) @ turn, codes @ turn, none) for axis in torch.eye(3)
    ]
    torch.testing.assert_close(torch.stack(turned), torch.stack(far), rtol=1e-3, atol=1e-4)
    assert all(0.5 < float(one) < 2 for one in far)


def test_run_resumes_exactly_and_a_game_goes_on_with_it(tmp_path: Path) -> None:
    data = write_single_views(tmp_path / "views", size=SIZE)

    def train(out: Path, stop: int | None = None) -> None:
        task = AutoencoderTask([data], validation=data, size=SIZE, autoencoder=OPTIONS)
        task.build = networks
        config = TrainConfig(
            steps=4,
            batch_size=2,
            clip_norm=None,
            weight_decay=0.0,
            warmup_steps=0,
            log_every=1,
            validate_every=4,
            device="cpu",
            dtype="fp32",
            stop_after_steps=stop,
            tensorboard=False,
        )
        fit(task, config, out, resume=True, progress=False)

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
