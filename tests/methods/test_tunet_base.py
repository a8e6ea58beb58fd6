"""The diffusion base: ours by class, Stable Diffusion's by words, asked in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from tiny_dimvis import CHANNELS
from tiny_text import write_tiny_text_model
from tiny_tunet import tiny_base
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.tunet.base import (
    BaseNoise,
    base_class,
    base_forward,
    build_base,
    count_classes,
    embed_words,
    load_base,
)
from manyview.methods.tunet.networks import stable_diffusion_parts
from manyview.nets.autoencoder import build_autoencoder
from manyview.sampling.inversion import Levels, even_timesteps, invert, sample

TIME = torch.tensor(300)


def latents(count: int = 3, cells: int = 2) -> torch.Tensor:
    return torch.randn(count, CHANNELS, cells, cells, generator=torch.Generator().manual_seed(3))


def test_sizes() -> None:
    with torch.device("meta"):
        compact, paper = build_base(num_classes=7), build_base("paper", latent_channels=4)
    assert 1.8e6 < sum(one.numel() for one in compact.parameters()) < 2.1e6
    assert isinstance(paper, UNet2DConditionModel)
    assert sum(one.numel() for one in paper.parameters()) == 859_520_964  # Stable Diffusion 1
    assert count_classes(compact) == 7
    assert count_classes(paper) == 0


@torch.no_grad()
def test_no_class_is_the_unknown_class() -> None:
    base = tiny_base(num_classes=2)
    x = latents()
    answers = [base_forward(base, x, TIME, torch.full((3,), number)) for number in range(3)]
    assert float((answers[0] - answers[1]).abs().max()) > 1e-3
    assert_close(base_forward(base, x, TIME), answers[2])
    assert_close(BaseNoise(base)(x, TIME), answers[2])


@torch.no_grad()
def test_rows_are_bound_apart() -> None:
    base, x = tiny_base(), latents()
    bound = BaseNoise(base, class_ids=torch.tensor([0, 1, 2]))
    chosen = torch.tensor([2, 0, 0])
    assert_close(bound.rows(chosen)(x[chosen], TIME), bound(x, TIME)[chosen], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_answers_in_the_latents_type() -> None:
    base = tiny_base().to(torch.bfloat16)
    assert BaseNoise(base)(latents(), TIME).dtype == torch.float32


@torch.no_grad()
def test_words_guide_as_asked(tmp_path: Path) -> None:
    parts = stable_diffusion_parts(write_tiny_text_model(tmp_path / "sd"))
    base, x = parts["base"].eval(), latents(cells=8)
    plain, told = (embed_words(parts["tokenizer"], parts["text_encoder"], text) for text in ("", "red"))
    assert plain.shape == told.shape
    with pytest.raises(InputError, match="prompt"):
        base_forward(base, x, TIME)
    free, bound = (BaseNoise(base, context=words)(x, TIME) for words in (plain, told))
    assert float((free - bound).abs().max()) > 1e-5
    guided = BaseNoise(base, context=told, without=plain, guidance=3.0)(x, TIME)
    assert_close(guided, free + 3 * (bound - free), rtol=1e-4, atol=1e-4)
    once = BaseNoise(base, context=told, without=plain, guidance=1.0)(x, TIME)
    assert_close(once, bound)


@torch.no_grad()
def test_a_base_of_stable_diffusion_is_inverted_by_the_same_code(tmp_path: Path) -> None:
    parts = stable_diffusion_parts(write_tiny_text_model(tmp_path / "sd"))
    network = parts["base"].eval()
    network.conv_out.weight.mul_(0.2)  # random weights are rougher than learned ones
    base = BaseNoise(network, context=embed_words(parts["tokenizer"], parts["text_encoder"], ""))
    levels, x = Levels.of(parts["scheduler"], even_timesteps(600, 6)), latents(cells=8)
    assert levels.clean_alpha == pytest.approx(float(parts["scheduler"].final_alpha_cumprod))
    errors = []
    for refinements in (0, 8):
        found = invert(x, base, levels, refinements=refinements).latents[-1]
        errors.append(float((sample(found, base, levels) - x).abs().max()))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]


def test_loads_either_class_and_no_other(tmp_path: Path) -> None:
    tiny_base().save_pretrained(tmp_path / "ours")
    write_tiny_text_model(tmp_path / "sd")
    build_autoencoder(latent_channels=CHANNELS).save_pretrained(tmp_path / "codec")
    assert isinstance(load_base(tmp_path / "ours"), UNet2DModel)
    assert isinstance(load_base(tmp_path / "sd" / "unet"), UNet2DConditionModel)
    assert base_class(tmp_path / "codec") == AutoencoderKL.__name__
    assert base_class(tmp_path / "nothing") == ""
    for name in ("codec", "nothing"):
        with pytest.raises(InputError, match="UNet2DModel"):
            load_base(tmp_path / name)
