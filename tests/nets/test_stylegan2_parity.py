"""StyleGAN2 against tensors of the published code. They lie beside the checkout and never in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from manyview.methods.refiner.stylegan_names import (
    FILTER,
    generator_sizes,
    published_discriminator_names,
    published_names,
)
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.generator import StyleGAN2Generator

STORED = Path(__file__).parents[2].parent / "shared" / "goldens" / "stylegan2.safetensors"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not STORED.is_file(), reason="no reference tensors beside the checkout"),
]
IMAGE = {"atol": 1e-4, "rtol": 0}
CODE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(STORED)


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in stored.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def generator(stored: dict[str, Tensor]) -> StyleGAN2Generator:
    weights = part(stored, "G.")
    generator = StyleGAN2Generator(**generator_sizes(weights))
    names = published_names(generator)
    assert set(names.values()) == {name for name in weights if not name.endswith(FILTER)}
    generator.load_state_dict({own: weights[theirs] for own, theirs in names.items()})
    return generator.eval()


@pytest.fixture(scope="module")
def discriminator(stored: dict[str, Tensor]) -> StyleGAN2Discriminator:
    weights = part(stored, "D.")
    discriminator = StyleGAN2Discriminator(resolution=32, channel_base=512, channel_max=32)
    names = published_discriminator_names(discriminator)
    assert set(names.values()) == {name for name in weights if not name.endswith(FILTER)}
    discriminator.load_state_dict({own: weights[theirs] for own, theirs in names.items()})
    return discriminator.eval()


def test_codes(stored: dict[str, Tensor], generator: StyleGAN2Generator) -> None:
    z = stored["in.z"]
    assert generator.num_ws == 8
    assert_close(generator.map(z), stored["out.w_psi1"], **CODE)
    assert_close(generator.map(z, truncation=0.7), stored["out.w_psi07"], **CODE)
    cut = generator.map(z, truncation=0.7, truncation_layers=4)
    assert_close(cut, stored["out.w_psi07_cutoff4"], **CODE)


def test_images_and_features(stored: dict[str, Tensor], generator: StyleGAN2Generator) -> None:
    codes = stored["out.w_psi1"]
    images, features = generator.synthesize_with_features(codes, [16])
    assert_close(images, stored["out.img_psi1"], **IMAGE)
    assert_close(features[16], stored["out.b16_x"], **IMAGE)
    assert_close(generator.synthesize(stored["out.w_psi07"]), stored["out.img_psi07"], **IMAGE)
    assert_close(generator.synthesize(codes, noise="none"), stored["out.img_psi1_nonoise"], **IMAGE)
    assert_close(generator(stored["in.z"]), stored["out.img_psi1"], **IMAGE)


def test_logits_and_their_gradient(stored: dict[str, Tensor], discriminator: StyleGAN2Discriminator) -> None:
    images = stored["in.d_img"].clone().requires_grad_()
    logits = discriminator(images)
    assert_close(logits, stored["out.d_logits_in"], **IMAGE)
    assert_close(discriminator(images[:4]), stored["out.d_logits_in_first4"], **IMAGE)
    assert_close(discriminator(stored["out.img_psi1"]), stored["out.d_logits_fake"], **IMAGE)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert_close(gradient, stored["out.d_grad_img"], atol=1e-6, rtol=0)
