"""Perceptual distances: agreement with the published implementations, and words where they cannot be
computed."""

from __future__ import annotations

import importlib.util
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from manyview.errors import InputError
from manyview.metrics import Skipped, load_stlpips, lpips_vgg, perceptual, stlpips_alex, stlpips_vgg
from manyview.metrics.backbones import VGG16_WIDTHS, BlurPool, build_shift_tolerant_alexnet, build_vgg16

needs_stlpips = pytest.mark.skipif(
    importlib.util.find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed"
)


def waves(phase: float, height: int = 48, width: int = 64) -> torch.Tensor:
    """[1, 3, H, W]: a plane wave a colour, of another direction each."""
    v = torch.linspace(0, 1, height)[:, None]
    u = torch.linspace(0, 1, width)
    planes = [torch.sin(2 * math.pi * ((c + 1) * u + (3 - c) * v) + phase) for c in range(3)]
    return 0.5 + 0.5 * torch.stack(planes)[None]


@needs_stlpips
def test_agrees_with_the_published_code() -> None:
    # The numbers came from the class in stlpips-pytorch 0.0.2 itself (net "vgg" and "alex", variant
    # "shift_tolerant", normalize=True), run once with stand-ins for its torchvision and IPython imports.
    first = waves(0.0)
    images = torch.cat((first, first))
    targets = torch.cat((waves(0.7), (first * 4).round() / 4))
    vgg, alex = stlpips_vgg(images, targets), stlpips_alex(images, targets)
    assert isinstance(vgg, torch.Tensor)
    assert isinstance(alex, torch.Tensor)
    assert vgg.tolist() == pytest.approx([0.0942865, 0.2294108], abs=1e-6)
    assert alex.tolist() == pytest.approx([0.0354595, 0.0016550], abs=1e-6)


@needs_stlpips
def test_is_a_distance() -> None:
    metric = load_stlpips("alex")
    assert isinstance(metric, perceptual.PerceptualDistance)
    a, b = waves(0.0, 32, 32), waves(1.0, 32, 32)
    assert metric(a, a).item() == 0
    assert metric(a, b).item() > 0
    assert torch.equal(metric(a, b), metric(b, a))
    assert min(float(head.min()) for head in metric.heads) >= 0
    # Ten images, more than one chunk: each as if it were alone.
    many = torch.cat([waves(0.1 * index, 32, 32) for index in range(10)])
    together = metric(many, a.expand(10, -1, -1, -1))
    assert together[9].item() == pytest.approx(metric(many[9:], a).item(), rel=1e-5)


@needs_stlpips
def test_gradient_reaches_the_images() -> None:
    metric = load_stlpips("alex")
    assert isinstance(metric, perceptual.PerceptualDistance)
    image = waves(0.0, 32, 32).requires_grad_()
    metric(image, waves(1.0, 32, 32)).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0


@needs_stlpips
def test_bad_images() -> None:
    with pytest.raises(InputError, match="at least 32 x 32"):
        stlpips_vgg(torch.zeros(1, 3, 31, 40), torch.zeros(1, 3, 31, 40))
    with pytest.raises(InputError, match="one shape"):
        stlpips_vgg(torch.zeros(1, 3, 32, 40), torch.zeros(1, 3, 40, 32))


def test_absent_package_is_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_stlpips.cache_clear()
    answer = stlpips_vgg(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    load_stlpips.cache_clear()
    assert isinstance(answer, Skipped)
    assert "manyview[bench]" in answer.reason


def test_foreign_weights_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A package of that name with another file, which would run code if it were unpickled carelessly.
    folder = tmp_path / "weights" / "vST0.0"
    folder.mkdir(parents=True)
    (folder / "vgg_shift_tolerant.pth").write_bytes(b"other weights")
    spec = ModuleSpec("stlpips_pytorch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    load_stlpips.cache_clear()
    vgg, alex = load_stlpips("vgg"), load_stlpips("alex")
    load_stlpips.cache_clear()
    assert isinstance(vgg, Skipped)
    assert "sha256 differs" in vgg.reason
    assert isinstance(alex, Skipped)
    assert "has no alex_shift_tolerant.pth" in alex.reason


@needs_stlpips
def test_the_package_is_not_imported() -> None:
    load_stlpips("alex")
    assert "stlpips_pytorch" not in sys.modules


def small_weights(folder: Path) -> tuple[Path, Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """VGG16's real layout with random numbers, as torchvision names it, and LPIPS heads."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    number, channels = 0, 3
    for widths in VGG16_WIDTHS:
        for width in widths:
            scale = (2 / (9 * channels)) ** 0.5
            state[f"features.{number}.weight"] = scale * torch.randn(
                width, channels, 3, 3, generator=generator
            )
            state[f"features.{number}.bias"] = 0.1 * torch.randn(width, generator=generator)
            number, channels = number + 2, width
        number += 1
    state["classifier.6.weight"] = torch.zeros(10, 4)
    heads = {
        f"lin{stage}.model.1.weight": torch.rand(1, widths[-1], 1, 1, generator=generator)
        for stage, widths in enumerate(VGG16_WIDTHS)
    }
    torch.save(heads, folder / "heads.pth")
    # Safetensors gives the names back in alphabetical order: features.10 before features.2.
    save_file(state, folder / "vgg16.safetensors")
    return folder / "vgg16.safetensors", folder / "heads.pth", state, heads


def plain_lpips(
    x: torch.Tensor, y: torch.Tensor, state: dict[str, torch.Tensor], heads: dict[str, torch.Tensor]
) -> torch.Tensor:
    """LPIPS on VGG16 straight from its definition, with torchvision's layer numbers written out."""
    stages = [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    a, b = (2 * x - 1 - shift) / scale, (2 * y - 1 - shift) / scale
    total = torch.zeros(len(x))
    for stage, numbers in enumerate(stages):
        if stage > 0:
            a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
        for number in numbers:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            a, b = (F.relu(F.conv2d(z, weight, bias, padding=1)) for z in (a, b))
        difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
        total = total + F.conv2d(difference, heads[f"lin{stage}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total


def test_lpips_vgg_from_local_files(tmp_path: Path) -> None:
    vgg16, head_file, state, heads = small_weights(tmp_path)
    x, y = waves(0.0, 32, 40), waves(0.9, 32, 40)
    answer = lpips_vgg(x, y, vgg16=vgg16, heads=head_file)
    assert isinstance(answer, torch.Tensor)
    assert torch.allclose(answer, plain_lpips(x, y, state, heads), rtol=1e-4)


def test_lpips_vgg_without_weights_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(perceptual.VGG16_VARIABLE, raising=False)
    answer = lpips_vgg(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    assert isinstance(answer, Skipped)
    assert perceptual.VGG16_VARIABLE in answer.reason


def test_lpips_vgg_refuses_files_that_do_not_fit(tmp_path: Path) -> None:
    vgg16, heads, state, _ = small_weights(tmp_path)
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match=r"MANYVIEW_VGG16: .*expected an existing weight file"):
        lpips_vgg(images, images, vgg16=tmp_path / "absent.pth", heads=heads)
    with pytest.raises(InputError, match=r"MANYVIEW_LPIPS_VGG_HEADS: .*lin0"):
        lpips_vgg(images, images, vgg16=vgg16, heads=vgg16)
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(InputError, match="expected a file of tensors"):
        lpips_vgg(images, images, vgg16=tmp_path / "text.pth", heads=heads)
    del state["features.28.weight"], state["features.28.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="12 convolutions, expected 13"):
        lpips_vgg(images, images, vgg16=tmp_path / "short.safetensors", heads=heads)


def test_blur_keeps_constants_and_halves() -> None:
    blurred = BlurPool()(torch.full((1, 2, 9, 12), 0.3))
    assert blurred.shape == (1, 2, 6, 7)
    assert torch.allclose(blurred, torch.tensor(0.3))
    # One pixel of 16 in the middle: the binomial weights 1 2 1 x 1 2 1, every second one.
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 16
    # Window i covers rows 2 i - 2 to 2 i of the image, so row 4 is the last of window 2 and the first of
    # window 3.
    expected = torch.zeros(6, 6)
    expected[2:4, 2:4] = 1
    assert torch.equal(BlurPool()(point)[0, 0], expected)


def test_backbone_sizes() -> None:
    # VGG16's convolutions hold 14,714,688 numbers, AlexNet's 2,469,696.
    assert sum(p.numel() for p in build_vgg16(shift_tolerant=False).parameters()) == 14_714_688
    assert sum(p.numel() for p in build_shift_tolerant_alexnet().parameters()) == 2_469_696
