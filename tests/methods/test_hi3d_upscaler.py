"""Enlarging picture by picture: the network, its training, and networks of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

from manyview.data.packed import pack_procedural
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.methods.hi3d.train_upscaler import UpscalerTask
from manyview.methods.hi3d.upscaler import build_upscaler, load_upscaler, upscale


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscaler") / "set"
    pack_procedural(folder, 0, 2, orbit(2, size=64))
    return folder


def test_begins_as_bicubic_for_any_size() -> None:
    """Its last convolution is zero, so it adds nothing; sides of 13 and 20 are not whole windows of 8 and are
    filled up and cut again."""
    torch.manual_seed(0)
    network = build_upscaler().eval()
    images = torch.rand(2, 3, 13, 20)
    with torch.no_grad():
        made = upscale(network, images)
    expected = F.interpolate(images, (26, 40), mode="bicubic")
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    assert sum(weight.numel() for weight in network.parameters()) < 100_000


def test_training_beats_bicubic(packed: Path, tmp_path: Path) -> None:
    """On the crops it learns, in few steps; and what is exported and read again answers the same."""
    task = UpscalerTask([packed], validation=packed, crop=16, degraded=0.0)
    torch.manual_seed(0)
    network = task.build()
    assert isinstance(network, Swin2SRForImageSuperResolution)
    network.eval()
    with torch.no_grad():
        before = task.validate(network, torch.device("cpu"))
    assert before["psnr_val"] == pytest.approx(before["bicubic_psnr_val"], abs=1e-3)
    items = torch.arange(4)
    batch = task.batch(items)
    # Its last layer alone, by a method of second order: the rest would take hundreds of steps.
    optimizer = torch.optim.LBFGS(network.upsample.parameters(), max_iter=12, line_search_fn="strong_wolfe")

    def measure() -> torch.Tensor:
        optimizer.zero_grad()
        loss, _ = task.loss(network, batch, items, 0)
        loss.backward()
        return loss

    first = float(optimizer.step(measure).detach())
    bicubic = F.interpolate(batch["small"], scale_factor=2, mode="bicubic")
    assert first == pytest.approx(float((bicubic - batch["large"]).square().mean()))
    assert float(measure().detach()) < 0.8 * first
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        made = upscale(network, images)
    task.export(network, tmp_path / "net")
    read = load_upscaler(tmp_path / "net")
    with torch.no_grad():
        torch.testing.assert_close(upscale(read, images), made, rtol=0, atol=2e-3)
    # A task that goes on from it builds the same network.
    again = UpscalerTask([packed], crop=16, initial=tmp_path / "net").build()
    torch.testing.assert_close(again.state_dict(), read.state_dict())


def test_examples_are_aligned(packed: Path) -> None:
    """Without degradation the small crop is the large one averaged over squares of 2 x 2 pixels."""
    batch = UpscalerTask([packed], crop=16, degraded=0.0).batch(torch.arange(6))
    torch.testing.assert_close(F.avg_pool2d(batch["large"], 2), batch["small"], rtol=0, atol=1e-5)
    worse = UpscalerTask([packed], crop=16, degraded=1.0).batch(torch.arange(6))
    torch.testing.assert_close(worse["large"].shape, batch["large"].shape)
    assert (F.avg_pool2d(worse["large"], 2) - worse["small"]).abs().mean() > 1e-3


def test_a_network_of_others_tells_the_picture_itself(tmp_path: Path) -> None:
    """Without our mark in its config the answer is the network's own."""
    config = Swin2SRConfig(
        image_size=8, embed_dim=8, depths=[1], num_heads=[2], window_size=8, upsampler="pixelshuffledirect"
    )
    torch.manual_seed(0)
    network = Swin2SRForImageSuperResolution(config).eval()
    network.save_pretrained(tmp_path / "theirs")
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = network(pixel_values=images).reconstruction
        torch.testing.assert_close(upscale(load_upscaler(tmp_path / "theirs"), images), expected)


def test_wrong_input(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--upscaler: .* no Swin2SR network is there"):
        load_upscaler(tmp_path)
    config = Swin2SRConfig(image_size=8, embed_dim=8, depths=[1], num_heads=[2], window_size=8, upscale=4)
    Swin2SRForImageSuperResolution(config).save_pretrained(tmp_path / "four")
    with pytest.raises(InputError, match="enlarges 4 times, expected 2"):
        load_upscaler(tmp_path / "four")
    with pytest.raises(InputError, match="at least 96 pixels"):
        UpscalerTask([packed])
    with pytest.raises(InputError, match="expected 1 positive numbers"):
        UpscalerTask([packed], [1.0, 1.0], crop=16)
