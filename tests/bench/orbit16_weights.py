"""Hi3D at toy size with orbits of 16, on disk as a bundle, and a refinement whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from manyview.bench.orbit16_options import Orbit16Options
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.noise_levels import build_scheduler
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.types import Views
from manyview.weights import write_bundle

sys.path.append(str(Path(__file__).parents[1] / "methods"))

from tiny_dimvis import CHANNELS, codec_and_encoder, spread_weights
from tiny_hi3d import tiny_unet

SIZE = 16


def tiny_pipeline(**changes: Any) -> Hi3dPipeline:
    """Coarse orbits of 16 views at 16 px, two steps; no refiner unless asked for."""
    torch.manual_seed(0)
    codec, encoder = codec_and_encoder()
    spread_weights(codec)
    return Hi3dPipeline(
        vae=codec.eval(),
        image_encoder=encoder.eval(),
        unet=tiny_unet(closed=True, num_frames=16),
        scheduler=build_scheduler(),
        **{"default_steps": 2, **changes},
    )


def tiny_refining(depth_channels: int = 9) -> Hi3dPipeline:
    """With a second stage to 32 px, of one step."""
    refiner = tiny_unet(2 * CHANNELS + depth_channels, closed=True, num_frames=16)
    torch.manual_seed(1)
    depth = DepthNet(size=16, widths=(8, 16)).eval()
    return tiny_pipeline(refiner=refiner, depth=depth if depth_channels else None, refine_steps=1)


def write_bundle_of(pipeline: Hi3dPipeline, folder: Path) -> Path:
    names = ("vae", "image_encoder", "unet", "scheduler")
    for name in names:
        getattr(pipeline, name).save_pretrained(folder / name)
    components = {name: name for name in names}
    settings = {"steps": 3, "guidance": [1.0, 1.5], "guidance_shape": "triangular"}
    write_bundle(folder, name="tiny", method="hi3d", licence="none", components=components, settings=settings)
    return folder


class Enlarging:
    """A second stage that enlarges bicubically; shown no depth it answers white."""

    size = 2 * SIZE
    reads_depth = True

    def __init__(self) -> None:
        self.options = {"power": 1}
        self.asked: list[tuple[int, bool]] = []

    def __call__(
        self, coarse: torch.Tensor, given: Views, elevation_deg: float, seed: int, sample: int, *, depth: bool
    ) -> torch.Tensor:
        assert elevation_deg == given_elevation(given)
        self.asked.append((sample, depth))
        larger = F.interpolate(coarse, (self.size, self.size), mode="bicubic", align_corners=False)
        return larger.clamp(0, 1) if depth else torch.ones_like(larger)


def given_elevation(given: Views) -> float:
    assert given.cameras is not None
    x, y, z = given.cameras.centers[0].tolist()
    return float(torch.rad2deg(torch.atan2(torch.tensor(z), torch.tensor((x * x + y * y) ** 0.5))))


def enlarge(pipeline: Hi3dPipeline, options: Orbit16Options) -> Enlarging:
    return Enlarging()
