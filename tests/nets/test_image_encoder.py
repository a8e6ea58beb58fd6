"""The image encoder and its preparation of pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from manyview.nets.image_encoder import build_image_encoder, embed, preprocess


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_native_size_is_only_normalised() -> None:
    """As CLIP's own processor does it (channel statistics of the published model)."""
    images = pictures(2, 64)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False)
    expected = processor(list(images.numpy()), return_tensors="pt", input_data_format="channels_first")
    torch.testing.assert_close(preprocess(images, 64), expected["pixel_values"], atol=1e-5, rtol=1e-5)


def test_other_sizes_are_stretched() -> None:
    assert preprocess(pictures(2, 48), 64).shape == (2, 3, 64, 64)
    assert preprocess(torch.rand(1, 3, 32, 80), 64).shape == (1, 3, 64, 64)
    grey = preprocess(torch.full((1, 3, 50, 30), 0.5), 64)
    torch.testing.assert_close(grey, preprocess(torch.full((1, 3, 64, 64), 0.5), 64), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_interface_is_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_image_encoder("compact").eval()
    images = pictures(3, 128)
    embeds = embed(encoder, images)
    assert embeds.shape == (3, 128)
    assert float((embeds[0] - embeds[1]).abs().max()) > 1e-4
    torch.testing.assert_close(embed(encoder, images[1:2]), embeds[1:2], atol=1e-5, rtol=1e-4)
    encoder.save_pretrained(tmp_path)
    loaded = CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    assert torch.equal(embed(loaded, images), embeds)


def test_paper_preset_is_the_vision_tower_of_clip_vit_l_14() -> None:
    """304 M for ViT-L/14 at 224 px. By hand: 24 layers of 4 (1024^2 + 1024) + 2 . 1024 . 4096 + 4096 + 1024
    + 4 . 1024; embeddings 14^2 . 3 . 1024 + 1024 + 257 . 1024; two norms; projection 1024 . 768."""
    with torch.device("meta"):
        encoder = build_image_encoder("paper")
    layer = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    expected = 24 * layer + 14**2 * 3 * 1024 + 1024 + 257 * 1024 + 4 * 1024 + 1024 * 768
    assert sum(weight.numel() for weight in encoder.parameters()) == expected
    assert encoder.visual_projection.weight.shape == (768, 1024)
