"""Muon: orthogonal steps, AdamW elsewhere, and its state in checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from manyview.errors import InputError
from manyview.training.config import TrainConfig
from manyview.training.optimizers import Muon, build_optimizer, orthogonalize


def tiny_network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"conv_in": nn.Conv2d(2, 4, 3), "middle": nn.Conv2d(4, 6, 3), "linear": nn.Linear(6, 3)}
    )


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (12, 12)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """The directions stay: U and V of the result are those of the input, so U' result V is diagonal."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    made = left.mT @ orthogonalize(matrix) @ right.mT
    large = values > 0.1 * values[0]  # tiny values take more iterations
    assert bool(((made.diagonal()[large] > 0.6) & (made.diagonal()[large] < 1.3)).all())
    assert float((made - torch.diag(made.diagonal())).abs().max()) < 1e-4
    torch.testing.assert_close(orthogonalize(1000 * matrix), orthogonalize(matrix), atol=1e-4, rtol=0)


def test_vectors_and_first_layers_step_as_adamw() -> None:
    config = TrainConfig(steps=1, warmup_steps=0, lr=0.01, optimizer="muon", weight_decay=0.1)
    ours, theirs = tiny_network(), tiny_network()
    groups = [
        {"params": [theirs["conv_in"].weight], "weight_decay": 0.1},
        {"params": [theirs["conv_in"].bias, theirs["linear"].bias], "weight_decay": 0.0},
    ]
    pairs = [(build_optimizer(ours, config), ours), (torch.optim.AdamW(groups, 0.01, config.betas), theirs)]
    for step in range(4):
        for optimizer, network in pairs:
            give_gradients(network, step)
            optimizer.step()
    for name in ("conv_in.weight", "conv_in.bias", "linear.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name), atol=1e-6, rtol=1e-5)
    assert not torch.equal(ours["middle"].weight, theirs["middle"].weight)


def test_a_first_step_of_a_kernel() -> None:
    """Without decay a kernel [6, 4, 3, 3] moves by 0.2 lr sqrt(36) times an orthogonal [6, 36] matrix: its
    root mean square is 0.2 lr times about 1."""
    config = TrainConfig(steps=1, warmup_steps=0, lr=0.01, optimizer="muon", weight_decay=0.0)
    network = tiny_network()
    before = network["middle"].weight.detach().clone()
    give_gradients(network, 3)
    build_optimizer(network, config).step()
    moved = (network["middle"].weight.detach() - before).flatten(1) / (-0.2 * 0.01 * 6)
    values = torch.linalg.svdvals(moved)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    gradient = network["middle"].weight.grad
    assert gradient is not None
    assert float((moved * gradient.flatten(1)).sum()) > 0  # downhill


def test_state_goes_on_where_it_was() -> None:
    config = TrainConfig(steps=1, warmup_steps=0, optimizer="muon")
    network = tiny_network()
    optimizer = build_optimizer(network, config)
    give_gradients(network, 0)
    optimizer.step()
    twin = copy.deepcopy(network)
    other = Muon(twin, config)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, steps in ((network, optimizer), (twin, other)):
        give_gradients(each, 1)
        steps.step()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="--optimizer"):
        TrainConfig(optimizer="sgd")  # pyright: ignore[reportArgumentType]
