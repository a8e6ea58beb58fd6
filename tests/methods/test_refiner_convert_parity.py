"""The published generator's tensors in an official pickle, converted: the published images come out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from official_pickle import write_official
from safetensors.torch import load_file
from torch.testing import assert_close

from manyview.methods.refiner.convert import convert_checkpoints
from manyview.methods.refiner.stylegan_names import generator_sizes
from manyview.nets.stylegan2.generator import StyleGAN2Generator

STORED = Path(__file__).parents[2].parent / "shared" / "goldens" / "stylegan2.safetensors"


@pytest.mark.parity
@pytest.mark.skipif(not STORED.is_file(), reason="no reference tensors beside the checkout")
def test_a_converted_pickle_makes_the_published_images(tmp_path: Path) -> None:
    stored = load_file(STORED)
    weights = {name[2:]: value for name, value in stored.items() if name.startswith("G.")}
    with torch.device("meta"):
        empty = StyleGAN2Generator(**generator_sizes(weights))
    write_official(tmp_path / "network.pkl", empty, tensors=weights)
    folders = convert_checkpoints([tmp_path / "network.pkl"], tmp_path / "out")
    generator = StyleGAN2Generator.from_pretrained(folders["generator"])
    with torch.no_grad():
        images = generator(stored["in.z"], truncation=0.7)
    assert_close(images, stored["out.img_psi07"], atol=1e-4, rtol=0)
