"""The refiner's network: GANSpace before training, what it is told, and steps through its noise levels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.refiner.model import CodeRefiner, build_refiner, refine
from manyview.methods.refiner.noise_levels import add_noise, kept_shares, posterior, step_towards

ROWS, DIM = 5, 6


def tiny(layers: tuple[int, int] | None = None, shake: float = 0.0) -> CodeRefiner:
    torch.manual_seed(0)
    net = CodeRefiner(ROWS, DIM, model_channels=8, head_channels=4, norm_groups=4, layers=layers)
    net.set_statistics(torch.full((DIM,), 2.0), torch.linspace(0.5, 1.5, DIM))
    with torch.no_grad():
        for value in net.parameters():
            value.add_(shake * torch.randn(value.shape))
    return net.eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    w, edited = (2 + torch.randn(batch, ROWS, DIM, generator=generator) for _ in range(2))
    return w, edited, 0.2 * torch.randn(batch, 6, generator=generator), torch.tensor([0, 50, 900])[:batch]


def test_before_training_it_is_ganspace_at_every_level() -> None:
    net = tiny()
    w, edited, pose, t = inputs()
    noise = torch.randn(3, ROWS, DIM)
    assert torch.equal(net(w, edited, pose, t), edited)
    assert torch.equal(net(w, edited, pose, t, net.add_noise(edited, t, noise)), edited)
    assert torch.equal(refine(net, w, edited, pose, steps=4, level=300, noise=noise), edited)


def test_everything_it_is_told_counts() -> None:
    net = tiny(shake=0.2)
    w, edited, pose, t = inputs()
    base = net(w, edited, pose, t)
    noisy = net.add_noise(edited, t, torch.randn(3, ROWS, DIM))
    for other in (
        net(w + 0.5, edited, pose, t),
        net(w, edited, -pose, t),
        net(w, edited, pose, t.flip(0)),
        net(w, edited, pose, t, noisy),
    ):
        assert not torch.allclose(other, base, atol=1e-4)


def test_rows_differ_though_their_codes_do_not() -> None:
    net = tiny(shake=0.2)
    _, _, pose, t = inputs()
    same = torch.full((3, ROWS, DIM), 2.3)
    change = (net(same, same, pose, t) - same).detach()
    assert float((change[:, 1] - change[:, 2]).abs().max()) > 1e-3


def test_changes_stay_in_their_layers() -> None:
    net = tiny(layers=(1, 3), shake=0.2)
    w, edited, pose, t = inputs()
    change = (net(w, edited, pose, t) - edited).detach().abs().amax(dim=(0, 2))
    assert (change > 1e-4).tolist() == [False, True, True, False, False]
    with pytest.raises(InputError, match="expected a range within 0 to 5"):
        tiny(layers=(2, 6))


def test_units_are_the_generators() -> None:
    # Codes scaled and moved together with their statistics are refined to codes scaled and moved alike.
    net, other = tiny(shake=0.2), tiny(shake=0.2)
    other.load_state_dict(net.state_dict())
    other.set_statistics(net.mean * 3 - 1, net.deviation * 3)
    w, edited, pose, t = inputs()
    found = other(w * 3 - 1, edited * 3 - 1, pose, t)
    assert_close(found, net(w, edited, pose, t) * 3 - 1, atol=1e-4, rtol=1e-4)
    noise = torch.randn(3, ROWS, DIM)
    noisy = other.add_noise(edited * 3 - 1, t, noise)
    assert_close(noisy, net.add_noise(edited, t, noise) * 3 - 1, atol=1e-4, rtol=1e-4)


def test_it_learns_a_correction_that_the_pose_decides() -> None:
    net = tiny().train()
    w, edited, pose, _ = inputs(3)
    wanted = edited + pose[:, None, :DIM]
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    t = torch.zeros(3, dtype=torch.int64)
    losses = []
    for _ in range(15):
        loss = (net(w, edited, pose, t) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_saved_and_loaded(tmp_path: Path) -> None:
    net = tiny(layers=(1, 4), shake=0.2)
    net.save_pretrained(tmp_path)
    again = CodeRefiner.from_pretrained(tmp_path).eval()
    w, edited, pose, t = inputs()
    assert torch.equal(again(w, edited, pose, t), net(w, edited, pose, t))


def test_sizes() -> None:
    assert 1e6 < sum(p.numel() for p in build_refiner("compact", 10, 128).parameters()) < 3e6
    with torch.device("meta"):
        paper = build_refiner("paper", 16, 512)
    assert 60e6 < sum(p.numel() for p in paper.parameters()) < 120e6


def test_refusals() -> None:
    net = tiny()
    w, edited, pose, t = inputs()
    with pytest.raises(InputError, match=r"edited: \(3, 4, 6\): expected \[B, 5, 6\]"):
        net(w, edited[:, :4], pose, t)
    with pytest.raises(InputError, match="level: 1000"):
        refine(net, w, edited, pose, level=1000)
    with pytest.raises(InputError, match="expected 1 to 5 from level 4"):
        refine(net, w, edited, pose, level=4, steps=6)


class TestLevels:
    def test_a_known_clean_value_is_reached_from_anywhere(self) -> None:
        clean, noise = torch.randn(3, 4), torch.randn(3, 4)
        t = torch.tensor([999, 500, 0])
        noisy = add_noise(clean, noise, t)
        assert_close(step_towards(noisy, clean, t, torch.full((3,), -1)), clean, atol=1e-4, rtol=1e-4)
        between = step_towards(noisy, clean, t, t // 2)
        assert_close(between, add_noise(clean, noise, t // 2), atol=1e-3, rtol=1e-3)

    def test_a_linear_refiner_is_stepped_exactly(self) -> None:
        # A network that knows the clean code: however many steps, the answer is that code.
        class Knowing(CodeRefiner):
            def forward(
                self, w: Tensor, edited: Tensor, pose: Tensor, t: Tensor, noisy: Tensor | None = None
            ):
                assert noisy is not None
                levels.append((int(t[0]), noisy))
                return w

        levels: list[tuple[int, Tensor]] = []
        net = Knowing(ROWS, DIM, model_channels=8, head_channels=4, norm_groups=4)
        w, edited, pose, _ = inputs()
        noise = torch.randn(3, ROWS, DIM)
        assert torch.equal(refine(net, w, edited, pose, steps=3, level=299, noise=noise), w)
        assert [t for t, _ in levels] == [299, 199, 99]
        assert_close(levels[0][1], add_noise(edited, noise, torch.full((3,), 299)))
        # On the way, what is left of the start moves to the clean code as the levels say.
        share, after = kept_shares()[299], kept_shares()[199]
        implied = (levels[0][1] - share.sqrt() * w) / (1 - share).sqrt()
        expected = (after.sqrt() * w + (1 - after).sqrt() * implied).float()
        assert_close(levels[1][1], expected, atol=1e-4, rtol=1e-4)

    def test_the_posterior_is_that_of_two_normal_variables(self) -> None:
        share = kept_shares()
        t = torch.tensor([400])
        noisy, clean = torch.randn(1, 5).double(), torch.randn(1, 5).double()
        before = share[399]
        alpha = share[400] / before
        # x_before ~ N(sqrt(before) clean, 1 - before); noisy ~ N(sqrt(alpha) x_before, 1 - alpha).
        precision = 1 / (1 - before) + alpha / (1 - alpha)
        mean = (before.sqrt() * clean / (1 - before) + alpha.sqrt() * noisy / (1 - alpha)) / precision
        found, variance = posterior(noisy, clean, t)
        assert_close(found, mean)
        assert_close(variance.reshape(()), 1 / precision)
