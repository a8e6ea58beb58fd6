"""The 1-D U-Net: lengths, what conditions it, and that its order of heads is only an order."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.nets.unet1d import SelfAttention, UNet1d, timestep_embedding


def tiny(**named: object) -> UNet1d:
    torch.manual_seed(0)
    options = {"model_channels": 8, "num_res_blocks": 1, "head_channels": 4, "norm_groups": 4, **named}
    return UNet1d(3, 2, **options)  # pyright: ignore


def shaken(net: UNet1d) -> UNet1d:
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    return net


@pytest.mark.parametrize("block_resampling", [False, True])
def test_it_starts_at_zero_and_keeps_the_length(block_resampling: bool) -> None:
    net = tiny(block_resampling=block_resampling, channel_mult=(1, 2, 2), attention_levels=(0, 2))
    x, t = torch.randn(2, 3, 12), torch.tensor([0, 999])
    assert_close(net(x, t), torch.zeros(2, 2, 12))
    assert net.factor == 4
    found = shaken(net)(x, t)
    assert found.shape == (2, 2, 12)
    assert float(found.detach().std()) > 0.01
    with pytest.raises(InputError, match="multiple of 4"):
        net(torch.randn(2, 3, 10), t)


def test_level_class_and_embedding_all_count() -> None:
    net = shaken(tiny(num_classes=3))
    x, t, y = torch.randn(1, 3, 8), torch.tensor([10]), torch.tensor([1])
    base = net(x, t, y)
    assert not torch.allclose(base, net(x, t + 200, y), atol=1e-4)
    assert not torch.allclose(base, net(x, t, y + 1), atol=1e-4)
    extra = torch.randn(1, net.embedding_size)
    assert not torch.allclose(base, net(x, t, y, extra), atol=1e-4)
    assert_close(net(x, t, y, torch.zeros(1, net.embedding_size)), base)
    with pytest.raises(InputError, match="expected a class for every item"):
        net(x, t)
    with pytest.raises(InputError, match="expected no classes"):
        tiny()(x, t, y)


def test_an_item_does_not_depend_on_its_batch() -> None:
    net = shaken(tiny())
    x, t = torch.randn(4, 3, 8), torch.tensor([0, 5, 500, 999])
    assert_close(net(x, t)[2:3], net(x[2:3], t[2:3]), atol=1e-5, rtol=1e-5)


def test_attention_is_the_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, 4, 4, heads_first=False)
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(1, 8, 5)
    query, key, value = layer.to_all(layer.norm(x))[0].view(3, 2, 4, 5).unbind(0)
    weights = torch.softmax(torch.einsum("hcn,hcm->hnm", query, key) / math.sqrt(4), dim=-1)
    expected = torch.einsum("hnm,hcm->hcn", weights, value).reshape(1, 8, 5)
    assert_close(layer(x), x + layer.out(expected))
    other = SelfAttention(8, 4, 4, heads_first=True)
    other.load_state_dict(layer.state_dict())
    order = torch.arange(24).view(3, 2, 4).transpose(0, 1).reshape(-1)
    with torch.no_grad():
        other.to_all.weight.copy_(layer.to_all.weight[order])
        assert layer.to_all.bias is not None
        assert other.to_all.bias is not None
        other.to_all.bias.copy_(layer.to_all.bias[order])
    assert_close(other(x), layer(x))
    with pytest.raises(InputError, match="expected a divisor of 8"):
        SelfAttention(8, 3, 4, heads_first=True)


def test_waves() -> None:
    found = timestep_embedding(torch.tensor([0, 3]), 8)
    assert_close(found[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert_close(found[1, [0, 4]], torch.tensor([math.cos(3), math.sin(3)]))
    assert_close(found[1, 3], torch.tensor(math.cos(3 * 10_000 ** (-3 / 4))))
