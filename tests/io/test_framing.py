"""Resampling with alpha and the training frame, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from manyview.errors import InputError
from manyview.io.framing import (
    TRAINING_FILL,
    composite_over,
    crop_square,
    frame_by_mask,
    pad_square,
    resize_area,
)


def test_composite() -> None:
    image, alpha = torch.full((3, 1, 1), 0.2), torch.full((1, 1, 1), 0.25)
    # 0.2 * 0.25 + 1 * 0.75 = 0.8
    assert torch.allclose(composite_over(image, alpha), torch.full((3, 1, 1), 0.8))
    assert composite_over(image, None) is image


def test_area_of_a_whole_ratio_is_the_block_mean() -> None:
    image = torch.rand(3, 8, 12)
    resized, alpha = resize_area(image, 4, 3)
    assert alpha is None
    assert torch.allclose(resized, image.reshape(3, 4, 2, 3, 4).mean(dim=(2, 4)), atol=1e-6)


def test_area_of_a_broken_ratio() -> None:
    # Three pixels to two: each new pixel is 1.5 wide, so (a + b / 2) / 1.5 and (b / 2 + c) / 1.5.
    image = torch.tensor([0.3, 0.6, 0.9]).reshape(1, 1, 3)
    resized, _ = resize_area(image, 1, 2)
    assert torch.allclose(resized.flatten(), torch.tensor([0.6 / 1.5, 1.2 / 1.5]))


def test_mean_is_kept_when_shrinking() -> None:
    image = torch.rand(3, 37, 23)
    resized, _ = resize_area(image, 10, 7)
    assert torch.allclose(resized.mean(dim=(1, 2)), image.mean(dim=(1, 2)), atol=1e-6)


def test_growing_is_linear_and_keeps_constants() -> None:
    # New centres 0.25, 0.75, 1.25, 1.75 between old centres 0.5 and 1.5; the ends take the end pixel.
    resized, _ = resize_area(torch.tensor([0.0, 1.0]).reshape(1, 1, 2), 1, 4)
    assert torch.allclose(resized.flatten(), torch.tensor([0.0, 0.25, 0.75, 1.0]))
    constant, _ = resize_area(torch.full((3, 5, 7), 0.4), 11, 9)
    assert torch.allclose(constant, torch.full((3, 11, 9), 0.4))


def test_hidden_colour_does_not_bleed() -> None:
    # A visible white pixel beside a hidden black one: the mean colour is white, the mean alpha 1/2.
    image = torch.tensor([1.0, 0.0]).reshape(1, 1, 2).expand(3, 1, 2)
    alpha = torch.tensor([1.0, 0.0]).reshape(1, 1, 2)
    resized, coverage = resize_area(image, 1, 1, alpha)
    assert coverage is not None
    assert resized.flatten().tolist() == [1.0, 1.0, 1.0]
    assert coverage.item() == 0.5


def test_premultiplied_identity() -> None:
    # Compositing commutes with averaging only if colour was weighed by alpha.
    image, alpha = torch.rand(3, 8, 8), torch.rand(1, 8, 8)
    resized, coverage = resize_area(image, 4, 4, alpha)
    first, _ = resize_area(composite_over(image, alpha, 0.3), 4, 4)
    assert torch.allclose(composite_over(resized, coverage, 0.3), first, atol=1e-5)


def test_equal_size_is_untouched() -> None:
    image, alpha = torch.rand(3, 4, 4), torch.zeros(1, 4, 4)
    same, same_alpha = resize_area(image, 4, 4, alpha)
    assert same is image
    assert same_alpha is alpha


def test_pad_and_crop() -> None:
    image = torch.zeros(3, 2, 5)
    padded, alpha = pad_square(image, torch.ones(1, 2, 5), background=0.5)
    assert padded.shape == (3, 5, 5)
    # Three rows to add: one above, two below.
    assert padded[0, :, 0].tolist() == [0.5, 0.0, 0.0, 0.5, 0.5]
    assert alpha is not None
    assert alpha[0, :, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    cropped, _ = crop_square(torch.arange(10.0).reshape(1, 2, 5), None)
    assert cropped.tolist() == [[[1.0, 2.0], [6.0, 7.0]]]


def test_frame_centres_the_object_and_fills_the_part_asked_for() -> None:
    # A box of 20 x 10 pixels, off centre; with fill 0.5 and 40 pixels its longer side must become 20.
    image, alpha = torch.full((3, 64, 64), 0.7), torch.zeros(1, 64, 64)
    alpha[:, 40:60, 5:15] = 1
    framed, mask = frame_by_mask(image, alpha, 40, fill=0.5)
    inside = mask[0] > 0.5
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (10, 29)
    assert (columns.min().item(), columns.max().item()) == (15, 24)
    assert torch.allclose(framed[:, inside], torch.tensor(0.7))


def test_frame_reaches_beyond_the_image() -> None:
    # An object that fills its image: beyond the border alpha is 0.
    _, mask = frame_by_mask(torch.ones(3, 16, 16), torch.ones(1, 16, 16), 32, fill=0.5)
    assert mask[0, 16, 16] == 1
    assert mask[0, :4].max() == 0
    # Area is kept up to the soft edge: half the side, so a quarter of the frame.
    assert abs(mask.mean().item() - 0.25) < 0.01


def test_faint_halo_does_not_shrink_the_object() -> None:
    alpha = torch.full((1, 32, 32), 0.05)
    alpha[:, 8:24, 8:24] = 1
    _, mask = frame_by_mask(torch.ones(3, 32, 32), alpha, 32, fill=0.5)
    assert torch.allclose(mask[:, 8:24, 8:24], torch.ones(1, 16, 16))


def test_training_fill_is_the_papers_rig() -> None:
    # K = 280 at 256 pixels for 35 mm on 32 mm: a length of 1 at distance 1.5 covers 280 / 1.5 pixels.
    assert pytest.approx(280 / 1.5 / 256) == TRAINING_FILL


def test_frame_refuses_an_empty_mask() -> None:
    with pytest.raises(InputError, match="mask: is empty"):
        frame_by_mask(torch.ones(3, 8, 8), torch.zeros(1, 8, 8), 8)
