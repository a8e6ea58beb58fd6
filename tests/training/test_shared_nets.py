"""Training of the shared codec and image encoder: their pictures, losses and exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPVisionModelWithProjection

from manyview.data.packed import PackedViews, describe, write_shard
from manyview.nets.autoencoder import encode
from manyview.training.autoencoder import AutoencoderTask
from manyview.training.image_encoder import ImageEncoderTask
from manyview.training.pictures import RandomPictures


def packed(folder: Path, size: int, first: int = 0) -> Path:
    """Three objects of four views: a coloured square somewhere on white."""
    describe(folder, {"source": "test"})
    rng = np.random.default_rng(first)
    images = np.full((3, 4, size, size, 3), 255, np.uint8)
    for number in range(3):
        colour = rng.integers(0, 200, 3)
        for view in range(4):
            top, left = rng.integers(0, size // 2, 2)
            images[number, view, top : top + size // 3, left : left + size // 3] = colour
    write_shard(folder, 0, images)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("packed") / "a", 64)


def contrast(pictures: torch.Tensor) -> torch.Tensor:
    """[B] the largest range of a channel over the picture; recolouring leaves it above 0."""
    return (pictures.amax(dim=(2, 3)) - pictures.amin(dim=(2, 3))).amax(dim=1)


def test_a_picture_belongs_to_its_item(data: Path) -> None:
    pictures = RandomPictures([data], [1], 32, seed=1)
    items = torch.arange(40)
    batch = pictures.batch(items)
    assert batch.shape == (40, 3, 32, 32)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1
    assert torch.equal(pictures.batch(torch.tensor([17]))[0], batch[17])
    assert torch.equal(RandomPictures([data], [1], 32, seed=1).batch(items), batch)
    assert not torch.equal(RandomPictures([data], [1], 32, seed=2).batch(items), batch)
    assert len({picture.numpy().tobytes() for picture in batch}) > 35
    # Crops are taken around the object: white alone teaches nothing.
    assert float((contrast(batch) > 0.01).float().mean()) > 0.9


def test_shares_weigh_the_sources(tmp_path: Path) -> None:
    for name, level in (("dark", 0), ("light", 100)):
        describe(tmp_path / name, {"source": name})
        write_shard(tmp_path / name, 0, np.full((1, 1, 32, 32, 3), level, np.uint8))
    pictures = RandomPictures([tmp_path / "dark", tmp_path / "light"], [3, 1], 32, seed=0)
    batch = pictures.batch(torch.arange(400))
    # A negative of black is white; grey stays in between.
    dark = ((batch == 0) | (batch == 1)).flatten(1).all(dim=1).float().mean()
    # Three quarters; deviation sqrt(.75 . .25 / 400) = 0.022, four of them.
    assert abs(float(dark) - 0.75) < 0.09


@pytest.mark.parametrize("size", [61, 66])
def test_sizes_that_four_does_not_divide(tmp_path: Path, size: int) -> None:
    """The crop's middle is found on every fourth pixel: a dot is still inside its crops."""
    images = np.full((1, 1, size, size, 3), 255, np.uint8)
    images[0, 0, 40:44, 20:24] = 0
    describe(tmp_path, {"source": "dot"})
    write_shard(tmp_path, 0, images)
    batch = RandomPictures([tmp_path], [1], 32, seed=0).batch(torch.arange(60))
    assert float((contrast(batch) > 0.5).float().mean()) > 0.9


class Off(nn.Module):
    """A codec whose pictures are off by a constant and whose latents are all 3."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(
        self, images: torch.Tensor, items: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latents = torch.full((len(items), 8, images.shape[-2] // 8, images.shape[-1] // 8), 3.0)
        return images + self.error, latents


def test_codec_loss_counts_errors_and_large_latents(data: Path) -> None:
    task = AutoencoderTask([data], [1], None, crop=32)
    items = torch.arange(3)
    batch = task.batch(items)
    losses = []
    for error in (0.0, 0.01, 0.1):
        loss, parts = task.loss(Off(error), batch, items, seed=0)
        losses.append(float(loss))
        if error:
            assert float(parts["psnr"]) == pytest.approx(-20 * np.log10(error), abs=0.01)
    # A perfect picture leaves the penalty on the latents alone: 1e-4 times their mean square of 9.
    assert losses[0] == pytest.approx(9e-4, rel=1e-4)
    assert losses[1] > losses[0] + 0.01
    assert losses[2] > losses[1] + 0.09


def test_codec_trains_every_weight(data: Path) -> None:
    task = AutoencoderTask([data], [1], None, crop=32)
    torch.manual_seed(0)
    model, items = task.build(), torch.arange(2)
    task.loss(model, task.batch(items), items, seed=0)[0].backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_frozen_encoders_keep_latents_valid(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = AutoencoderTask([data], [1], None, crop=32)
    first.export(first.build(), tmp_path / "codec")
    task = AutoencoderTask([data], [1], None, crop=32, initial=tmp_path / "codec", freeze_encoder=True)
    model = task.build()
    images, items = task.batch(torch.arange(2))["images"], torch.arange(2)
    before = encode(model.codec, images).detach()  # type: ignore[arg-type]
    task.loss(model, {"images": images}, items, seed=0)[0].backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 0.1 * weight.grad
    assert torch.equal(encode(model.codec, images), before)  # type: ignore[arg-type]
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained
    assert all(".decoder." in name or "post_quant" in name for name in trained)
    # The statistics stay those that the latents were normalised with.
    task.export(model, tmp_path / "again")
    old, new = (AutoencoderKL.from_pretrained(tmp_path / name) for name in ("codec", "again"))
    assert old.config["latents_mean"] == new.config["latents_mean"]
    assert old.config["latents_std"] == new.config["latents_std"]


def test_exported_codec_has_unit_latents(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = AutoencoderTask([data], [1], data, crop=32)
    model = task.build()
    with torch.no_grad():
        figures = task.validate(model, torch.device("cpu"))
    assert 0 < figures["psnr_val"] < 40
    task.export(model, tmp_path / "codec")
    codec = AutoencoderKL.from_pretrained(tmp_path / "codec").eval()
    images = (
        torch.from_numpy(np.concatenate(list(PackedViews(data).batches(3)))[:, 0]).permute(0, 3, 1, 2) / 255
    )
    with torch.no_grad():
        latents = encode(codec, images)
    # Measured on every fourth view, here all of these, so the mean is 0 up to float16.
    assert float(latents.mean(dim=(0, 2, 3)).abs().max()) < 0.1
    assert float((latents.std(dim=(0, 2, 3)) - 1).abs().max()) < 0.1


class Oracle(nn.Module):
    """Embeds a picture as its mean colour: views of one object agree."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        solid = (images < 0.99).any(dim=1, keepdim=True).float()
        return (images * solid).sum(dim=(2, 3)) / solid.sum(dim=(2, 3)).clamp_min(1) - 0.4


def test_pair_loss_is_the_normalised_cross_entropy(data: Path) -> None:
    """SimCLR's Eq. 1 in loops, temperature 0.1."""
    task = ImageEncoderTask([data], [1], None)
    items = torch.arange(4)
    batch = task.batch(items)
    assert batch["first"].shape == (4, 3, 64, 64)
    assert torch.equal(task.batch(torch.tensor([2]))["second"][0], batch["second"][2])
    oracle = Oracle()
    loss, _ = task.loss(oracle, batch, items, seed=0)
    vectors = nn.functional.normalize(torch.cat([oracle(batch["first"]), oracle(batch["second"])]), dim=1)
    total = 0.0
    for i in range(8):
        j = (i + 4) % 8
        scores = [float(vectors[i] @ vectors[k]) / 0.1 for k in range(8) if k != i]
        total += -float(vectors[i] @ vectors[j]) / 0.1 + float(np.log(np.exp(scores).sum()))
    assert float(loss) == pytest.approx(total / 8, rel=1e-4)


def test_exported_encoder_loads(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ImageEncoderTask([data], [1], data)
    model = task.build().eval()
    with torch.no_grad():
        figures = task.validate(model, torch.device("cpu"))
    assert 0 <= figures["retrieval_top1_val"] <= 1
    task.export(model, tmp_path / "encoder")
    loaded = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "encoder")
    assert loaded.config.projection_dim == 128
    assert not list((tmp_path / "encoder").glob("*.bin"))
