"""Perceptual distances: how differently two images excite a network trained on photographs.

Both are LPIPS (Zhang et al. 2018, eq. 1) with published weights, from 0 (equal) up; smaller is better:
`stlpips_vgg` and `stlpips_alex` are the shift-tolerant form (Ghildyal and Liu 2022), whose weights the
optional package stlpips-pytorch carries (`pip install "manyview[bench]"`); `lpips_vgg` is the original,
version 0.1, for which the user gives the two weight files. The numbers of different names cannot be
compared with each other. What cannot be computed comes back as `Skipped` with the reason, never as a
number.

The distance is d = sum over stages of the mean over pixels of sum_c w_c (x_c / |x| - y_c / |y|)^2 with w >=
0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.metrics.backbones import (
    Backbone,
    assign_convolutions,
    build_shift_tolerant_alexnet,
    build_vgg16,
)
from manyview.metrics.report import Skipped

STLPIPS_SHA256 = {
    "alex": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}
"""Of the weight files in stlpips-pytorch 0.0.2 (BSD 2-clause); others are not loaded."""
VGG16_VARIABLE = "MANYVIEW_VGG16"
HEADS_VARIABLE = "MANYVIEW_LPIPS_VGG_HEADS"
_MINIMUM_SIDE = {"alex": 32, "vgg": 32}
_CHUNK = 8


class PerceptualDistance(nn.Module):
    """LPIPS with a given backbone and one weight a channel."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone, heads: list[Tensor], minimum_side: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.minimum_side = minimum_side
        self.heads = nn.ParameterList([nn.Parameter(head.reshape(1, -1, 1, 1)) for head in heads])
        # The ImageNet mean and deviation, moved to images in [-1, 1] and rounded as the published weights
        # expect.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """[N] distances of images [N, 3, H, W] in [0, 1]; differentiable in both."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape != targets.shape:
            shapes = f"{tuple(images.shape)} and {tuple(targets.shape)}"
            raise InputError("images, targets", shapes, "expected two [N, 3, H, W] of one shape")
        if min(images.shape[-2:]) < self.minimum_side:
            side = self.minimum_side
            raise InputError("images", tuple(images.shape), f"expected at least {side} x {side} pixels")
        parts = [
            self._distance(a, b) for a, b in zip(images.split(_CHUNK), targets.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts) if parts else images.new_zeros(0)

    def _distance(self, images: Tensor, targets: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        features = (self.backbone((2 * x - 1 - self.shift) / self.scale) for x in (images, targets))
        for x, y, head in zip(*features, self.heads, strict=True):
            total = total + ((_unit(x) - _unit(y)).square() * head).sum(dim=1).mean(dim=(1, 2))
        return total


def stlpips_vgg(images: Tensor, targets: Tensor) -> Tensor | Skipped:
    """[N] shift-tolerant LPIPS on VGG16; images [N, 3, H, W] in [0, 1], at least 32 pixels a side."""
    return _measure(load_stlpips("vgg"), images, targets)


def stlpips_alex(images: Tensor, targets: Tensor) -> Tensor | Skipped:
    """[N] shift-tolerant LPIPS on AlexNet; images [N, 3, H, W] in [0, 1], at least 32 pixels a side."""
    return _measure(load_stlpips("alex"), images, targets)


def lpips_vgg(
    images: Tensor,
    targets: Tensor,
    *,
    vgg16: str | os.PathLike[str] | None = None,
    heads: str | os.PathLike[str] | None = None,
) -> Tensor | Skipped:
    """[N] LPIPS 0.1 on VGG16, with the two local files of `load_lpips_vgg`; images [N, 3, H, W] in [0, 1]."""
    return _measure(load_lpips_vgg(vgg16, heads), images, targets)


@lru_cache(maxsize=2)
def load_stlpips(net: Literal["vgg", "alex"]) -> PerceptualDistance | Skipped:
    """The shift-tolerant LPIPS with the weights inside the installed stlpips-pytorch, whose code is not
    run."""
    # find_spec on a top-level name does not import it (the package itself needs torchvision).
    spec = importlib.util.find_spec("stlpips_pytorch")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    if not folders:
        return Skipped('needs the weights in stlpips-pytorch: pip install "manyview[bench]"')
    path = Path(folders[0]) / "weights" / "vST0.0" / f"{net}_shift_tolerant.pth"
    if not path.is_file():
        return Skipped(f"the installed stlpips-pytorch has no {path.name}; expected version 0.0.2")
    if hashlib.sha256(path.read_bytes()).hexdigest() != STLPIPS_SHA256[net]:
        return Skipped(f"{path.name} is not the file of stlpips-pytorch 0.0.2 (sha256 differs)")
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone = build_vgg16(shift_tolerant=True) if net == "vgg" else build_shift_tolerant_alexnet()
    assign_convolutions(backbone, {key: value for key, value in state.items() if key.startswith("net.")})
    return PerceptualDistance(backbone, _heads_of(state, backbone), _MINIMUM_SIDE[net])


def load_lpips_vgg(
    vgg16: str | os.PathLike[str] | None = None, heads: str | os.PathLike[str] | None = None
) -> PerceptualDistance | Skipped:
    """LPIPS 0.1 on VGG16 from local files (state dicts, .pth or .safetensors).

    `vgg16`: torchvision's ImageNet VGG16, whole or its `features`; else the file named by MANYVIEW_VGG16.
    `heads`: the linear layers `lin0..4` published with LPIPS (vgg.pth); else MANYVIEW_LPIPS_VGG_HEADS, else
    those in an installed `lpips` package, whose code is not run. `Skipped` where one is not given;
    `InputError` where a given one does not fit.
    """
    vgg16 = vgg16 or os.environ.get(VGG16_VARIABLE)
    heads = heads or os.environ.get(HEADS_VARIABLE) or _installed_heads()
    if not vgg16:
        return Skipped(f"needs torchvision's VGG16 weights: set {VGG16_VARIABLE} to the file")
    if not heads:
        return Skipped(f"needs the LPIPS 0.1 heads (vgg.pth): set {HEADS_VARIABLE} to the file")
    # Read again for another path or a changed file only.
    files = [Path(vgg16), Path(heads)]
    for name, path in zip((VGG16_VARIABLE, HEADS_VARIABLE), files, strict=True):
        if not path.is_file():
            raise InputError(name, str(path), "expected an existing weight file")
    return _load_lpips_vgg(files[0], files[1], tuple(path.stat().st_mtime_ns for path in files))


@lru_cache(maxsize=1)
def _load_lpips_vgg(vgg16: Path, heads: Path, _changed: tuple[int, ...]) -> PerceptualDistance:
    backbone = build_vgg16(shift_tolerant=False)
    try:
        assign_convolutions(backbone, _read_state(vgg16, VGG16_VARIABLE))
    except ValueError as error:
        raise InputError(VGG16_VARIABLE, str(vgg16), f"expected VGG16's weights: {error}") from None
    state = _read_state(heads, HEADS_VARIABLE)
    try:
        return PerceptualDistance(backbone, _heads_of(state, backbone), 16)
    except ValueError as error:
        raise InputError(HEADS_VARIABLE, str(heads), f"expected LPIPS 0.1 heads: {error}") from None


def _measure(metric: PerceptualDistance | Skipped, images: Tensor, targets: Tensor) -> Tensor | Skipped:
    if isinstance(metric, Skipped):
        return metric
    with torch.no_grad():
        return metric.to(images.device)(images.float(), targets.float())


def _unit(features: Tensor) -> Tensor:
    """Each pixel's feature vector divided by its length."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _heads_of(state: dict[str, Tensor], backbone: Backbone) -> list[Tensor]:
    """The weights `lin0..4`, one a stage. Raises `ValueError` where they do not fit."""
    heads = []
    for stage, width in enumerate(backbone.widths):
        found = state.get(f"lin{stage}.model.1.weight")
        if found is None or found.numel() != width:
            raise ValueError(f"lin{stage}.model.1.weight of {width} numbers is missing")
        heads.append(found.detach().clone())
    return heads


def _installed_heads() -> Path | None:
    spec = importlib.util.find_spec("lpips")
    for folder in [] if spec is None else list(spec.submodule_search_locations or []):
        path = Path(folder) / "weights" / "v0.1" / "vgg.pth"
        if path.is_file():
            return path
    return None


def _read_state(path: Path, argument: str) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(argument, str(path), f"broken safetensors file ({error})") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise InputError(argument, str(path), "expected a file of tensors (.pth, .safetensors)") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(argument, str(path), "expected a state dict: names to tensors")
    return state
