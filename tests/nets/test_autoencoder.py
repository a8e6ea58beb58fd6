"""The image codec: shapes, determinism, and latents brought to unit size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from manyview.nets.autoencoder import (
    build_autoencoder,
    decode,
    encode,
    latent_scale,
    raw_images,
    raw_latents,
    set_statistics,
)


@pytest.fixture(scope="module")
def codec() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_autoencoder("compact").eval()


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_shapes_and_range(codec: AutoencoderKL) -> None:
    latents = encode(codec, pictures(2))
    assert latents.shape == (2, 8, 4, 4)
    assert latent_scale(codec) == 8
    images = decode(codec, 100 * latents)
    assert images.shape == (2, 3, 32, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@torch.no_grad()
def test_the_same_image_gives_the_same_latent(codec: AutoencoderKL) -> None:
    torch.manual_seed(1)
    first = encode(codec, pictures(2))
    torch.manual_seed(2)
    assert torch.equal(encode(codec, pictures(2)), first)
    # The mode is the mean of the posterior: the first half of the moments.
    moments = codec.quant_conv(codec.encoder(pictures(2) * 2 - 1))  # type: ignore[misc]
    torch.testing.assert_close(raw_latents(codec, pictures(2)), moments[:, :8])


@torch.no_grad()
def test_statistics_bring_latents_to_unit_size() -> None:
    torch.manual_seed(3)
    codec = build_autoencoder("compact", latent_channels=4).eval()
    images = pictures(16)
    raw = raw_latents(codec, images)
    set_statistics(codec, raw)
    latents = encode(codec, images)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    # decode undoes exactly what encode does to the codec's own latents.
    torch.testing.assert_close(decode(codec, latents), raw_images(codec, raw).clamp(0, 1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_published_codecs_keep_their_scaling_factor() -> None:
    torch.manual_seed(4)
    codec = build_autoencoder("compact").eval()
    codec.register_to_config(scaling_factor=0.18215)
    torch.testing.assert_close(
        encode(codec, pictures(1)), raw_latents(codec, pictures(1)) * 0.18215, atol=1e-6, rtol=1e-5
    )


@torch.no_grad()
def test_statistics_travel_with_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    codec = build_autoencoder("compact").eval()
    set_statistics(codec, raw_latents(codec, pictures(4)))
    codec.save_pretrained(tmp_path)
    loaded = AutoencoderKL.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encode(loaded, pictures(2)), encode(codec, pictures(2)))


@torch.no_grad()
def test_half_precision_keeps_its_dtype() -> None:
    torch.manual_seed(6)
    codec = build_autoencoder("compact").eval()
    set_statistics(codec, raw_latents(codec, pictures(4)))
    expected = encode(codec, pictures(1))
    half = codec.to(torch.bfloat16)
    latents = encode(half, pictures(1).to(torch.bfloat16))
    assert latents.dtype == torch.bfloat16
    assert decode(half, latents).dtype == torch.bfloat16
    assert float((latents.float() - expected).abs().mean()) < 0.1


def test_paper_preset_is_stable_diffusions_codec() -> None:
    """83,653,863 parameters, as counted in the published codec of Stable Diffusion 1."""
    with torch.device("meta"):
        codec = build_autoencoder("paper")
    assert sum(weight.numel() for weight in codec.parameters()) == 83_653_863
    assert latent_scale(codec) == 8
    assert codec.encoder.conv_in.weight.shape == (128, 3, 3, 3)
    assert codec.decoder.conv_out.weight.shape == (3, 128, 3, 3)
