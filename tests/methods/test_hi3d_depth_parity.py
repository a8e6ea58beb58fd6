"""The depth condition against the published code's own tensors (a linear toy stood in for MiDaS there)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from manyview.methods.hi3d.depth import DepthOptions, PhotoDepth, depth_channels, resize_frames

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"
RELEASED = DepthOptions(normalize="frame", channels=9)

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not (GOLDENS / "hi3d_numerics.safetensors").is_file(),
        reason="no reference tensors beside the checkout",
    ),
]
EXACT = {"atol": 1e-5, "rtol": 1e-5}


class ToyDepth(nn.Module):
    """3 (0.9 R - 0.4 G + 0.2 B) + 5 of what it is shown, as the reference's stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.9, -0.4, 0.2]))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        mixed = (pixel_values * self.weights[:, None, None]).sum(dim=1)
        return SimpleNamespace(predicted_depth=3 * mixed + 5)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(GOLDENS / "hi3d_numerics.safetensors")


def test_frames_are_shown_in_the_released_size(reference: dict[str, Tensor]) -> None:
    model = PhotoDepth(ToyDepth())
    side = model.picture_side(reference["in.depth_frames"].shape[-1])
    assert side == 32
    found = resize_frames(reference["in.depth_frames"], side)
    assert_close(found, reference["out.depth.net_input"], **EXACT)


def test_raw_depth(reference: dict[str, Tensor]) -> None:
    frames = reference["in.depth_frames"] / 2 + 0.5
    assert_close(PhotoDepth(ToyDepth()).estimate(frames), reference["out.depth.raw"], **EXACT)


def test_channels(reference: dict[str, Tensor]) -> None:
    expected = reference["out.depth.cond"]
    found = depth_channels(reference["out.depth.raw"], *expected.shape[-2:], RELEASED)
    assert_close(found, expected, **EXACT)
    # From frames to channels in one go.
    raw = PhotoDepth(ToyDepth()).estimate(reference["in.depth_frames"] / 2 + 0.5)
    assert_close(depth_channels(raw, *expected.shape[-2:], RELEASED), expected, **EXACT)
