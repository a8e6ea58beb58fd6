"""The latent cache: what is kept, what is computed anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from manyview.data.latents import LatentCache, LatentKey, cache_latents, weights_identity
from manyview.errors import InputError

KEY = LatentKey(data="set", encoder="weights", options={"scale": 0.5})


class Encoder:
    """Means of 2 x 2 blocks times a factor; counts the images it was given."""

    def __init__(self, factor: float = 1.0, stop_after: int = 1000) -> None:
        self.factor = factor
        self.num_images = 0
        self.stop_after = stop_after

    def __call__(self, images: Tensor) -> Tensor:
        if self.num_images >= self.stop_after:
            raise KeyboardInterrupt
        self.num_images += len(images)
        return nn.functional.avg_pool2d(images, 2) * self.factor


def images(count: int = 7) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def batches(size: int = 3) -> Iterator[Tensor]:
    yield from images().split(size)


def test_latents_are_the_encoders_in_order(tmp_path: Path) -> None:
    latents = cache_latents(batches(), Encoder(), tmp_path, KEY)
    expected = nn.functional.avg_pool2d(images(), 2).half()
    assert len(latents) == 7
    assert latents.item_shape == (3, 2, 2)
    assert torch.equal(latents.load(), expected)
    assert torch.equal(latents[4], expected[4])
    assert torch.equal(latents[-1], expected[6])
    assert torch.equal(latents[2:5], expected[2:5])
    assert torch.equal(latents[[6, 0]], expected[[6, 0]])
    assert torch.equal(latents[torch.tensor([5, 5])], expected[[5, 5]])
    assert latents[7:].shape == (0, 3, 2, 2)
    with pytest.raises(IndexError):
        latents[7]


def test_finished_cache_encodes_nothing(tmp_path: Path) -> None:
    cache_latents(batches(), Encoder(), tmp_path, KEY)
    second = Encoder(factor=2.0)
    latents = cache_latents(iter(()), second, tmp_path, KEY)
    assert second.num_images == 0
    assert len(latents) == 7


def test_stopped_work_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache_latents(batches(), Encoder(stop_after=6), tmp_path, KEY)
    folder = tmp_path / KEY.hash
    with pytest.raises(InputError, match="finished latent cache"):
        LatentCache(folder)
    # As a power cut may leave it: the second shard is cut short.
    shards = sorted(folder.glob("latents_*.safetensors"))
    assert len(shards) == 2
    shards[1].write_bytes(shards[1].read_bytes()[:-5])
    again = Encoder()
    latents = cache_latents(batches(), again, tmp_path, KEY)
    # Three images of the first shard are kept, the cut shard's three and the last one are encoded.
    assert again.num_images == 4
    assert torch.equal(latents.load(), nn.functional.avg_pool2d(images(), 2).half())


def test_other_batch_sizes_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache_latents(batches(3), Encoder(stop_after=6), tmp_path, KEY)
    latents = cache_latents(batches(2), Encoder(), tmp_path, KEY)
    assert torch.equal(latents.load(), nn.functional.avg_pool2d(images(), 2).half())
    assert len(list((tmp_path / KEY.hash).glob("latents_*"))) == 4


@pytest.mark.parametrize(
    "other",
    [
        LatentKey(data="other set", encoder="weights", options={"scale": 0.5}),
        LatentKey(data="set", encoder="other weights", options={"scale": 0.5}),
        LatentKey(data="set", encoder="weights", options={"scale": 0.25}),
        LatentKey(data="set", encoder="weights"),
    ],
)
def test_another_key_is_computed_anew(tmp_path: Path, other: LatentKey) -> None:
    cache_latents(batches(), Encoder(), tmp_path, KEY)
    encoder = Encoder(factor=2.0)
    latents = cache_latents(batches(), encoder, tmp_path, other)
    assert encoder.num_images == 7
    assert torch.equal(latents.load(), (nn.functional.avg_pool2d(images(), 2) * 2).half())
    # The first one is untouched.
    first = LatentCache(tmp_path / KEY.hash)
    assert torch.equal(first.load(), nn.functional.avg_pool2d(images(), 2).half())


def test_a_folder_of_another_key_under_this_name_is_not_trusted(tmp_path: Path) -> None:
    other = LatentKey(data="set", encoder="older weights")
    cache_latents(batches(), Encoder(factor=3.0), tmp_path, other)
    (tmp_path / other.hash).rename(tmp_path / KEY.hash)
    encoder = Encoder()
    latents = cache_latents(batches(), encoder, tmp_path, KEY)
    assert encoder.num_images == 7
    assert torch.equal(latents.load(), nn.functional.avg_pool2d(images(), 2).half())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16"):
        cache_latents(batches(), Encoder(factor=1e6), tmp_path / "a", KEY)
    with pytest.raises(InputError, match="encode"):
        cache_latents(batches(), lambda batch: batch[:1], tmp_path / "b", KEY)
    with pytest.raises(InputError, match="at least one batch"):
        cache_latents(iter(()), Encoder(), tmp_path / "c", KEY)


def test_weights_identity_sees_every_change() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    first = weights_identity(net)
    assert weights_identity(net) == first
    with torch.no_grad():
        net[1].running_mean[2] += 1e-6
    assert weights_identity(net) != first
    assert weights_identity(net.half()) != first
