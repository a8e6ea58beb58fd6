"""StyleGAN2: what its operators are, what codes do to its images, and its sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator, batch_spread, build_discriminator
from manyview.nets.stylegan2.filters import downsample, filter_taps, smooth, upsample
from manyview.nets.stylegan2.generator import (
    PUBLISHED_RESOLUTIONS,
    StyleGAN2Generator,
    block_widths,
    build_generator,
    mix_styles,
)
from manyview.nets.stylegan2.layers import LRELU_GAIN, ScaledConv, ScaledLinear, StyledConv


def tiny(resolution: int = 16, **named: float) -> StyleGAN2Generator:
    torch.manual_seed(0)
    sizes = {"z_dim": 8, "w_dim": 12, "mapping_layers": 2, "channel_base": 128, "channel_max": 12}
    generator = StyleGAN2Generator(resolution=resolution, **{**sizes, **named})  # pyright: ignore
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if "noise_strength" in name:
                value.fill_(0.3)
    return generator.eval()


def random_codes(generator: StyleGAN2Generator, batch: int, seed: int = 1) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(batch, generator.num_ws, generator.w_dim, generator=noise)


class TestFilters:
    def test_resampling_keeps_a_constant_and_a_slope_inside(self) -> None:
        rows = torch.arange(16.0)
        x = (2 * rows[:, None] - rows)[None, None].expand(1, 3, 16, 16)
        # Corners stay in place: new cell j has its middle at old coordinate (j - 0.5) / 2.
        fine = (torch.arange(32.0) - 0.5) / 2
        expected = 2 * fine[:, None] - fine
        assert_close(upsample(x)[0, 1, 2:-2, 2:-2], expected[2:-2, 2:-2])
        coarse = torch.arange(8.0) * 2 + 0.5
        assert_close(downsample(x)[0, 1, 1:-1, 1:-1], (2 * coarse[:, None] - coarse)[1:-1, 1:-1])

    def test_upsampling_is_zeros_between_and_the_filter(self) -> None:
        x = torch.randn(2, 3, 5, 6)
        spread = torch.zeros(2, 3, 10, 12)
        spread[:, :, ::2, ::2] = x
        assert_close(upsample(x), smooth(spread, pad=(2, 1), gain=4.0))

    def test_downsampling_is_the_transpose_of_upsampling(self) -> None:
        x, y = torch.randn(1, 2, 6, 6), torch.randn(1, 2, 12, 12)
        assert_close((upsample(x) * y).sum(), 4 * (x * downsample(y)).sum())

    def test_weights_sum_to_one(self) -> None:
        assert_close(filter_taps(torch.zeros(())).sum(), torch.tensor(1.0))


class TestLayers:
    def test_a_styled_convolution_is_one_with_modulated_and_demodulated_weights(self) -> None:
        torch.manual_seed(0)
        layer = StyledConv(5, 7, 4, 8)
        x, code = torch.randn(3, 5, 8, 8), torch.randn(3, 4)
        scales = layer.style(code)
        for item in range(3):
            weight = layer.weight * scales[item][None, :, None, None]
            weight = weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
            expected = F.conv2d(x[item : item + 1], weight, padding=1)
            expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
            assert_close(layer(x, code, None)[item : item + 1], expected, atol=1e-5, rtol=1e-5)

    def test_scale_of_the_style_does_not_matter(self) -> None:
        torch.manual_seed(0)
        layer = StyledConv(5, 7, 4, 8)
        x, code = torch.randn(2, 5, 8, 8), torch.randn(2, 4)
        before = layer(x, code, None)
        with torch.no_grad():
            layer.style.weight.mul_(3)
            layer.style.bias.mul_(3)
        assert_close(layer(x, code, None), before, atol=1e-5, rtol=1e-4)

    def test_the_rate_changes_how_fast_a_layer_learns_and_nothing_else(self) -> None:
        torch.manual_seed(0)
        fast, slow = ScaledLinear(6, 4), ScaledLinear(6, 4, rate=0.01)
        with torch.no_grad():
            slow.weight.copy_(fast.weight * 100)
            slow.bias.copy_((fast.bias + 0.5) * 100)
            fast.bias.add_(0.5)
        x = torch.randn(3, 6)
        assert_close(slow(x), fast(x))
        for layer in (fast, slow):
            layer(x).square().sum().backward()
        assert slow.weight.grad is not None
        assert fast.weight.grad is not None
        assert_close(slow.weight.grad, fast.weight.grad * 0.01)

    def test_clamp_and_gain(self) -> None:
        torch.manual_seed(0)
        layer = ScaledConv(3, 4, 3, clamp=0.1)
        x = torch.randn(2, 3, 6, 6) * 50
        assert_close(layer(x).abs().max(), torch.tensor(0.1))
        assert_close(layer(x, gain=0.5).abs().max(), torch.tensor(0.05))
        free = ScaledConv(3, 4, 3)
        assert_close(free(x, gain=0.5), free(x) * 0.5)
        assert math.isclose(LRELU_GAIN, 2**0.5)


class TestGenerator:
    def test_rows_of_codes_reach_their_resolution_and_no_earlier_one(self) -> None:
        generator = tiny()
        codes = random_codes(generator, 1)
        _, before = generator.synthesize_with_features(codes, [4, 8, 16])
        for row in range(generator.num_ws):
            changed = codes.clone()
            changed[:, row] += 1
            image, after = generator.synthesize_with_features(changed, [4, 8, 16])
            first = min(r for r in (4, 8, 16) if row in generator.layers_of(r))
            for resolution in (4, 8, 16):
                same = torch.equal(before[resolution], after[resolution])
                # The last row of a resolution colours it only, and drives the next one's first convolution.
                colours = row == generator.layers_of(first)[-1]
                assert same == (resolution < first or (resolution == first and colours)), (row, resolution)
            assert not torch.equal(image, generator.synthesize(codes))

    def test_an_item_does_not_depend_on_its_batch(self) -> None:
        generator = tiny()
        codes = random_codes(generator, 4)
        whole = generator.synthesize(codes)
        for item in range(4):
            assert_close(generator.synthesize(codes[item : item + 1]), whole[item : item + 1])

    def test_noise(self) -> None:
        generator = tiny()
        codes = random_codes(generator, 2)
        const = generator.synthesize(codes)
        assert torch.equal(const, generator.synthesize(codes))
        assert not torch.equal(const, generator.synthesize(codes, noise="none"))
        draws = [
            generator.synthesize(codes, noise="random", generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    def test_truncation_draws_towards_the_mean(self) -> None:
        generator = tiny()
        z = torch.randn(64, 8)
        for _ in range(1500):
            generator.map(z, update_mean=True)
        codes = generator.map(z)
        assert_close(generator.w_mean, codes[:, 0].mean(dim=0), atol=1e-3, rtol=0)
        assert_close(generator.map(z, truncation=0.0)[3], generator.w_mean.expand(generator.num_ws, -1))
        half = generator.map(z, truncation=0.5, truncation_layers=2)
        assert_close(half[:, :2], (codes[:, :2] + generator.w_mean) / 2)
        assert torch.equal(half[:, 2:], codes[:, 2:])

    def test_mixing(self) -> None:
        first, second = torch.zeros(3, 6, 2), torch.ones(3, 6, 2)
        mixed = mix_styles(first, second, torch.tensor([0, 2, 6]))
        assert mixed[..., 0].sum(dim=1).tolist() == [6, 4, 0]
        assert torch.equal(mix_styles(first, second, 4)[1, :, 0], torch.tensor([0.0, 0, 0, 0, 1, 1]))

    def test_refusals(self) -> None:
        generator = tiny()
        with pytest.raises(InputError, match=r"codes: \(1, 5, 12\)"):
            generator.synthesize(torch.zeros(1, 5, 12))
        with pytest.raises(InputError, match="expected one of 4, 8, 16"):
            generator.synthesize_with_features(random_codes(generator, 1), [32])
        with pytest.raises(InputError, match="power of two"):
            tiny(24)
        with pytest.raises(InputError, match="expected one of 128, 256, 512, 1024"):
            build_generator("paper", 64)

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        generator = tiny()
        generator.save_pretrained(tmp_path)
        again = StyleGAN2Generator.from_pretrained(tmp_path)
        codes = random_codes(generator, 1)
        assert torch.equal(again.synthesize(codes), generator.synthesize(codes))

    def test_codes_get_gradients(self) -> None:
        generator = tiny()
        codes = random_codes(generator, 2).requires_grad_()
        generator.synthesize(codes).square().mean().backward()
        assert codes.grad is not None
        assert bool((codes.grad.abs().sum(dim=-1) > 0).all())


class TestDiscriminator:
    def test_spread_tells_a_batch_of_copies(self) -> None:
        torch.manual_seed(0)
        x = torch.randn(8, 3, 4, 4)
        spread = batch_spread(x, 4)
        assert spread.shape == (8, 1, 4, 4)
        for group in (0, 1):  # item i belongs to group i mod 2
            members = x[group::2]
            expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
            assert_close(spread[group::2], expected.expand(4, 1, 4, 4))
        assert float(batch_spread(x[:1].expand(4, -1, -1, -1), 4).max()) < 1e-3
        assert batch_spread(x[:6], 4).shape == (6, 1, 4, 4)  # groups of three

    def test_second_derivatives_for_the_gradient_penalty(self) -> None:
        torch.manual_seed(0)
        net = StyleGAN2Discriminator(resolution=16, channel_base=128, channel_max=12)
        images = torch.randn(4, 3, 16, 16, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(images).sum(), images, create_graph=True)
        gradient.square().sum().backward()
        assert all(p.grad is not None for n, p in net.named_parameters() if n.endswith("weight"))

    def test_refuses_another_size(self) -> None:
        net = StyleGAN2Discriminator(resolution=16, channel_base=128, channel_max=12)
        with pytest.raises(InputError, match=r"expected \[B, 3, 16, 16\]"):
            net(torch.zeros(1, 3, 8, 8))


def test_they_learn_from_each_other() -> None:
    # Images of one colour: in a few steps the generator's mean colour goes to the data's.
    torch.manual_seed(0)
    generator = tiny(8, mapping_lr=1.0).train()
    net = StyleGAN2Discriminator(resolution=8, channel_base=64, channel_max=12)
    steps = [torch.optim.Adam(m.parameters(), lr=5e-3, betas=(0.0, 0.99)) for m in (generator, net)]
    real = torch.tensor([0.8, -0.5, 0.1])[:, None, None].expand(8, 3, 8, 8)

    def distance() -> float:
        with torch.no_grad():
            images = generator(torch.randn(16, 8))
        return float((images.mean(dim=(0, 2, 3)) - real[0, :, 0, 0]).abs().max())

    before = distance()
    for _ in range(40):
        fake = generator(torch.randn(8, 8))
        loss = F.softplus(-net(fake)).mean()
        steps[0].zero_grad()
        loss.backward()
        steps[0].step()
        fake = generator(torch.randn(8, 8)).detach()
        loss = F.softplus(net(fake)).mean() + F.softplus(-net(real)).mean()
        steps[1].zero_grad()
        loss.backward()
        steps[1].step()
    assert distance() < 0.8 * before


class TestSizes:
    def test_compact(self) -> None:
        generator, net = build_generator(), build_discriminator()
        assert (generator.resolution, generator.num_ws, generator.w_dim) == (64, 10, 128)
        assert 0.7e6 < sum(p.numel() for p in generator.parameters()) < 0.9e6
        assert 0.7e6 < sum(p.numel() for p in net.parameters()) < 1.6e6

    @pytest.mark.parametrize("resolution", PUBLISHED_RESOLUTIONS)
    def test_published(self, resolution: int) -> None:
        with torch.device("meta"):
            generator = build_generator("paper", resolution)
            net = build_discriminator("paper", resolution)
        assert generator.num_ws == 2 * int(math.log2(resolution)) - 2
        assert block_widths(resolution, 32768, 512)[-1][1] == min(32768 // resolution, 512)
        # Parameters of configuration F at 1024 px as published: about 30 and 29 million.
        if resolution == 1024:
            assert round(sum(p.numel() for p in generator.parameters()) / 1e6) == 30
            assert round(sum(p.numel() for p in net.parameters()) / 1e6) == 29
